"""Recipes: a configuration read from and written to YAML, with every mistake named in one line."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from ct_rl.config import Options, Schedule, TrainConfig, parse_schedule
from ct_rl.errors import UserError, disk_message, nearest, one_line

PROVENANCE = "provenance"  # what a run adds to its own config.yaml; not a setting
Section = TypeVar("Section")


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return _shipped(experiments=False)


def experiment_names() -> list[str]:
    """Names of the experiments that ship with the package."""
    return _shipped(experiments=True)


def _shipped(experiments: bool) -> list[str]:
    return sorted(
        item.name[:-5]
        for item in resources.files("configs").iterdir()
        if item.name.endswith(".yaml")
        and is_experiment(item.read_text(encoding="utf-8")) == experiments
    )


def is_experiment(text: str) -> bool:
    """Whether a YAML text is an experiment's and no recipe's."""
    return re.search(r"^variants:", text, re.MULTILINE) is not None


def read_recipe(name_or_path: str) -> tuple[TrainConfig, str]:
    """A shipped recipe by name or any YAML file by path, and where it was found; raises UserError."""
    path = Path(name_or_path)
    name = name_or_path.removesuffix(".yaml")
    if not path.exists() and name.removeprefix("configs/") in recipe_names():
        name = name.removeprefix("configs/")
        text = (resources.files("configs") / f"{name}.yaml").read_text(encoding="utf-8")
        return parse(text, f"configs/{name}.yaml"), f"configs/{name}.yaml"
    if not path.exists() and name.removeprefix("configs/") in experiment_names():
        raise UserError(_is_experiment(name_or_path))
    return read(path), str(path)


def _is_experiment(source: str) -> str:
    return (
        f"config {source!r} is an experiment of several runs: python -m ct_rl.experiment {source}"
    )


def read(path: Path) -> TrainConfig:
    """The configuration in a YAML file; raises UserError."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        known = recipe_names()
        raise UserError(
            f"config {str(path)!r} not found{nearest(str(path), known)}; "
            f"give a YAML file or one of {', '.join(known)}"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"config {str(path)!r} is not a text file (UTF-8)") from None
    except OSError as error:
        raise UserError(disk_message(error, f"reading config {str(path)!r}")) from None


def parse(text: str, source: str) -> TrainConfig:
    """The configuration in a YAML text; `source` names it in errors. Raises UserError."""
    if is_experiment(text):
        raise UserError(_is_experiment(source))
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = one_line(getattr(error, "problem", None) or error)
        raise UserError(f"config {source!r} is not valid YAML{at}: {problem}") from None
    if data is None:
        data = {}
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key != PROVENANCE}
    return _build(TrainConfig, data, source, "")


def dump(config: Any, provenance: dict[str, Any] | None = None) -> str:
    """The complete configuration as YAML, the provenance behind it."""
    plain = to_plain(config)
    if provenance is not None:
        plain[PROVENANCE] = provenance
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def to_plain(config: Any) -> dict[str, Any]:
    """Nested dataclasses as nested dicts."""
    return {
        item.name: to_plain(value) if is_dataclass(value := getattr(config, item.name)) else value
        for item in fields(config)
    }


def changes(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The fields in which two configurations differ, as `section.field: (old, new)`."""
    found: dict[str, tuple[Any, Any]] = {}
    for item in fields(old):
        before, after = getattr(old, item.name), getattr(new, item.name)
        if is_dataclass(before):
            found |= changes(before, after, f"{prefix}{item.name}.")
        elif before != after:
            found[prefix + item.name] = (before, after)
    return found


def _build(cls: type[Section], data: Any, source: str, prefix: str) -> Section:
    if not isinstance(data, Mapping):
        where = prefix.rstrip(".") or "the file"
        raise UserError(f"config {source!r}: {where} must hold `name: value` lines, not {data!r}")
    known = [item.name for item in fields(cls)]  # type: ignore[arg-type]
    hints = get_type_hints(cls, include_extras=True)
    values = {}
    for key, value in data.items():
        if key not in known:
            hint = nearest(str(key), known) or f"; known here: {', '.join(known)}"
            raise UserError(f"config {source!r}: unknown key '{prefix}{key}'{hint}")
        hinted = hints[key]
        if is_dataclass(hinted):
            values[key] = _build(hinted, value or {}, source, f"{prefix}{key}.")  # type: ignore[arg-type]
        else:
            values[key] = _value(hinted, value, source, prefix + key)
    return cls(**values)


def _value(hint: Any, value: Any, source: str, key: str) -> Any:
    try:
        return _convert(hint, value)
    except (TypeError, ValueError) as error:
        raise UserError(f"config {source!r}: {key}: {one_line(error)}") from None


def _convert(hint: Any, value: Any) -> Any:
    if hint == Options or (get_origin(hint) is Annotated and get_args(hint)[0] == dict[str, Any]):
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise TypeError(f"expected `name: value` lines, not {value!r}")
        return dict(value)
    if hint == Schedule or (get_origin(hint) is Annotated and get_args(hint)[0] == _SCHEDULE):
        if isinstance(value, list):
            if not value or not all(isinstance(point, list) and len(point) == 2 for point in value):
                raise TypeError(f"expected a number or [[step, value], ...], not {value!r}")
            return [[_convert(float, part) for part in point] for point in value]
        return parse_schedule(value) if isinstance(value, str) else _convert(float, value)
    if get_origin(hint) is Annotated:
        return _convert(get_args(hint)[0], value)
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(one for one in get_args(hint) if one is not type(None)), value)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise TypeError(f"expected one of {', '.join(get_args(hint))}, not {value!r}")
        return value
    if hint is float and not isinstance(value, bool):
        if isinstance(value, str):  # YAML 1.1 reads 3e-4 as a text
            return _number(value)
        if isinstance(value, int | float):
            return float(value)
    if hint is int and isinstance(value, int | float | str) and not isinstance(value, bool):
        number = _number(value) if isinstance(value, str) else value
        if number == int(number):
            return int(number)
    if hint in (str, bool) and isinstance(value, hint):
        return value
    raise TypeError(f"expected {_WORDS.get(hint, hint)}, not {value!r}")


def _number(text: str) -> float:
    try:
        return float(text.replace("_", ""))
    except ValueError:
        raise TypeError(f"expected a number, not {text!r}") from None


_SCHEDULE = get_args(Schedule)[0]
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
