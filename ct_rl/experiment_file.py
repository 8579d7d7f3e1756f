"""Experiments: a recipe, variants of it and seeds, read from YAML with every mistake named in one line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Len

from ct_rl import config_file
from ct_rl.config import Text, TrainConfig, check, resolve_reward_clip
from ct_rl.errors import UserError, nearest
from ct_rl.plain_files import Unreadable, parse_yaml, read_text
from ct_rl.reader import Invalid, quoted, read, shown

Seed = Annotated[int, Ge(0), Le(2**31 - 1)]
Minutes = Annotated[float, Gt(0), Le(1e9)]
Episodes = Annotated[int, Ge(1), Le(10**6)]
Parallel = Annotated[int, Ge(1), Le(4096)]
Level = Annotated[float, Ge(-1e12), Le(1e12)]
# Settings of a run that are the experiment's to give.
_OWN = {
    "minutes": "all variants have one clock: give the experiment's own 'minutes:' beside 'variants:'",
    "seed": "every variant is trained under every seed: give 'seeds:' beside 'variants:'",
    "run_dir": "a run has a folder in the experiment's, which is --run-dir: leave it out",
}


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
        levels: of `measure` in training, whose first passing is told in steps and minutes.
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
    levels: list[float] = field(default_factory=list)


@dataclass
class _Quick:
    """What `--quick` changes, beside taking the first seed alone: all is run, evaluated and compared in minutes."""

    minutes: Minutes = 1.0
    episodes: Episodes = 4


@dataclass
class _File:
    """What an experiment's YAML may hold."""

    variants: dict[str, Any]
    recipe: Text = "rooms_select"
    settings: dict[str, Any] = field(default_factory=dict)
    title: Text | None = None
    seeds: Annotated[list[Seed], Len(1, 10_000)] = field(default_factory=lambda: [0])
    minutes: Minutes | None = None
    episodes: Episodes = 100
    parallel: Parallel = 1
    measure: Text = "return"
    chance: float | None = None
    levels: Annotated[list[Level], Len(0, 20)] = field(default_factory=list)
    quick: _Quick = field(default_factory=_Quick)


def read_experiment(
    name_or_path: str, imported: Sequence[str] = (), quick: bool = False
) -> Experiment:
    """A shipped experiment by name or any YAML file by path; raises UserError.

    Args:
        imported: what `--import` named.
        quick: the small version: the first seed, and what the file's section `quick` says.
    """
    path = Path(name_or_path)
    name = name_or_path.removesuffix(".yaml").removeprefix("configs/")
    try:
        text = read_text(path, links=True)
    except (FileNotFoundError, ValueError, Unreadable) as error:
        if name in config_file.experiment_names():
            text = (resources.files("configs") / f"{name}.yaml").read_text(encoding="utf-8")
            return parse(text, name, f"configs/{name}.yaml", imported, quick)
        if name in config_file.recipe_names():
            raise UserError(_is_recipe(name_or_path)) from None
        if isinstance(error, Unreadable):
            raise UserError(f"experiment: {error}") from None
        known = config_file.experiment_names()
        raise UserError(
            f"experiment {shown(name_or_path)} not found{nearest(name, known)}; "
            f"give a YAML file or one of {', '.join(known)}"
        ) from None
    return parse(text, path.stem, str(path), imported, quick)


def _is_recipe(source: str) -> str:
    return (
        f"experiment {shown(source)} is a recipe of one run: "
        f"python -m ct_rl.train --config {shlex.quote(source)}"
    )


def parse(
    text: str, name: str, source: str, imported: Sequence[str] = (), quick: bool = False
) -> Experiment:
    """The experiment in a YAML text; `source` names it in errors. Raises UserError."""
    named = f"experiment {shown(source)}"
    try:
        data = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{named} {error}") from None
    if isinstance(data, dict) and "variants" not in data and "env" in data:
        raise UserError(_is_recipe(source))
    if isinstance(data, dict) and isinstance(data.get("variants"), list):
        raise UserError(f"{named}: variants: expected names with settings each, not a list")
    if not isinstance(data, dict) or not isinstance(data.get("variants"), dict):
        raise UserError(f"{named} has no variants: give 'variants:' with a name and settings each")
    variants = data["variants"]
    for key in variants:
        if not isinstance(key, str):
            raise UserError(f"{named}: YAML reads a variant's name as {key!r}: put it in quotes")
    try:
        file = read(_File, {**data, "variants": variants})
    except Invalid as error:
        raise UserError(f"{named}: {error.line}") from None
    if not variants:
        raise UserError(f"{named} has no variants: give 'variants:' with a name and settings each")
    if quick:
        name, file.seeds = f"{name}_quick", file.seeds[:1]
        file.minutes, file.episodes = file.quick.minutes, file.quick.episodes
    if len(set(file.seeds)) < len(file.seeds):
        raise UserError(f"{named}: seeds: {file.seeds} names one twice")
    if len(set(file.levels)) < len(file.levels):
        raise UserError(f"{named}: levels: {file.levels} names one twice")
    recipe, where = config_file.read_data(file.recipe)
    config_file.from_data(recipe, config_file.label(where), imported)
    _refuse_own(file.settings, f"{named}: settings")
    with config_file.named(f"{named}: settings"):
        base, _ = config_file.over(recipe, file.settings)
    config_file.from_data(base, f"{named}: settings", imported)
    made = [
        Variant(
            key,
            _merged(base, settings, f"{named}: variant {quoted(key)}", imported, file.minutes),
        )
        for key, settings in variants.items()
    ]
    folders: dict[str, str] = {}
    for variant in made:
        other = folders.setdefault(variant.folder, variant.name)
        if other != variant.name:
            raise UserError(
                f"{named}: variants {quoted(other)} and {quoted(variant.name)} would share a folder: "
                "letters A to Z and digits tell folders apart"
            )
        if not variant.folder:
            raise UserError(
                f"{named}: variant {quoted(variant.name)}: give a name with a letter A to Z or a digit"
            )
    if max(map(len, folders)) > 100:
        raise UserError(f"{named}: a variant's name has more than 100 letters: give a shorter one")
    return Experiment(
        name=name,
        title=name if file.title is None else file.title,
        variants=made,
        seeds=file.seeds,
        minutes=file.minutes,
        episodes=file.episodes,
        parallel=file.parallel,
        measure=file.measure,
        chance=file.chance,
        levels=file.levels,
    )


def _refuse_own(settings: Mapping[str, Any], named: str) -> None:
    """Raise UserError where settings name what an experiment gives each run itself."""
    run = settings.get("run")
    for key, instead in _OWN.items():
        value = run.get(key) if isinstance(run, Mapping) else None
        if value is not None:
            raise UserError(f"{named}: run.{key} {quoted(value)}: {instead}")


def _merged(
    base: dict[str, Any],
    settings: Any,
    named: str,
    imported: Sequence[str],
    clock: float | None,
) -> TrainConfig:
    if settings is None:
        settings = {}
    if not isinstance(settings, dict):
        raise UserError(f"{named}: expected settings, not {quoted(settings)}")
    _refuse_own(settings, named)
    with config_file.named(named):
        merged, _ = config_file.over(base, settings)
    config = config_file.from_data(merged, named, imported)
    if config.run.ray_address is not None:
        raise UserError(f"{named}: run.ray_address: a cluster is joined by --ray-address alone")
    if config.run.minutes is not None and clock is None:
        raise UserError(
            f"{named}: the recipe has run.minutes {config.run.minutes:g}: {_OWN['minutes']}"
        )
    config.run.minutes = None  # the experiment's stands above it
    with config_file.named(named):
        check(config)
    resolve_reward_clip(config)
    return config
