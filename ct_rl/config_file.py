"""Recipes: a configuration read from and written to YAML, with every mistake named in one line."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ct_rl import reader
from ct_rl.config import TrainConfig
from ct_rl.errors import UserError, nearest, one_line
from ct_rl.plain_files import Unreadable, dump_yaml, parse_yaml, read_text
from ct_rl.reader import Invalid, shown
from ct_rl.sections import DEFAULT, KIND, Auxiliary, foreign_option, memory_section, sections_for

PROVENANCE = "provenance"  # what a run adds to its own config.yaml; not a setting


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


def read_recipe(
    name_or_path: str, imported: Sequence[str] | None = None
) -> tuple[TrainConfig, str]:
    """A shipped recipe by name or any YAML file by path, and where it was found; raises UserError."""
    data, source = read_data(name_or_path)
    return from_data(data, label(source), imported), source


def read_data(name_or_path: str) -> tuple[dict[str, Any], str]:
    """What a recipe says, as plain data, and where it was found; raises UserError."""
    path = Path(name_or_path)
    name = name_or_path.removesuffix(".yaml").removeprefix("configs/")
    if not _there(path) and name in recipe_names():
        text = (resources.files("configs") / f"{name}.yaml").read_text(encoding="utf-8")
        return parse_data(text, f"configs/{name}.yaml"), f"configs/{name}.yaml"
    if not _there(path) and name in experiment_names():
        raise UserError(_is_experiment(name_or_path))
    return parse_data(_text(path, links=True), str(path)), str(path)


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _is_experiment(source: str) -> str:
    return (
        f"{label(source)} is an experiment of several runs: "
        f"python -m ct_rl.experiment {shlex.quote(source)}"
    )


def read(path: Path, *, links: bool = False) -> TrainConfig:
    """The configuration in a YAML file; raises UserError.

    Args:
        links: whether the file may be a symbolic link; a run's own is none.
    """
    return parse(_text(path, links=links), str(path))


def _text(path: Path, *, links: bool) -> str:
    try:
        return read_text(path, links=links)
    except (FileNotFoundError, ValueError):
        known = recipe_names()
        raise UserError(
            f"config {shown(str(path))} not found{nearest(str(path), known)}; "
            f"give a YAML file or one of {', '.join(known)}"
        ) from None
    except Unreadable as error:
        raise Unreadable(f"config: {error}") from None


def read_run(path: Path, imported: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a run's own config.yaml; raises UserError.

    Neither the modules that it names are imported nor the cluster that it names is joined: a run may be a stranger's.

    Args:
        imported: what `--import` named; a run that was trained with more says so.
    """
    text = _text(path, links=False)
    data = parse_data(text, str(path))
    config = from_data(data, label(str(path)), imported)
    names = [item.name for item in fields(TrainConfig)]
    whole = len(data) == len(names) or PROVENANCE in (
        parse_yaml(text) or {}
    )  # which is written last
    if not whole and set(data) == set(names[: len(data)]):  # a beginning of what `dump` writes
        raise UserError(
            f"{label(str(path))} is cut short: it ends before {names[len(data)]!r}: put back a whole one"
        )
    return config


def read_run_environment(path: Path) -> TrainConfig:
    """What the config.yaml of a run says of its environment, alone: modules that the run needs are not needed."""
    data = parse_data(_text(path, links=False), str(path))
    known: dict[str, Any] = {key: data[key] for key in ("env", "eval_env") if key in data}
    return from_data(known, label(str(path)))


def read_provenance(path: Path) -> dict[str, Any]:
    """Where the run of a config.yaml comes from, as it says itself; empty where it says nothing."""
    data = parse_yaml(_text(path, links=False))
    found = data.get(PROVENANCE) if isinstance(data, dict) else None
    return found if isinstance(found, dict) else {}


def parse(text: str, source: str) -> TrainConfig:
    """The configuration in a YAML text; `source` names it in errors. Raises UserError."""
    return from_data(parse_data(text, source), label(source))


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """What is raised inside is said to come from `name`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def label(source: str) -> str:
    """What errors call a recipe."""
    return f"config {shown(source)}"


def parse_data(text: str, source: str) -> dict[str, Any]:
    """The sections in a YAML text as plain data, without the provenance that a run adds; raises UserError."""
    try:
        data = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{label(source)} {error}") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise UserError(f"{label(source)}: the file must hold `name: value` lines")
    if "variants" in data:
        raise UserError(_is_experiment(source))
    return {key: value for key, value in data.items() if key != PROVENANCE}


def from_data(
    data: dict[str, Any], name: str, imported: Sequence[str] | None = None
) -> TrainConfig:
    """The configuration of plain data; errors begin with `name`. Raises UserError.

    Args:
        imported: what `--import` named: data that need more modules are refused; None: they are not looked at.
    """
    if imported is not None:
        _require_imports(data, name, imported)
    try:
        sections = sections_for(data.get("memory"), data.get("auxiliary"))
        return reader.read(TrainConfig, data, sections)
    except Invalid as error:
        problem = error.line
        if error.key is not None and error.where[0] == "memory" and len(error.where) == 2:
            kind = (data.get("memory") or {}).get(KIND, DEFAULT)
            problem = foreign_option(kind, error.key[:80])
        raise UserError(f"{name}: {problem}") from None
    except (UserError, ValueError) as error:
        raise UserError(f"{name}: {one_line(error)}") from None


def how_to_import(modules: Sequence[str]) -> str:
    """What a person does about modules that a file names: code is never imported because a file says so."""
    return f"add --import {shlex.join(modules)} if you trust it (in Python: import it first)"


def _require_imports(data: dict[str, Any], name: str, imported: Sequence[str]) -> None:
    """Raise UserError where data name modules that no flag named: code is never imported because a file says so."""
    run, env = data.get("run"), data.get("env")
    named = run.get("imports") if isinstance(run, Mapping) else None
    listed = named if isinstance(named, list) else []
    missing = [str(one)[:80] for one in listed if one not in imported]
    env_name = env.get("name") if isinstance(env, Mapping) else None
    module, colon, _ = str(env_name or "").partition(":")
    if colon and module not in (*imported, *missing):
        missing.append(module[:80])  # gymnasium would import it
    if missing:
        raise UserError(f"{name} would import {shlex.join(missing)}: {how_to_import(missing)}")


def over(below: dict[str, Any], above: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """`below` with the values of `above`, section by section; and what was left out on the way.

    Where `above` chooses another memory, the options of `below` that this one has not go. Where it names auxiliary
    losses, they are all there are: the others of `below` go, and their weights.
    """
    below = dict(below)
    left_out: list[str] = []
    losses, named = below.get("auxiliary"), above.get("auxiliary")
    if isinstance(losses, Mapping) and isinstance(named, Mapping):
        training, gone = below.get("training"), set(losses) - set(named)
        below["auxiliary"] = {name: losses[name] for name in losses if name not in gone}
        if isinstance(training, Mapping) and isinstance(training.get("loss_coeffs"), Mapping):
            kept = {name: at for name, at in training["loss_coeffs"].items() if name not in gone}
            below["training"] = {**training, "loss_coeffs": kept}
    memory, chosen = below.get("memory"), above.get("memory")
    if isinstance(memory, Mapping) and isinstance(chosen, Mapping):
        kind = chosen.get(KIND, memory.get(KIND, DEFAULT))
        if isinstance(kind, str) and kind != memory.get(KIND, DEFAULT):
            known = {item.name for item in fields(memory_section(kind))}
            left_out = [str(key) for key in memory if key not in known]
            below["memory"] = {key: memory[key] for key in memory if key in known}
    # A section's name with nothing below it says nothing.
    said = {
        key: at
        for key, at in above.items()
        if at is not None or not isinstance(below.get(key), dict)
    }
    return _over(below, said), left_out


def _over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, dict):
            value = _over(before, value)
        merged[key] = value
    return merged


def dump(config: Any, provenance: dict[str, Any] | None = None) -> str:
    """The complete configuration as YAML, the provenance behind it."""
    plain = reader.plain(config)
    if KIND in plain.get("memory", {}):
        plain["memory"] = {KIND: plain["memory"].pop(KIND), **plain["memory"]}
    if provenance is not None:
        plain[PROVENANCE] = provenance
    return dump_yaml(plain)


def to_plain(config: Any) -> dict[str, Any]:
    """Nested dataclasses as nested dicts."""
    plain: dict[str, Any] = reader.plain(config)
    return plain


def changes(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The fields in which two configurations differ, as `section.field: (old, new)`."""
    found: dict[str, tuple[Any, Any]] = {}
    for item in fields(old):
        before: Any = getattr(old, item.name)
        after: Any = getattr(new, item.name, None)
        if is_dataclass(before) and type(before) is type(after):
            found |= changes(before, after, f"{prefix}{item.name}.")
        elif hasattr(before, KIND) and hasattr(after, KIND):
            found[f"{prefix}{item.name}.{KIND}"] = (before.kind, after.kind)
        elif isinstance(before, Auxiliary):
            names = [[loss.name for loss in fields(section)] for section in (before, after)]
            found[prefix + item.name] = (names[0], names[1])
        elif before != after:
            found[prefix + item.name] = (before, after)
    return found
