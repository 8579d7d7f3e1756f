"""Experiments: a recipe, variants of it and seeds, read from YAML with every mistake named in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ct_rl import config_file
from ct_rl.config import TrainConfig, check
from ct_rl.errors import UserError, nearest, one_line


@dataclass(frozen=True)
class Variant:
    """One of the things that are compared: a name and a complete configuration."""

    name: str
    config: TrainConfig

    @property
    def folder(self) -> str:
        """The name as part of a path."""
        return re.sub(r"[^A-Za-z0-9.]+", "_", self.name).strip("_")


@dataclass
class Experiment:
    """What is compared, how often and how long.

    Attributes:
        name: of the folder; title: of the picture.
        variants, seeds: every variant is trained under every seed.
        minutes: of training, by the clock; None: the recipe's steps alone end it.
        episodes: of each evaluation and way of acting.
        parallel: runs at a time, each on its share of the cores.
        measure: the number that is compared, one of a run's metrics and scores.
        chance: what `measure` is without knowing anything; None: unknown.
    """

    name: str
    title: str
    variants: list[Variant]
    seeds: list[int]
    minutes: float | None = None
    episodes: int = 100
    parallel: int = 1
    measure: str = "return"
    chance: float | None = None


_KEYS = (
    "recipe",
    "variants",
    *(f.name for f in fields(Experiment) if f.name not in ("name", "variants")),
)


def read_experiment(name_or_path: str) -> Experiment:
    """A shipped experiment by name or any YAML file by path; raises UserError."""
    path = Path(name_or_path)
    name = name_or_path.removesuffix(".yaml").removeprefix("configs/")
    if not path.is_file() and name in config_file.experiment_names():
        text = (resources.files("configs") / f"{name}.yaml").read_text(encoding="utf-8")
        return parse(text, name, f"configs/{name}.yaml")
    try:
        return parse(path.read_text(encoding="utf-8"), path.stem, str(path))
    except (FileNotFoundError, IsADirectoryError):
        if name in config_file.recipe_names():
            raise UserError(_is_recipe(name_or_path)) from None
        known = config_file.experiment_names()
        raise UserError(
            f"experiment {name_or_path!r} not found{nearest(name, known)}; "
            f"give a YAML file or one of {', '.join(known)}"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"experiment {name_or_path!r} is not a text file (UTF-8)") from None


def _is_recipe(source: str) -> str:
    return f"experiment {source!r} is a recipe of one run: python -m ct_rl.train --config {source}"


def parse(text: str, name: str, source: str) -> Experiment:
    """The experiment in a YAML text; `source` names it in errors. Raises UserError."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"experiment {source!r} is not valid YAML: {one_line(error)}") from None
    if isinstance(data, dict) and "variants" not in data and "env" in data:
        raise UserError(_is_recipe(source))
    if not isinstance(data, dict) or not isinstance(data.get("variants"), dict):
        raise UserError(
            f"experiment {source!r} has no variants: give 'variants:' with a name and settings each"
        )
    for key in data:
        if key not in _KEYS:
            hint = nearest(str(key), list(_KEYS)) or f"; known here: {', '.join(_KEYS)}"
            raise UserError(f"experiment {source!r}: unknown key '{key}'{hint}")
    base, _ = config_file.read_recipe(str(data.get("recipe", "rooms_select")))
    variants = [
        Variant(str(key), _merged(base, settings, f"{source}: variant {key!r}"))
        for key, settings in data["variants"].items()
    ]
    if len({variant.folder for variant in variants}) < len(variants):
        raise UserError(f"experiment {source!r}: two variants' names differ in punctuation alone")
    seeds = data.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(isinstance(s, int) for s in seeds):
        raise UserError(f"experiment {source!r}: seeds: expected a list of whole numbers")
    return Experiment(
        name=name,
        title=str(data.get("title", name)),
        variants=variants,
        seeds=seeds,
        minutes=_number(data, "minutes", source, None),
        episodes=int(_number(data, "episodes", source, 100) or 0),
        parallel=int(_number(data, "parallel", source, 1) or 0),
        measure=str(data.get("measure", "return")),
        chance=_number(data, "chance", source, None),
    )


def _merged(base: TrainConfig, settings: Any, source: str) -> TrainConfig:
    merged = _over(config_file.to_plain(base), settings or {})
    config = config_file.parse(yaml.safe_dump(merged), source)
    check(config)
    return config


def _over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above`, section by section."""
    merged = dict(below)
    for key, value in above.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, dict):
            value = _over(before, value)
        merged[key] = value
    return merged


def _number(data: dict[str, Any], key: str, source: str, absent: float | None) -> float | None:
    value = data.get(key, absent)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise UserError(f"experiment {source!r}: {key}: expected a number above 0, not {value!r}")
    return value
