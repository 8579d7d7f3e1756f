"""The command line of dataclasses: tyro's flags and help, every value read as recipes are read, errors in one line.

Order of precedence: the dataclasses' defaults, then the recipe, then the flags.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from ct_rl.errors import UserError, nearest, one_line
from ct_rl.memory.options import option_help
from ct_rl.plain_files import scalar
from ct_rl.reader import Invalid, Where, plain, quoted, read
from ct_rl.sections import KIND

Config = TypeVar("Config")
_POSITIONAL = get_args(tyro.conf.Positional[int])[1]


def parse(
    cls: type[Config],
    argv: list[str],
    *,
    prog: str,
    default: Config | None = None,
    sections: Mapping[str, type] | None = None,
    foreign: Callable[[str], str | None] = lambda flag: None,
) -> Config:
    """The configuration that the flags give on top of `default`; raises UserError in one line.

    A flag that takes several values may be given again for more of them; of others the last one counts.
    `--help` prints and exits 0. A flag that nobody knows is named with the nearest known one.

    Args:
        sections: dataclasses of fields whose type is chosen by name (`ct_rl.sections`).
        foreign: a line about a flag that only another choice would have, None where it is none.
    """
    sections = sections or {}
    twin = _twin(cls, default, sections)
    argv = _gathered(argv, _take_several(cls, sections), _filled(cls, sections, default))
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed, unknown = tyro.cli(
                twin,
                args=argv,
                prog=prog,
                return_unknown_args=True,
                description=inspect.getdoc(cls) or "",
                add_help=True,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_from_box(complaint.getvalue(), prog)) from None
    if unknown:
        said = foreign(unknown[0].partition("=")[0])
        raise UserError(said or _unknown(unknown[0], list(_flags(cls, sections)), prog))
    given = _without_absent(plain(parsed))
    if default is not None:
        given = _keep_named(given, plain(default))
    try:
        return read(cls, given, sections)
    except Invalid as error:
        said = describe(error, cls, sections, given)
        more = f"; see python -m {prog} --help" if error.problem == "is missing" else ""
        raise UserError(said + more) from None


def describe(error: Invalid, cls: type, sections: Mapping[str, type], given: Any) -> str:
    """`--flag VALUE problem`: what is wrong with a value, by the flag that gives it."""
    names: dict[Where, str] = {}
    for name, where in _flags(cls, sections).items():
        names[where] = min(name, names.get(where, name), key=len)
    for length in range(len(error.where), 0, -1):
        flag = names.get(error.where[:length])
        if flag is not None:
            value = given
            for part in error.where[:length]:
                value = value.get(part) if isinstance(value, dict) else None
            inner = "".join(f" {part}:" for part in error.where[length:])
            return one_line(f"{flag}{_joined(value, inner, error.problem)}")
    place = ".".join(map(str, error.where))
    return one_line(f"--{place}: {error.problem}" if place else error.problem)


def _joined(value: Any, inner: str, problem: str) -> str:
    """The value where the problem does not name it, and the problem."""
    if isinstance(value, int | float) and problem.startswith(f"{value:g} "):
        return f" {problem}"
    if inner or value is None or isinstance(value, dict | list) or quoted(value) in problem:
        return f":{inner} {problem}"
    return f" {_show(value)[:80]}: {problem}"


def take_values(argv: Sequence[str], flag: str) -> list[str]:
    """The words behind every `--flag A B` and `--flag=A`, read before the other flags."""
    values: list[str] = []
    taking = False
    for word in argv:
        if word == flag:
            taking = True
        elif word.startswith(flag + "="):
            values.append(word.partition("=")[2])
            taking = False
        elif word.startswith("--"):
            taking = False
        elif taking:
            values.append(word)
    return values


def flag_value(argv: Sequence[str], flag: str) -> str | None:
    """The value of `--flag VALUE` or `--flag=VALUE`, read before the other flags; None when absent."""
    value = None
    for position, word in enumerate(argv):
        if word == flag:
            if position + 1 == len(argv) or argv[position + 1].startswith("--"):
                raise UserError(f"{flag} needs a value")
            value = argv[position + 1]
        elif word.startswith(flag + "="):
            value = word.partition("=")[2]
    return value


def named_fields(argv: Sequence[str], cls: type, sections: Mapping[str, type]) -> dict[Where, str]:
    """The fields of `cls` that flags set, each with its flag as it was given."""
    given = {word.partition("=")[0] for word in argv if word.startswith("--")}
    return {where: flag for flag, where in _flags(cls, sections).items() if flag in given}


def parse_importing(cls: type[Config], argv: list[str], *, prog: str) -> Config:
    """`parse`, and then imports what `--import` names; the words stand in the field `imports`."""
    given = parse(cls, argv, prog=prog)
    given.imports = take_values(argv, "--import")  # type: ignore[attr-defined]
    import_modules(given.imports)  # type: ignore[attr-defined]
    return given


def import_modules(names: Sequence[str]) -> None:
    """Import what `--import` names; raises UserError in one line. The present folder is looked in, too."""
    if names and os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UserError(
                f"--import {name}: no module named {error.name!r}: give what Python's import "
                "would take, from this folder, PYTHONPATH or an installed package"
            ) from None
        except Exception as error:  # anything may happen in a module of somebody's own
            raise UserError(f"--import {name}: {type(error).__name__}: {one_line(error)}") from None


def program_arguments() -> list[str]:
    """The words behind the program's name; a flag may be written with underscores, as its option is."""
    return [_dashed(word) for word in sys.argv[1:]]


def _dashed(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _twin(cls: type, default: Any, sections: Mapping[str, type]) -> Any:
    """A dataclass with the flags of `cls` and raw values: tyro names, explains and splits them, `read` reads them."""
    hints = get_type_hints(cls, include_extras=True) | dict(sections)
    texts = option_help(cls)
    made: list[Any] = []
    for item in sorted(
        fields(cls), key=lambda item: item.name != KIND
    ):  # the choice before its options
        hint = hints[item.name]
        value = _default(item) if default is None else getattr(default, item.name)
        if is_dataclass(hint):
            section = _twin(hint, None if value is MISSING else value, {})  # type: ignore[arg-type]
            made.append((item.name, section, field(default_factory=section)))
            continue
        marks = (arg(help=one_line(texts.get(item.name, ""))), *_marks(hint))
        declared: Any = Annotated[(_flag_type(hint, item.name), *marks)]  # type: ignore[valid-type]
        value = _ABSENT if value is MISSING else value
        default_factory = partial(_same, value)
        made.append((item.name, declared, field(kw_only=True, default_factory=default_factory)))
    return make_dataclass(cls.__name__, made, namespace={"__doc__": inspect.getdoc(cls) or ""})


class _Absent:
    """Stands for a value that must be given; `read` says that it is missing."""

    def __str__(self) -> str:
        return "none: give one"


_ABSENT = _Absent()


def _without_absent(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not _ABSENT}


def _same(value: Any) -> Any:
    return value


def _default(item: Any) -> Any:
    if item.default is not MISSING:
        return item.default
    return MISSING if item.default_factory is MISSING else item.default_factory()


def _marks(hint: Any) -> tuple[Any, ...]:
    """What tyro is told in a field's annotation."""
    if get_origin(hint) is not Annotated:
        return ()
    return tuple(mark for mark in get_args(hint)[1:] if type(mark).__module__.startswith("tyro"))


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _flag_type(hint: Any, name: str) -> Any:
    bare = _bare(hint)
    positional = _POSITIONAL in _marks(hint)
    if bare is bool:
        return bool
    if get_origin(bare) is dict:
        spec = _spec("*", "KEY=VALUE", _parse_pairs, _show_pairs)
    elif get_origin(bare) in (list, tuple):
        one = _bare(get_args(bare)[0])
        each: Any = list if _is_text(one) else (lambda words: [_raw(word) for word in words])
        spec = _spec("*", name.upper() if positional else _metavar(one), each, _show_each)
    else:
        text = _is_text(bare)
        take = (lambda words: words[0]) if text else (lambda words: _raw(words[0]))
        spec = _spec(1, name.upper() if positional else _metavar(bare), take, _show_one)
    return Annotated[object, spec]


def _spec(nargs: Any, metavar: str, take: Any, show: Any) -> PrimitiveConstructorSpec[Any]:
    return PrimitiveConstructorSpec(
        nargs=nargs,
        metavar=metavar,
        instance_from_str=take,
        is_instance=lambda value: True,
        str_from_instance=show,
    )


def _show_each(values: Any) -> list[str]:
    return [str(value) for value in values] if isinstance(values, list) else [str(values)]


def _show_one(value: Any) -> list[str]:
    return [_show(value)]


def _options(bare: Any) -> list[Any]:
    """The types of a union, unwrapped; the type itself where it is none."""
    inner = get_args(bare) if get_origin(bare) not in (None, Literal, list, dict) else (bare,)
    return [_bare(one) for one in inner]


def _is_text(bare: Any) -> bool:
    kinds = [one for one in _options(bare) if one is not type(None)]
    return all(one is str or get_origin(one) is Literal for one in kinds)


def _raw(word: str) -> Any:
    """A word as a recipe's value; what a schedule's flag says with colons stays a text."""
    if word.lower() in ("none", "null"):
        return None
    value = scalar(word)
    return word if value is None or isinstance(value, dict) else value


def _show(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], list):
        return ",".join(f"{step:g}:{at:g}" for step, at in value)
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def _metavar(bare: Any) -> str:
    names = {int: "INT", float: "NUMBER", str: "TEXT"}
    parts = []
    for one in _options(bare):
        if get_origin(one) is Literal:
            parts.append("{" + ",".join(map(str, get_args(one))) + "}")
        elif get_origin(one) is list:
            parts.append("STEP:VALUE,...")
        elif one is not type(None):
            parts.append(names.get(one, "VALUE"))
    return "|".join(parts)


def _parse_pairs(items: list[str]) -> dict[str, Any]:
    pairs = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise ValueError(f"{item[:80]!r} is not KEY=VALUE")
        pairs[key] = scalar(value)
    return pairs


def _show_pairs(value: dict[str, Any]) -> list[str]:
    return [f"{key}={at}" for key, at in value.items()]


def _keep_named(given: Any, before: Any) -> Any:
    """KEY=VALUE flags replace the keys they name and keep the recipe's others."""
    merged = dict(given)
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(before.get(key), dict):
            merged[key] = {**before[key], **_keep_named(value, before[key])}
    return merged


def _flags(cls: type, sections: Mapping[str, type], at: Where = ()) -> dict[str, Where]:
    """Every flag's name and the field that it sets."""
    found: dict[str, Where] = {}
    hints = get_type_hints(cls, include_extras=True) | dict(sections)
    for item in fields(cls):
        where = (*at, item.name)
        if is_dataclass(hints[item.name]):
            found |= _flags(hints[item.name], {}, where)  # type: ignore[arg-type]
            continue
        marks = [mark for mark in _marks(hints[item.name]) if hasattr(mark, "prefix_name")]
        name = next((mark.name for mark in marks if mark.name), item.name)
        short = any(not mark.prefix_name for mark in marks)
        full = name if short else ".".join([*map(str, at), name])
        for alias in (alias for mark in marks for alias in mark.aliases or ()):
            found[alias] = where
        positional = _POSITIONAL in _marks(hints[item.name])
        found[name.upper() if positional else "--" + full.replace("_", "-")] = where
    return found


def _take_several(cls: type, sections: Mapping[str, type]) -> set[str]:
    """The flags that take several values: lists and KEY=VALUE pairs."""
    found = set()
    for flag, where in _flags(cls, sections).items():
        hint: Any = cls
        for part in where:
            chosen = sections if hint is cls else {}
            hint = (get_type_hints(hint, include_extras=True) | dict(chosen))[str(part)]
        if flag.startswith("--") and get_origin(_bare(hint)) in (list, tuple, dict):
            found.add(flag)
    return found


def _filled(cls: type, sections: Mapping[str, type], default: Any) -> set[str]:
    """The flags of lists in which `default` has something: named without a value, they empty it."""
    found = set()
    for flag, where in _flags(cls, sections).items():
        value = default
        for part in where:
            value = getattr(value, str(part), None)
        if isinstance(value, list) and value:
            found.add(flag)
    return found


def _gathered(argv: Sequence[str], several: set[str], filled: set[str]) -> list[str]:
    """The words, all values of a flag behind one naming of it where one was given again: the parser counts the last.

    Raises UserError for a flag of several values that has none, as behind an empty variable of a shell, and nothing to
    empty (`filled`).
    """
    values: dict[str, list[str]] = {}
    times: dict[str, int] = {}
    rest: list[str] = []
    taking = rest
    for word in argv:
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-")
        if flag not in several:
            taking = rest if word.startswith("--") else taking
            taking.append(word)
            continue
        times[flag] = times.get(flag, 0) + 1
        own = values.setdefault(flag, [])
        if equals:
            own.append(value)
        taking = rest if equals else own
    for flag, own in values.items():
        if not own and flag not in filled:
            raise UserError(f"{flag} needs a value")
    if max(times.values(), default=0) < 2:
        return list(argv)
    return rest + [word for flag, own in values.items() for word in (flag, *own)]


def flag_names(cls: type, sections: Mapping[str, type] | None = None) -> Iterator[str]:
    """The names of all flags."""
    yield from _flags(cls, sections or {})


def _unknown(word: str, known: list[str], prog: str) -> str:
    if not word.startswith("-"):
        return f"unexpected argument {word[:80]!r}; see python -m {prog} --help"
    name = word.partition("=")[0][:80]
    last = [flag for flag in known if flag.rpartition(".")[2] == name.removeprefix("--")]
    hint = f", did you mean '{last[0]}'?" if last else nearest(name, known)
    return f"unknown option {name}{hint}; see python -m {prog} --help"


def _from_box(box: str, prog: str) -> str:
    """The first paragraph of tyro's framed complaint, frame and colours taken off."""
    words: list[str] = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines():
        text = line.strip("│ \t")
        if set(text) <= set("─╭╮╰╯") and words:
            break
        if not text.startswith(("╭", "╰")) and text:
            words.append(text)
    return f"{' '.join(words)[:300]}; see python -m {prog} --help"
