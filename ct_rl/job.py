"""One run of an experiment: what is to be done next, what its process said, and what it came to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ct_rl import checkpoint, comparison, config_file
from ct_rl.errors import RunFailed, UserError
from ct_rl.evaluation_file import Evaluation, evaluation_files, played_otherwise, read_evaluation
from ct_rl.experiment_file import Experiment, Variant
from ct_rl.known_runs import different
from ct_rl.places import HERE, LOG, Place, Running
from ct_rl.plain_files import write_atomically
from ct_rl.run_folder import RUN, RunFolder

_RECIPE = "recipe.yaml"  # in a job's folder
_RUN_HERE = f"{HERE}/{RUN}"
_MOST_LOSSES = 3  # of hosts in a row, without a step forward


class Job:
    """One run of the experiment: its training, then its evaluation, each a process of its own.

    Args:
        known: what it came to elsewhere (`ct_rl.known_runs`); None: it is made here.
    """

    def __init__(
        self,
        experiment: Experiment,
        variant: Variant,
        seed: int,
        path: Path,
        imports: list[str],
        known: dict[str, Any] | None = None,
    ):
        self.known = known
        self.experiment, self.variant, self.seed, self.path = experiment, variant, seed, path
        self.imports = imports
        self.more = ["--import", *imports] if imports else []
        self.run = RunFolder(path / RUN)
        self.words: list[str] = []  # of the process
        self.process: Running | None = None
        self.log_start = 0  # where what this start says begins in the log
        self.losses: list[int] = []  # checkpoints' steps when its host was lost

    @property
    def title(self) -> str:
        return f"{self.variant.name}, seed {self.seed}"

    def next_command(self) -> list[str] | None:
        """The words of what is to be done next (`ct_rl.places`); None when the run is trained and evaluated."""
        there = self.run.config.exists()
        if there:
            self._require_same()
        if self.known is not None:
            return None
        left = self._minutes_left()
        if there:
            if self._trained():
                if self.evaluation() is not None:
                    return None
                episodes = str(self.experiment.episodes)
                return ["ct_rl.evaluate", _RUN_HERE, "--episodes", episodes, *self.more]
            rows = self.rows()  # of a run that somebody took further, perhaps
            if not rows and (self._saved() or 0) >= self.variant.config.run.steps:
                raise UserError(
                    f"'{self.run.metrics}' holds no report, and the run has all its steps: put the file "
                    "back, or remove the run's folder and it is trained anew"
                )
            goal = max(self.variant.config.run.steps, rows[-1]["steps"] if rows else 0)
            words = ["ct_rl.train", "--resume", _RUN_HERE, "--steps", str(goal)]
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            text = config_file.dump(self.variant.config)
            write_atomically(self.path / _RECIPE, text.encode())
            words = ["ct_rl.train", "--config", f"{HERE}/{_RECIPE}", "--seed", str(self.seed)]
            words += ["--run-dir", _RUN_HERE]
        words += self.more
        return words if left is None else [*words, "--minutes", f"{max(left, 0.001):.3f}"]

    def start(self, place: Place, words: list[str]) -> None:
        """Begin a command of `next_command` at a place."""
        self.log_start = self.log.stat().st_size if self.log.exists() else 0
        self.words, self.process = words, place.start(words, self.path)

    def last_words(self) -> str:
        """What the process that has ended said of its end: its last error, or else its last line."""
        with open(self.log, "rb") as log:
            size = self.log.stat().st_size
            log.seek(max(size - 65_536, min(self.log_start, size)))
            lines = log.read().decode("utf-8", errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["it said nothing"])[-1]

    def lost(self) -> None:
        """Its host is gone; raises RunFailed where it gets no further however often it is begun again."""
        at = self._saved() or 0
        self.losses.append(at)
        if self.losses[-_MOST_LOSSES:].count(at) == _MOST_LOSSES:
            raise RunFailed(
                f"{self.title}: its host was lost {_MOST_LOSSES} times at {at:,} steps; all of it is in {self.log}"
            )
        print(
            f"             {self.title}: its host is lost, it goes on from {at:,} steps", flush=True
        )

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> Path:
        return self.path / LOG

    def rows(self) -> list[dict[str, Any]]:
        """The reports of its training so far."""
        return self.run.read_metrics()

    def evaluation(self) -> Evaluation | None:
        """What an evaluation of its last checkpoint with enough episodes of the level says; None without one."""
        last = self._saved()
        for file in evaluation_files(self.run.path):
            found = read_evaluation(file)
            enough = min(score.get("episodes") or 0 for score in found.scores.values())
            both = {"sampled", "greedy"} <= set(found.scores)
            if found.steps != last or not both or enough < self.experiment.episodes:
                continue
            if not played_otherwise(found, self.run.read_config(self.imports)):
                return found
        return None

    def result(self) -> dict[str, Any] | None:
        """What results.json says of the run; None before it is finished. What was made here stands above `known`."""
        found = self.evaluation() if self.run.config.exists() and self._trained() else None
        if found is None:
            return self.known
        said = comparison.run(self.seed, self.rows(), found.scores, self.experiment)
        came_from = self.run.provenance()
        came_from.pop(
            "recipe", None
        )  # a path of this machine; the variant's configuration is beside it
        return said | {"provenance": came_from}

    def _saved(self) -> int | None:
        """Steps of the last checkpoint; None without one."""
        return max(checkpoint.steps(self.run.checkpoints), default=None)

    def _trained(self) -> bool:
        rows, saved = self.rows(), self._saved()
        if not rows or saved is None or saved < rows[-1]["steps"]:
            return False  # a kill came between a report and its checkpoint
        left = self._minutes_left()
        return saved >= self.variant.config.run.steps or (left is not None and left <= 0.02)

    def _minutes_left(self) -> float | None:
        minutes = self.experiment.minutes
        if minutes is None:
            return None
        saved = self._saved() or 0  # what was reported after it is trained again
        rows = [row for row in self.rows() if row["steps"] <= saved]
        return max(0.0, minutes - (rows[-1]["seconds"] / 60 if rows else 0.0))

    def _require_same(self) -> None:
        """Raise UserError where the folder holds a run of other settings."""
        found = self.run.read_config(self.imports)
        others = different(found, self.variant.config)
        if found.run.seed != self.seed:
            others["run.seed"] = found.run.seed, self.seed
        for key, (old, new) in others.items():
            raise UserError(
                f"'{self.run.path}' was trained with {key} = {old!r}, and the experiment says "
                f"{new!r}: choose another --run-dir"
            )
