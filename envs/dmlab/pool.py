"""The processes of N worlds: opened when they are needed, started anew where they die, ended together."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from envs.dmlab.process import LabProcess
from envs.dmlab.settings import LabSettings

PROGRESS = 100  # steps after which a world's earlier deaths no longer count against it
# The answer of a world that died: its process ended or hung, or engine or level raised an error in play.
LOST = object()


class WorldPool:
    """N worlds of a level, a process each.

    A world that dies while it plays is replaced by a fresh one, until it has died more than `settings.restarts` times
    in a row with fewer than `PROGRESS` steps between: then its error is raised. An error of a world that never
    played is raised at once.

    Attributes:
        processes: [N], None where none runs.
        deaths: int64 [N], all deaths of each world so far.
    """

    def __init__(self, settings: LabSettings, num_worlds: int):
        self.settings = settings
        self.processes: list[LabProcess | None] = [None] * num_worlds
        self.deaths = np.zeros(num_worlds, np.int64)
        # Worlds that died and have not played PROGRESS steps since: how often in a row, and steps since the last.
        self._mortal: dict[int, tuple[int, int]] = {}

    def open(self, which: Iterable[int] | None = None) -> None:
        """Starts the processes of those worlds, or of all, where none runs or one stands in the middle of a call.

        Raises:
            What `LabProcess.answer` raises, for the first world that does not open, when all have answered.
        """
        which = range(len(self.processes)) if which is None else which
        self.drop(i for i in which if (world := self.processes[i]) and world.pending)
        for error in self._start([i for i in which if self.processes[i] is None]).values():
            raise error

    def ask(self, calls: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Each world's answer to its call, all asked at once; `LOST` for one that died, which is fresh again.

        Raises:
            RuntimeError: for a world that dies too often.
            MissingDependencyError: as `LabProcess.answer`; that world's process is ended.
        """
        for i, call in calls.items():
            self._of(i).ask(*call)
        answers, dead = self._collect(calls, playing=True)
        self._forgive(i for i in answers if calls[i][0] == "step")
        lost = dict.fromkeys(dead, LOST)
        while dead:
            for i, error in dead.items():
                self._bury(i, error)
            dead = self._start(dead)
        return {**answers, **lost}

    def drop(self, which: Iterable[int] | None = None) -> None:
        """Ends the processes of those worlds, or of all."""
        for i in list(range(len(self.processes)) if which is None else which):
            world, self.processes[i] = self.processes[i], None
            if world is not None:
                world.close()

    def _of(self, i: int) -> LabProcess:
        world = self.processes[i]
        assert world is not None
        return world

    def _start(self, which: Iterable[int]) -> dict[int, RuntimeError]:
        """Starts those worlds' processes, all at once; gives the errors of those that do not open."""
        which = list(which)
        for i in which:
            self.processes[i] = LabProcess(self.settings)
        return self._collect(which)[1]

    def _collect(
        self, which: Iterable[int], playing: bool = False
    ) -> tuple[dict[int, Any], dict[int, RuntimeError]]:
        """The answers of those worlds, and the errors of those that died; the processes of the latter are ended.

        A world that is playing has opened with these settings: whatever it raises is a death, no refusal of them.
        """
        answers: dict[int, Any] = {}
        dead: dict[int, RuntimeError] = {}
        refusal: Exception | None = None
        for i in which:
            try:
                answers[i] = self._of(i).answer()
            except RuntimeError as error:
                dead[i] = error
                self.drop([i])
            except (ValueError, TypeError) as error:
                if playing:
                    dead[i] = RuntimeError(str(error))
                else:
                    refusal = refusal or error
                self.drop([i])
            except Exception as error:
                refusal = refusal or error
                self.drop([i])
        if refusal is not None:
            raise refusal
        return answers, dead

    def _forgive(self, played: Iterable[int]) -> None:
        """Counts a step of those worlds; after `PROGRESS` steps a world's deaths are forgotten."""
        for i in played if self._mortal else ():
            if i in self._mortal:
                deaths, steps = self._mortal.pop(i)
                if steps + 1 < PROGRESS:
                    self._mortal[i] = deaths, steps + 1

    def _bury(self, i: int, error: RuntimeError) -> None:
        """Counts a death, and says or raises it."""
        allowed, deaths = self.settings.restarts, self._mortal.get(i, (0, 0))[0] + 1
        self.deaths[i] += 1
        self._mortal[i] = deaths, 0
        if deaths > allowed:
            del self._mortal[i]  # whoever goes on after the error begins anew
            often = f" (world {i} died {deaths} times without {PROGRESS} steps between)"
            raise RuntimeError(f"{error}{often if allowed else ''}") from error
        print(f"warning: {error}; world {i} is started anew", file=sys.stderr, flush=True)
