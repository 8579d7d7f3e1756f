"""Runs of an experiment that were finished elsewhere, from the results.json that another folder or machine wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Len

from ct_rl import config_file
from ct_rl.config import TrainConfig
from ct_rl.errors import UserError
from ct_rl.experiment_file import Experiment
from ct_rl.plain_files import Unreadable, read_json
from ct_rl.reader import Invalid, read, shown

Run = dict[str, Any]
Key = tuple[str, int]  # variant and seed


@dataclass
class _Variant:
    config: dict[str, Any]
    runs: list[dict[str, Any]]


@dataclass
class _Results:
    measure: str
    levels: list[float]
    minutes: float | None
    variants: dict[str, dict[str, Any]]


@dataclass
class _Run:
    seed: Annotated[int, Ge(0)]
    steps: Annotated[int, Ge(1)]
    minutes: float
    evaluation: dict[str, dict[str, float | None]]
    area: float | None
    reached: dict[str, dict[str, float] | None]
    curve: list[Annotated[list[float], Len(3, 3)]]


def read_known(
    files: Sequence[str], experiment: Experiment, imports: Sequence[str]
) -> dict[Key, Run]:
    """The runs in results.json files that are runs of this experiment, by variant and seed.

    A variant there is the one of its name here, or else the one of its settings and length: what two experiments
    share is trained once. Runs of other variants and seeds, or with fewer episodes of evaluation, are left out and
    printed.

    Raises:
        UserError: for a file that is no results.json, and for runs of other settings, length or measure.
    """
    known: dict[Key, Run] = {}
    for file in files:
        found = _read(file, experiment, imports)
        left_out = sorted(f"{name}, seed {seed} ({why})" for (name, seed), why in found[1].items())
        more = f"; not: {'; '.join(left_out)}" if left_out else ""
        print(f"known        {len(found[0])} runs of {file}{more}")
        for key, run in found[0].items():
            if known.setdefault(key, run) != run:
                raise UserError(
                    f"--known {shown(file)}: {key[0]}, seed {key[1]} is another run than in a file before it: "
                    "give one of the two"
                )
    return known


def _read(
    file: str, experiment: Experiment, imports: Sequence[str]
) -> tuple[dict[Key, Run], dict[Key, str]]:
    named = f"--known {shown(file)}"
    variants = {variant.name: variant.config for variant in experiment.variants}
    taken: dict[Key, Run] = {}
    left_out: dict[Key, str] = {}
    try:
        results = read(_Results, read_json(Path(file), links=True), extra="ignore")
        for field in ("measure", "levels", "minutes"):
            was, wanted = getattr(results, field), getattr(experiment, field)
            if was != wanted:
                raise UserError(f"{named} has {field} {was}, and the experiment {wanted}")
        for named_there, content in results.variants.items():
            variant = read(_Variant, content, extra="ignore")
            name = named_there
            if name in variants:
                config = config_file.from_data(variant.config, f"{named}: {name}", imports)
                _require_same(config, variants[name], f"{named}: {name}")
            else:
                name = _same_settings(variant, variants, named, imports) or name
                if name != named_there:
                    print(f"known        {shown(named_there)} of {file} is {shown(name)} here")
            for run in variant.runs:
                known = read(_Run, run, extra="ignore")
                key, scores = (name, known.seed), known.evaluation
                asked = [scores.get(way, {}) for way in ("sampled", "greedy")]
                episodes = int(min(score.get("episodes") or 0 for score in asked))
                if any(score.get("mean") is None for score in asked):
                    left_out[key] = "no mean return, sampled and greedy"
                elif name not in variants:
                    left_out[key] = "no variant here"
                elif key[1] not in experiment.seeds:
                    left_out[key] = "no seed here"
                elif episodes < experiment.episodes:
                    left_out[key] = f"evaluated with {episodes} episodes"
                else:
                    taken[key] = run
    except FileNotFoundError:
        raise UserError(f"{named} not found: give an experiment's results.json") from None
    except Invalid as error:
        raise UserError(f"{named} is no results.json of an experiment: {error.line}") from None
    except Unreadable as error:
        raise UserError(f"--known: {error}") from None
    return taken, left_out


def _same_settings(
    variant: _Variant, variants: dict[str, TrainConfig], named: str, imports: Sequence[str]
) -> str | None:
    """The name here of a variant that has another one there; None where no variant has its settings and length."""
    try:
        found = config_file.from_data(variant.config, named, imports)
    except UserError:
        return None  # a memory or loss that this experiment has not imported
    for name, wanted in variants.items():
        if found.run.steps == wanted.run.steps and not different(found, wanted):
            return name
    return None


def _require_same(found: TrainConfig, wanted: TrainConfig, named: str) -> None:
    for key, (old, new) in different(found, wanted).items():
        raise UserError(
            f"{named} was trained with {key} = {old!r}, and the experiment says {new!r}"
        )
    if found.run.steps != wanted.run.steps:
        raise UserError(
            f"{named} was trained for {found.run.steps:,} steps, and the experiment says {wanted.run.steps:,}"
        )


def different(found: TrainConfig, wanted: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """What was trained otherwise than `wanted`; how long, where and with which seed are a run's own, and the engine."""
    same = config_file.parse(config_file.dump(wanted), "")
    return {
        key: change
        for key, change in config_file.changes(found, same).items()
        if not key.startswith("run.") and key != "env.engine"
    }
