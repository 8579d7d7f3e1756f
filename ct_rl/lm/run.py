"""A language model's run folder: config.yaml, vocabulary.json, metrics.jsonl, checkpoints/; one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import torch

from ct_rl import checkpoint
from ct_rl.checkpoint import Checkpoint
from ct_rl.errors import UserError, is_disk_error, os_message
from ct_rl.lm import config as configs
from ct_rl.lm import vocabulary as vocabularies
from ct_rl.lm.build import build_model
from ct_rl.lm.config import LMConfig
from ct_rl.lm.corpus import Corpus
from ct_rl.lm.model import LanguageModel
from ct_rl.lm.vocabulary import Vocabulary
from ct_rl.plain_files import make_free_folder, write_atomically


class Run:
    """The files of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / configs.FILE
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self._lock: TextIO | None = None

    def create(self, config: LMConfig, vocabulary: Vocabulary) -> None:
        """Make the folder; raises UserError where it is not new or cannot be written."""
        with _making(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if any(item.name != ".lock" for item in self.path.iterdir()):
                again = shlex.quote(str(self.path))
                raise UserError(
                    f"run folder {self.path} is not empty: go on with it by --resume {again}, "
                    "or give another --run-dir"
                )
            self.lock()
            vocabularies.save(self.path, vocabulary)
            self.write_config(config)

    def write_config(self, config: LMConfig) -> None:
        """Replace config.yaml atomically."""
        write_atomically(self.config, configs.to_yaml(config).encode())

    def require(self) -> None:
        """Raise UserError unless this is a run's folder."""
        if not self.config.is_file():
            raise UserError(f"{self.path} is no run of ct_rl.lm: it has no {self.config.name}")

    def lock(self) -> None:
        """Hold the folder until the process ends; raises UserError where another does."""
        self._lock = open(self.path / ".lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"run folder {self.path} is in use by another process") from None

    def last(self) -> Checkpoint:
        """The newest whole checkpoint; raises UserError where there is none."""
        found, damaged = checkpoint.load_last(self.checkpoints)
        return self._found(found, damaged)

    def best(self) -> Checkpoint:
        """The checkpoint with the lowest validation loss."""
        found, damaged = checkpoint.load_best(self.checkpoints)
        return self._found(found, damaged)

    def _found(self, found: Checkpoint | None, damaged: list[str]) -> Checkpoint:
        if found is None:
            why = damaged[0] if damaged else "it stopped before its first one"
            raise UserError(
                f"{self.path} has no checkpoint ({why}): remove the folder, and train it again"
            )
        for line in damaged:
            print(f"warning: {line}; step {found.step:,} is taken", file=sys.stderr)
        return found

    def trim_metrics(self, step: int) -> None:
        """Drop rows beyond `step`, which a killed run wrote after its last checkpoint."""
        with contextlib.suppress(FileNotFoundError):
            rows = [row for row in self.rows() if row["step"] <= step]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            write_atomically(self.metrics, text.encode())

    def rows(self) -> list[dict[str, Any]]:
        """The whole rows of metrics.jsonl; none where it is gone."""
        rows = []
        text = self.metrics.read_text(errors="replace") if self.metrics.exists() else ""
        for line in text.splitlines():
            with contextlib.suppress(ValueError):  # a kill may leave half a line
                row = json.loads(line)
                if isinstance(row, dict) and isinstance(row.get("step"), int):
                    rows.append(row)
        return rows

    def append(self, row: dict[str, Any]) -> None:
        """One more row of metrics.jsonl."""
        with open(self.metrics, "a") as file:
            file.write(json.dumps(row) + "\n")


def fresh_path(what: str) -> Path:
    """A new run's folder under runs/, made; raises UserError where it cannot be."""
    runs = Path("runs")
    with _making(runs):
        return make_free_folder(runs / f"lm_{what}_{time.strftime('%Y%m%d_%H%M%S')}")


@contextlib.contextmanager
def _making(path: Path) -> Iterator[None]:
    """Turns what the system refuses into one line."""
    try:
        yield
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{path} is a file: give another --run-dir") from None
    except OSError as error:
        if not is_disk_error(error):
            raise
        raise UserError(os_message(error, f"making the run folder {path}")) from None


def load_model(
    path: str | Path, device: torch.device, which: str = "best", **over: Any
) -> tuple[LanguageModel, Vocabulary, LMConfig, int]:
    """A trained run's model in evaluation mode, its vocabulary, config and training step.

    Args:
        which: "best" (lowest validation loss) or "last".
        over: memory options other than in training, such as compressed=128.

    Raises:
        UserError: for what is no run, has no checkpoint, or does not fit.
    """
    return open_model(Path(path), device, which, over)


def open_model(
    path: Path, device: torch.device, which: str, over: Mapping[str, Any]
) -> tuple[LanguageModel, Vocabulary, LMConfig, int]:
    """`load_model` with memory options by any name, such as a person gives."""
    run = Run(path)
    run.require()
    config, vocabulary = configs.read_yaml(run.config), vocabularies.load(path)
    kept = run.best() if which == "best" else run.last()
    model = build_model(config.model, vocabulary.size, over=over)
    try:
        model.load_state_dict(kept.weights)
    except RuntimeError:
        raise UserError(
            f"the weights of {kept.path} do not fit the model that {run.config} and {path / vocabularies.FILE} "
            f"describe (vocabulary {vocabulary.size:,}, memory options {dict(over) or 'as in training'})"
        ) from None
    return model.to(device).eval(), vocabulary, config, kept.step


def require_same_vocabulary(corpus: Corpus, vocabulary: Vocabulary, path: Path) -> None:
    """Raise UserError where data do not have a run's vocabulary."""
    given = corpus.vocabulary
    if given.fingerprint != vocabulary.fingerprint:
        raise UserError(
            f"{corpus.name} has a vocabulary of {given.size:,} {given.kind} and run {path} another one of "
            f"{vocabulary.size:,} {vocabulary.kind}: give data that were prepared with the run's vocabulary"
        )
