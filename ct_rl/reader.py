"""One reader for every value that comes from outside: flags, recipes, experiments, and a run's files.

`read` makes a dataclass of plain data, as YAML and JSON give it. pydantic does the checking: types without guessing (a
text is no number, `true` is no number), finite numbers, whole numbers where whole ones belong, bounds by
annotated-types (`Annotated[int, Ge(1)]`), and no key that nobody reads.
"""

from __future__ import annotations

import math
import reprlib
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Annotated, Any, NotRequired, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Len
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ct_rl.errors import one_line, suggestion
from ct_rl.memory.options import as_tuple

Read = TypeVar("Read")
Where = tuple[str | int, ...]
LARGEST = 2**53  # whole numbers beyond are not what JSON and other readers take them for

_STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "none_required": "nothing",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "is too small: give {} or more"),
    "greater_than": ("gt", "is too small: give more than {}"),
    "less_than_equal": ("le", "is too large: give {} or less"),
    "less_than": ("lt", "is too large: give less than {}"),
}


class Invalid(ValueError):
    """Data that do not fit.

    Attributes:
        where: the keys that lead to the place.
        problem: what is wrong there, to stand behind the place's name.
        key: a key that nobody reads; None for other problems.
    """

    def __init__(self, where: Where, problem: str, key: str | None = None):
        super().__init__(f"{'.'.join(map(str, where))}: {problem}")
        self.where, self.problem, self.key = where, problem, key

    @property
    def line(self) -> str:
        """The problem with the name of its place, as a file's error says it."""
        place = ".".join(map(str, self.where))[:120]
        if self.key is not None:
            return self.problem.replace("unknown key", f"unknown key '{place}'", 1)
        return f"{place}: {self.problem}" if place else self.problem


def read(
    cls: type[Read], data: Any, sections: Mapping[str, type] | None = None, *, extra: str = "forbid"
) -> Read:
    """The dataclass `cls` of nested dicts; what is absent has its default.

    Args:
        sections: dataclasses of fields whose type is chosen by name, such as the memory's.
        extra: "forbid" refuses keys that no field has, "ignore" leaves them out (files with room for more).

    Raises:
        Invalid: for the first thing that does not fit.
    """
    chosen = tuple(sorted((sections or {}).items(), key=lambda item: item[0]))
    try:
        made: Any = cls
        plain = _adapter(made, chosen, extra).validate_python(data)
    except ValidationError as error:
        raise _invalid(error, cls, dict(chosen)) from None
    except RecursionError:
        raise Invalid((), "is nested too deeply") from None
    return _build(cls, plain, dict(chosen), ())


def plain(value: Any) -> Any:
    """Nested dataclasses as nested dicts."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    return value


def quoted(value: Any) -> str:
    """A value for a person, cut to a length that fits into a line."""
    return one_line(_SHORT.repr(value))


def shown(path: str) -> str:
    """A path for a person, in quotes, cut where it is longer than paths are."""
    return one_line(repr(path[:300]))


def plain_options(value: Any) -> dict[str, Any]:
    """Settings whose names and types another part knows: texts as keys, values that JSON can hold."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"expected `name: value` lines, not {quoted(value)}")
    for key, item in value.items():
        if not isinstance(key, str):
            raise ValueError(f"expected texts as names, not {quoted(key)}")
        _require_plain(key, item)
    return dict(value)


def _require_plain(name: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{name}: expected texts as names, not {quoted(key)}")
            _require_plain(f"{name}.{key}", item)
    elif isinstance(value, list):
        for item in value:
            _require_plain(name, item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={value} is not finite")
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise ValueError(
            f"{name}={quoted(value)}: expected a number, a text, true or false, a list or a section"
        )


Text = Annotated[str, Len(1, 4000)]
Options = Annotated[dict[str, Any], BeforeValidator(plain_options)]

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlist = _SHORT.maxdict = 4


def _whole(value: Any) -> Any:
    """2.0 is the whole number 2; one that no other reader keeps exact is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST:
        raise ValueError(f"is too large: give {LARGEST} or less")
    return value


def _strict_hint(hint: Any) -> Any:
    """A field's type as pydantic is to read it: whole numbers also where they are written 1e6 or 2.0."""
    if hint is int:
        return Annotated[int, BeforeValidator(_whole)]
    if get_origin(hint) is Annotated:
        inner, *more = get_args(hint)
        return Annotated[(_strict_hint(inner), *more)]  # type: ignore[return-value]
    if get_origin(hint) in (Union, types.UnionType):
        return Union[tuple(_strict_hint(one) for one in get_args(hint))]  # noqa: UP007
    if get_origin(hint) in (list, dict):
        return get_origin(hint)[tuple(_strict_hint(one) for one in get_args(hint))]
    if hint is tuple or get_origin(hint) is tuple:
        parts = tuple(one if one is ... else _strict_hint(one) for one in get_args(hint))
        return Annotated[tuple[parts] if parts else tuple, BeforeValidator(as_tuple)]  # type: ignore[valid-type]
    return hint


def _hints(cls: type, sections: Mapping[str, type]) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True) | dict(sections)


@cache
def _adapter(cls: Any, chosen: tuple[tuple[str, type], ...], extra: str) -> TypeAdapter[Any]:
    return TypeAdapter(_shape(cls, dict(chosen), extra))


def _shape(cls: type, sections: Mapping[str, type], extra: str) -> Any:
    """A TypedDict of the dataclass: pydantic reads it, and any field name is possible in it."""
    hints = _hints(cls, sections)
    items = {}
    for item in fields(cls):  # type: ignore[arg-type]
        hint = hints[item.name]
        nested = is_dataclass(hint)
        items[item.name] = _shape(hint, {}, extra) if nested else _strict_hint(hint)  # type: ignore[arg-type]
        if nested:  # an empty section in YAML
            items[item.name] = Annotated[
                items[item.name], BeforeValidator(lambda data: {} if data is None else data)
            ]
        if not _required(item):
            items[item.name] = NotRequired[items[item.name]]
    shape = TypedDict(cls.__name__, items)  # type: ignore[misc, operator]
    setattr(shape, "__pydantic_config__", {**_STRICT, "extra": extra})  # noqa: B010
    return shape


def _required(item: Any) -> bool:
    from dataclasses import MISSING

    return item.default is MISSING and item.default_factory is MISSING


def _build(
    cls: type[Read], data: Mapping[str, Any], sections: Mapping[str, type], at: Where
) -> Read:
    hints = _hints(cls, sections)
    values = {
        key: _build(hints[key], value, {}, (*at, key)) if is_dataclass(hints[key]) else value
        for key, value in data.items()
        if key in hints
    }
    for key, section in sections.items():
        values.setdefault(key, _build(section, {}, {}, (*at, key)))
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:  # what a dataclass says about its fields together
        raise Invalid(at, one_line(error)) from None


def _invalid(error: ValidationError, cls: type, sections: Mapping[str, type]) -> Invalid:
    first = error.errors(include_url=False)[0]
    kind, where, given = first["type"], tuple(first["loc"]), first["input"]
    context = first.get("ctx", {})
    if kind in ("extra_forbidden", "invalid_key"):
        *above, key = where
        known = _known(cls, sections, tuple(above))
        return Invalid(where, f"unknown key{suggestion(str(key), known)}", str(key))
    if where and where[-1] == "[key]":
        return Invalid(where[:-2], f"expected texts as names, not {quoted(given)}")
    return Invalid(where, _problem(kind, given, context, first["msg"]))


def _problem(kind: str, given: Any, context: Mapping[str, Any], message: str) -> str:
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{given:g} {words.format(f'{context[key]:g}')}" if key in context else message
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, not {quoted(given)}"
    if kind == "literal_error":
        known = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"expected one of {known}, not {quoted(given)}"
    if kind == "dict_type":
        return f"expected `name: value` lines, not {quoted(given)}"
    if kind == "finite_number":
        return f"{given} is not finite: give a number"
    if kind in ("string_too_short", "too_short"):
        return f"has {len(given)} of {context['min_length']} values" if given else "is empty"
    if kind in ("string_too_long", "too_long"):
        return f"is too long: at most {context['max_length']}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return one_line(context["error"])
    return f"{one_line(message)}, not {quoted(given)}"


def _known(cls: type, sections: Mapping[str, type], above: Where) -> list[str]:
    """The names of the fields at a place."""
    for part in above:
        hint = _hints(cls, sections).get(str(part))
        if not is_dataclass(hint):
            return []
        cls, sections = hint, {}  # type: ignore[assignment]
    return [item.name for item in fields(cls)]  # type: ignore[arg-type]
