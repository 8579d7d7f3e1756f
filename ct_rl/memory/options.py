"""A core's options: one frozen dataclass, in which each is declared once, with type, bounds, default and help."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import math
import numbers
import textwrap
import types
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

# Of feed-forward parts; `ct_rl.memory.activations` has them, and needs torch.
Activation = Literal["gelu", "relu", "swiglu"]


@dataclasses.dataclass(frozen=True)
class Of:
    """In an option's annotation: it does nothing where that other option is 0."""

    option: str


def check_options(title: str, cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of `cls` with the given ones in place of defaults, each of its type and within its bounds.

    Args:
        title: who owns them, such as "memory 'lstm'".

    Raises:
        ValueError: one line that names an option that does not exist and those that do, or a value and what is
            allowed.
    """
    known = [item.name for item in dataclasses.fields(cls)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(
                f"{title} has no option {name!r}{hint}: its options are {', '.join(known)}"
            )
    hints = _hints(cls) if given else {}
    for name, value in given.items():
        wanted = _unfit(hints.get(name, Any), value)
        if wanted is not None:
            raise ValueError(f"{title}: {name}={value!r}: expected {wanted}")
    listed = {key for key, hint in hints.items() if get_origin(hint) is tuple or hint is tuple}
    settings = cls(
        **{key: as_tuple(value) if key in listed else value for key, value in given.items()}
    )
    return {name: getattr(settings, name) for name in known}


def idle_options(cls: type, settings: Mapping[str, Any]) -> dict[str, str]:
    """The options of `cls` that do nothing with these settings, each with the other one that is 0 (`Of`)."""
    return {
        name: mark.option
        for name, hint in _hints(cls).items()
        for mark in getattr(hint, "__metadata__", ())
        if isinstance(mark, Of) and settings.get(mark.option) == 0
    }


def as_tuple(value: Any) -> Any:
    """Lists, within lists too, as tuples: YAML, JSON and flags have no other way to write one."""
    return tuple(map(as_tuple, value)) if isinstance(value, list) else value


def check_declared(what: str, name: str, options: Any, taken: Collection[str]) -> None:
    """Raises ValueError where `options` is no dataclass in which every field has a default that it would take itself.

    Args:
        taken: names that an option cannot have: whoever is given the options has them.
    """
    if not (isinstance(options, type) and dataclasses.is_dataclass(options)):
        raise ValueError(f"{what} {name!r} has options {options!r}: give a dataclass")
    hints = _hints(options)
    for item in dataclasses.fields(options):
        if item.name in taken:
            raise ValueError(
                f"{what} {name!r} has an option named {item.name!r}: give it another name"
            )
        default = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        if default is dataclasses.MISSING:
            raise ValueError(f"{what} {name!r}: option {item.name!r} has no default: give it one")
        wanted = _unfit(hints.get(item.name, Any), default)
        if wanted is not None:
            raise ValueError(
                f"{what} {name!r}: option {item.name!r} has the default {default!r}, which it would not take: "
                f"expected {wanted}"
            )


def _hints(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields; none where one is imported for type checkers alone."""
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError:
        return {}


def check_name(what: str, name: Any, cls: type, before: Any, built_in: Collection[str]) -> None:
    """Raises ValueError for what is no name, or is that of another class than `cls`.

    Args:
        before: the class that was registered as `name`, None for none; one made again by the same file may follow it,
            and any of a script or a notebook.
        built_in: names of this package's own.
    """
    if not isinstance(name, str) or not name or name != "".join(name.split()):
        raise ValueError(f"{what} {name!r}: expected a name without blanks")
    again = before is None or "__main__" in (before.__module__, cls.__module__)
    again = again or (before.__module__, before.__qualname__) == (cls.__module__, cls.__qualname__)
    if name in built_in or not again:
        raise ValueError(f"{what} {name!r} is there already: choose another name")


def option_help(cls: type) -> dict[str, str]:
    """What the string below each field of a dataclass says, by the field's name."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError, SyntaxError, ValueError):
            continue  # a class without source, typed in at a prompt
        if isinstance(body, ast.ClassDef):
            for field, below in zip(body.body, body.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    text = below.value if isinstance(below, ast.Expr) else None
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        texts[field.target.id] = inspect.cleandoc(text.value)
    return texts


def _unfit(hint: Any, value: Any) -> str | None:
    """What was expected, where a value does not fit a type hint; None where it does."""
    bounds: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        bounds = tuple(extra for extra in extras if isinstance(extra, Ge | Gt | Le | Lt))
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        if value is None and len(kinds) < len(get_args(hint)):
            return None
        answers = [_unfit(kind, value) for kind in kinds]
        return None if None in answers else " or ".join(answer for answer in answers if answer)
    if get_origin(hint) in (tuple, list, dict):
        return _unfit_inside(hint, value)
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        fits = any(value == choice and type(value) is type(choice) for choice in choices)
        return None if fits else "one of " + ", ".join(map(str, choices))
    fits = {
        int: isinstance(value, numbers.Integral) and not isinstance(value, bool),
        float: isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(value),
        bool: isinstance(value, bool),
        str: isinstance(value, str),
    }.get(hint, True)
    if fits and all(_within(bound, value) for bound in bounds):
        return None
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
    return " ".join([words.get(hint, str(hint)), *map(_said, bounds)])


def _unfit_inside(hint: Any, value: Any) -> str | None:
    """`_unfit` for a tuple, a list or a dict: what was expected of it, or of the first element that does not fit."""
    kind, parts = get_origin(hint), get_args(hint)
    inside: Iterable[tuple[Any, Any]]
    if not isinstance(value, Mapping if kind is dict else (tuple, list)):
        return str(hint)
    if isinstance(value, Mapping):
        inside = [pair for item in value.items() for pair in zip(parts, item, strict=True)]
    elif kind is list or parts[1:] == (...,):
        inside = [(parts[0], element) for element in value]
    elif len(parts) == len(value):
        inside = zip(parts, value, strict=True)
    else:
        return str(hint)
    answers = ((element, _unfit(part, element)) for part, element in inside)
    found = next(((element, answer) for element, answer in answers if answer is not None), None)
    return None if found is None else f"{hint}, and {found[0]!r} is not {found[1]}"


def _within(bound: Ge | Gt | Le | Lt, value: Any) -> bool:
    if isinstance(bound, Ge):
        return value >= bound.ge  # type: ignore[no-any-return,operator]
    if isinstance(bound, Gt):
        return value > bound.gt  # type: ignore[no-any-return,operator]
    if isinstance(bound, Le):
        return value <= bound.le  # type: ignore[no-any-return,operator]
    return value < bound.lt  # type: ignore[no-any-return,operator]


def _said(bound: Ge | Gt | Le | Lt) -> str:
    if isinstance(bound, Ge):
        return f"of at least {bound.ge}"
    if isinstance(bound, Gt):
        return f"above {bound.gt}"
    return f"and at most {bound.le}" if isinstance(bound, Le) else f"and below {bound.lt}"
