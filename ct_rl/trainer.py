"""The training loop around an RLlib algorithm: reports, curves, checkpoints, ends."""

from __future__ import annotations

import contextlib
import shlex
import time
import traceback
from pathlib import Path
from typing import Any

from ct_rl import checkpoint
from ct_rl.algorithm import network_settings
from ct_rl.checkpoint import Checkpoint
from ct_rl.config import TrainConfig
from ct_rl.config_file import to_plain
from ct_rl.curves import draw_curves
from ct_rl.display import LiveDisplay, PlainDisplay
from ct_rl.errors import RunFailed, UserError, is_disk_error, one_line, os_message
from ct_rl.events import EventFile
from ct_rl.interrupts import Interrupts
from ct_rl.plain_files import write_atomically
from ct_rl.progress import Progress
from ct_rl.run_folder import RunFolder
from ct_rl.tracking import Tracker


class Trainer:
    """Trains until the step goal, the clock's end or a signal, and keeps the run folder up to date.

    Args:
        algorithm: what `build_algorithm` gives, or anything with its `train`, `training_state` and
            `load_training_state`.
        rows: the reports of the run so far, for the curves.
        track: a tracker to send reports to (`ct_rl.tracking.TRACKERS`), or None.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: RunFolder,
        algorithm: Any,
        progress: Progress,
        display: PlainDisplay | LiveDisplay,
        interrupts: Interrupts,
        rows: list[dict[str, Any]] | None = None,
        track: str | None = None,
    ):
        self.config, self.run, self.algorithm = config, run, algorithm
        self.progress, self.display, self.interrupts = progress, display, interrupts
        self.rows = rows or []
        self.track = track
        self._tracker: Tracker | None = None
        self._runners: tuple[int, int] | None = None  # away, and started anew, at the last result
        self.saved: Path | None = None
        minutes = config.run.minutes
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        self._curves_seconds = config.run.curves_seconds
        self._title = f"{config.env.name}, {config.memory.kind}, seed {config.run.seed}"

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint; raises UserError when it belongs to another network."""
        self.saved = saved.path
        try:
            self.algorithm.load_training_state(saved.tensors, saved.meta["algorithm"])
            self.progress.load(saved.meta["progress"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"checkpoint '{saved.path}' does not fit this configuration: {one_line(error)[:300]}"
            ) from error

    def train(self) -> bool:
        """Run to an end; True when the goal was met, False when a signal came first.

        Raises RunFailed when the learner or an environment fails, UserError when the disk is full.
        """
        try:
            self._events = EventFile(
                self.run.events, self.progress.steps, self.progress.facts.episode_metrics
            )
            try:
                if self.track is not None:
                    self._tracker = self._open_tracker(self.track)
                return self._loop()
            finally:
                self._events.close()
                if self._tracker is not None:
                    self._tracker.close()
        except OSError as error:
            self.run.require_there()  # says it better
            if not is_disk_error(error):
                raise
            raise UserError(os_message(error, f"writing the run; {self._way_back()}")) from None

    def _open_tracker(self, name: str) -> Tracker:
        counts = self.progress.facts.episode_metrics
        return Tracker(name, self.run.path, to_plain(self.config), counts, self.display.note)

    def _loop(self) -> bool:
        from agents import LearnerFailed, RunnerFailed

        self.algorithm.goal = self.config.run.steps
        if self.saved is None:
            self.save()  # a run that is killed before its first report can be resumed, too
        reported = drawn = saved = time.monotonic()
        while True:
            try:
                result = self.algorithm.train()
            except (LearnerFailed, RunnerFailed) as error:
                if isinstance(
                    error, RunnerFailed
                ):  # what is learned is whole; only the world broke
                    with contextlib.suppress(LearnerFailed, UserError):
                        self.save()
                raise self._failure(error) from error
            self.run.require_there()
            self.progress.add(result["ct_rl"])
            self._tell_of_runners(result["ct_rl"])
            now = time.monotonic()
            met = self.progress.steps >= self.config.run.steps or self._time_is_up(now)
            ends = met or self.interrupts.requested
            if ends:
                self.interrupts.finish()
            if ends or now - reported >= self.config.run.report_seconds:
                reported = now
                self.report()
            if ends or now - saved >= 60 * self.config.run.checkpoint_minutes:
                self.save()
                saved = time.monotonic()
            if ends or now - drawn >= self._curves_seconds:
                drawn = self.draw()
            if ends:
                return met

    def _tell_of_runners(self, report: dict[str, Any]) -> None:
        """A line when a runner process has died, and when one is there again."""
        away, restarted = report.get("runners_away", 0), report.get("restarted_runners", 0)
        away_before, restarted_before = self._runners or (0, restarted)
        count = self.config.runners.num_env_runners
        if away > away_before:
            self.display.note(
                f"environment runners that died: {away} of {count}; they are started anew"
            )
        if restarted > restarted_before:
            self.display.note(
                f"environment runner started anew: {count - away} of {count} are there"
            )
        self._runners = (away, restarted)

    def report(self) -> None:
        """One line in metrics.jsonl, one point in TensorBoard, one picture on the screen, if steps were made."""
        if self.rows and self.rows[-1]["steps"] >= self.progress.steps:
            return
        row = self.progress.row()
        self.rows.append(row)
        self.run.append_metrics(row)
        self._events.add(row, row["steps"])
        if self._tracker is not None:
            self._tracker.add(row, row["steps"])
        left = None if self._deadline is None else self._deadline - time.monotonic()
        self.display.show(row, left)

    def save(self) -> None:
        """Write a checkpoint that no signal can break off."""
        # Asking the learner may wait for ever, and a signal may end that; writing does not.
        tensors, meta = self.algorithm.training_state()
        with self.interrupts.protected():
            self.run.require_there()
            self.saved = checkpoint.save(
                self.run.checkpoints,
                self.progress.steps,
                tensors,
                {
                    "score": self.progress.score,
                    "env": self.config.env.name,
                    "network": network_settings(self.config),
                    "algorithm": meta,
                    "progress": self.progress.state(),
                },
            )

    def draw(self) -> float:
        """Refresh curves.png, spending at most a twentieth of the time on it; returns when it was done."""
        begun = time.monotonic()
        repeat = self.progress.facts.action_repeat
        counts = self.progress.facts.episode_metrics
        draw_curves(self.run.curves, self.rows, self._title, repeat, counts)
        done = time.monotonic()
        self._curves_seconds = max(self.config.run.curves_seconds, 20 * (done - begun))
        return done

    def _time_is_up(self, now: float) -> bool:
        return self._deadline is not None and now >= self._deadline

    def _way_back(self) -> str:
        if self.saved is None:
            return "there is no checkpoint yet"
        return f"last good checkpoint: {self.saved}, go on with --resume {shlex.quote(str(self.run.path))}"

    def _failure(self, error: Exception) -> RunFailed:
        log = self.run.path / "error.log"
        details = f"; details in {log}"
        try:
            self.run.require_there()
            write_atomically(log, "".join(traceback.format_exception(error)).encode())
        except (OSError, UserError):
            details = ""
        return RunFailed(
            f"{one_line(error)[:400]} at step {self.progress.steps:,}; {self._way_back()}{details}"
        )
