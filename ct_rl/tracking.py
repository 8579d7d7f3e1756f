"""A run's reports for Weights & Biases or Trackio: the scalars of TensorBoard, under the same names and steps.

`--track NAME` chooses it, on the command line alone: a stranger's recipe or run sends nothing anywhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ct_rl.errors import UserError, one_line
from ct_rl.metrics import scalars

TRACKERS = ("wandb", "trackio")
PROJECT = "ct_rl"


def require_tracker(name: str | None) -> None:
    """Raises UserError where the package of a tracker is not installed, or where there is no such tracker."""
    if name is None:
        return
    if name not in TRACKERS:
        raise UserError(f"--track {name[:80]}: choose one of {', '.join(TRACKERS)}")
    try:
        importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"--track {name} needs the package {name}: pip install 'ct_rl[{name}]'"
        ) from None


class Tracker:
    """One start of a run in a tracker's project; starts of one run are a group of the run folder's name.

    Args:
        name: one of `TRACKERS`.
        run: the run's folder; wandb's own files go there.
        config: the run's configuration, plain.
        counts: names of the environment's counts, as `ct_rl.events.EventFile` takes them.
        note: told in one line when the tracker fails; training goes on without it.

    Raises:
        UserError: where the tracker refuses to begin, such as without a login.
    """

    def __init__(
        self,
        name: str,
        run: Path,
        config: Mapping[str, Any],
        counts: Collection[str] = (),
        note: Callable[[str], None] = print,
    ):
        self.name, self._counts, self._note = name, counts, note
        module = importlib.import_module(name)
        given: dict[str, Any] = {"project": PROJECT, "group": run.name, "config": dict(config)}
        try:
            if name == "wandb":
                # Its console capture would wrap the display's terminal.
                settings = module.Settings(console="off", silent=True)
                begun = module.init(**given, dir=str(run), settings=settings)
            else:
                begun = module.init(**given)
        except Exception as error:  # whatever a service and its client come up with
            raise UserError(f"--track {name} does not begin: {one_line(error)[:300]}") from error
        self._run: Any = begun
        # wandb's service must end by itself before Ray's reaper ends what a run has started.
        self._teardown = module.teardown if name == "wandb" else None

    def add(self, row: Mapping[str, float], step: int) -> None:
        """Send one report's numbers at an agent step."""
        if self._run is not None:
            self._guarded(lambda: self._run.log(scalars(row, self._counts), step=step))

    def close(self) -> None:
        """Send what is left."""
        if self._run is not None:
            self._guarded(self._run.finish)
            self._run = None
        if self._teardown is not None:
            teardown, self._teardown = self._teardown, None
            self._guarded(teardown)

    def _guarded(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            self._run = None
            self._note(f"note: {self.name} stopped, training goes on: {one_line(error)[:200]}")
