"""What a report reads of a run's folder: settings, figures, evaluations, videos; and a note on all that is missing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ct_rl import checkpoint
from ct_rl.config import TrainConfig
from ct_rl.config_file import PROVENANCE
from ct_rl.errors import UserError, one_line
from ct_rl.evaluation_file import FOLDER, Evaluation, played_otherwise, read_evaluation
from ct_rl.memory import build_memory
from ct_rl.plain_files import Unreadable, parse_yaml, read_text
from ct_rl.reader import LARGEST
from ct_rl.run_folder import RUN, RunFolder
from ct_rl.sections import memory_settings

_LARGEST_VALUE = 1e30  # a figure beyond is a fault and would hide all others in a picture
MOST_EVALUATIONS = 8


@dataclass
class Run:
    """One run.

    Attributes:
        path: its folder; name: what the report calls it.
        config: its settings; yaml: the file that holds them.
        provenance: what it was made with, as it says.
        rows: its reports by steps, all values finite.
        checkpoints: their steps [agent steps].
        evaluations: with the names of their files, the one that counts first.
        videos: newest first.
        horizon: how far back its memory reaches, in words.
        notes: one line about everything that is missing or broken.
    """

    path: Path
    name: str
    config: TrainConfig
    yaml: str
    provenance: dict[str, Any]
    rows: list[dict[str, float]]
    checkpoints: list[int]
    evaluations: list[tuple[str, Evaluation]]
    videos: list[Path]
    horizon: str
    notes: list[str] = field(default_factory=list)

    @property
    def seed(self) -> int:
        return self.config.run.seed

    @property
    def env(self) -> str:
        return self.config.env.name

    @property
    def last(self) -> dict[str, float]:
        """The last value of every figure."""
        return {key: value for row in self.rows for key, value in row.items()}

    def repeat(self) -> str:
        """The command that repeats it, as a shell takes it."""
        words = ["python", "-m", "ct_rl.train", "--config", str(self.path / "config.yaml")]
        words += ["--run-dir", f"{self.path}_again"]
        if self.config.run.ray_address is not None:
            words += ["--ray-address", self.config.run.ray_address]
        if self.config.run.imports:
            words += ["--import", *self.config.run.imports]
        return shlex.join(words)


def read_run(path: Path, imports: Sequence[str]) -> Run:
    """Everything a report tells about a run; raises UserError for a folder that is none.

    Args:
        imports: what `--import` named; a run that needs more says so.
    """
    folder = RunFolder(path)
    folder.require()
    config = folder.read_config(imports)
    yaml = read_text(folder.config)
    provenance = parse_yaml(yaml).get(PROVENANCE)
    notes: list[str] = []
    try:
        found, broken = folder.read_metrics_counted()
    except Unreadable as error:
        found, broken = [], 0
        notes.append(f"its metrics are left out: {error}")
    rows = _finite(found)
    broken += len(found) - len(rows)
    if broken:
        notes.append(f"{broken} of the lines in metrics.jsonl {'is' if broken == 1 else 'are'} "
                     "no report and left out")  # fmt: skip
    if not rows:
        notes.append("it has no reports yet: there are no curves")
    saved = checkpoint.steps(folder.checkpoints)
    if not saved:
        notes.append("it has no checkpoint")
    evaluations = _evaluations(path / FOLDER, config, notes)
    if saved and not evaluations:
        notes.append(
            "it was not evaluated: " + shlex.join(["python", "-m", "ct_rl.evaluate", str(path)])
        )
    elif saved and evaluations[0][1].steps not in (None, saved[-1]):
        notes.append(
            f"it was evaluated at {evaluations[0][1].steps:,} steps, and its last checkpoint has {saved[-1]:,}: "
            + shlex.join(["python", "-m", "ct_rl.evaluate", str(path)])
        )
    return Run(
        path=path,
        name=_name(path.resolve()),
        config=config,
        yaml=yaml,
        provenance=provenance if isinstance(provenance, dict) else {},
        rows=rows,
        checkpoints=saved,
        evaluations=evaluations,
        videos=_newest(folder.videos, "*.mp4"),
        horizon=_horizon(config),
        notes=notes,
    )


def _name(path: Path) -> str:
    """What the report calls a run: an experiment calls each run's folder alike, and its own by what it is."""
    return f"{path.parent.name}/{path.name}" if path.name == RUN else path.name or str(path)


def _finite(rows: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """The rows by steps, without values that no picture can show."""
    kept = [row for row in rows if row["steps"] <= LARGEST]
    return [
        {
            key: float(value)
            for key, value in row.items()
            if value is not None and abs(value) <= _LARGEST_VALUE
        }
        for row in sorted(kept, key=lambda row: row["steps"])
    ]


def _newest(folder: Path, pattern: str) -> list[Path]:
    if not folder.is_dir():
        return []
    files = [file for file in folder.glob(pattern) if file.is_file() and file.name[0] != "."]
    return sorted(files, key=lambda file: (file.stat().st_mtime, file.name), reverse=True)


def _evaluations(
    folder: Path, config: TrainConfig, notes: list[str]
) -> list[tuple[str, Evaluation]]:
    """Those of the last checkpoint first, of these those of the level as it is, then by episodes, then the newest."""
    found = []
    for file in _newest(folder, "*.json"):
        try:
            found.append((file.name, read_evaluation(file)))
        except UserError as error:
            notes.append(one_line(f"an evaluation is left out: {error}")[:300])
    found.sort(
        key=lambda item: (
            item[1].steps or 0,
            not played_otherwise(item[1], config),
            _episodes(item[1]),
        ),
        reverse=True,
    )
    if len(found) > MOST_EVALUATIONS:
        notes.append(f"{len(found) - MOST_EVALUATIONS} of its evaluations are left out")
    return found[:MOST_EVALUATIONS]


def _episodes(evaluation: Evaluation) -> float:
    return min(score.get("episodes") or 0 for score in evaluation.scores.values())


def _horizon(config: TrainConfig) -> str:
    settings = memory_settings(config.memory)
    try:
        with torch.device("meta"):  # sizes without memory
            core = build_memory(config.memory.kind, **settings)
        reach = core.context_length
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return "unknown"  # a part of somebody's own that torch's meta device does not know
    if reach is None:
        return "no bound"
    layers = settings.get("n_layers")
    many = f" a layer, {layers} layers" if isinstance(layers, int) and layers > 1 else ""
    return f"{reach:,} step{'' if reach == 1 else 's'}{many}"
