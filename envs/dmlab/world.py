"""One DeepMind Lab behind calls that cannot crash it: the only place that touches the `deepmind_lab` module.

What the module punishes is kept from it: it wants its actions as `intc` arrays of exactly seven, its seeds as plain
ints and its configuration as strings; observations past the end are errors; most calls after `close` end the process.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from envs.actions import action_vectors
from envs.dmlab.cache import LevelCache
from envs.dmlab.levels import level_script
from envs.dmlab.settings import LabSettings

FRAME, WITH_DEPTH, INSTRUCTION = "RGB_INTERLEAVED", "RGBD_INTERLEAVED", "INSTR"
POSITION, ROTATION = "DEBUG.POS.TRANS", "DEBUG.POS.ROT"
ACTIONS = (
    "LOOK_LEFT_RIGHT_PIXELS_PER_FRAME",
    "LOOK_DOWN_UP_PIXELS_PER_FRAME",
    "STRAFE_LEFT_RIGHT",
    "MOVE_BACK_FORWARD",
    "FIRE",
    "JUMP",
    "CROUCH",
)


class Seen(NamedTuple):
    """What a world shows: frame uint8 [H, W, 3], or [H, W, 4] with depth; position [2] and yaw in degrees or NaN."""

    frame: np.ndarray
    instruction: str
    position: np.ndarray
    yaw: float


class LabWorld:
    """One level in this process.

    The first reset of an instance differs a little from all later ones, so the constructor throws one away; from
    then on the same episode and seed with the same actions give the same frames and rewards, bit for bit.

    Raises:
        ImportError: where `deepmind_lab` is not there.
        ValueError: for what the engine refuses when it starts.
        RuntimeError: for a level that does not load, or calls out of order.
    """

    def __init__(self, settings: LabSettings):
        import deepmind_lab

        self.settings = settings
        self._vectors = action_vectors(settings.actions)
        self._lab: Any = _open(deepmind_lab, settings)
        self._seen: Seen | None = None
        self._running = False
        try:
            names = tuple(part["name"] for part in self._lab.action_spec())
            if names != ACTIONS:
                raise ValueError(f"the engine's actions are {names}, expected {ACTIONS}")
            self.reset(0, 0)
        except BaseException:
            self.close()
            raise
        self._running = False

    def reset(self, episode: int, seed: int) -> Seen:
        """Begins the episode of that number and seed; the engine takes 31 bits of the seed."""
        if self._lab is None:
            raise RuntimeError("reset after close: make a new environment")
        self._running = False
        self._lab.reset(episode=int(episode), seed=int(seed) % 2**31)
        self._running = True
        return self._look()

    def step(self, action: int) -> tuple[Seen, float, bool]:
        """Repeats an action of the set; gives what is seen, the reward and whether the episode is over.

        Past the end the engine shows nothing: the last that was seen stands for it.
        """
        if not self._running or self._lab is None:
            raise RuntimeError("step outside an episode: call reset() first")
        vector = np.ascontiguousarray(self._vectors[int(action)], np.intc)
        self._running = False
        reward = float(self._lab.step(vector, num_steps=self.settings.action_repeat))
        self._running = bool(self._lab.is_running())
        seen = self._look() if self._running else self._seen
        assert seen is not None
        return seen, reward, not self._running

    def close(self) -> None:
        """Ends the engine; harmless any number of times."""
        lab, self._lab, self._running = self._lab, None, False
        if lab is not None:
            lab.close()

    def _look(self) -> Seen:
        shown = self._lab.observations()
        given = self.settings
        frame, shape = shown[_frame(given)], (given.height, given.width, 3 + given.depth)
        if frame.shape != shape or frame.dtype != np.uint8:
            raise RuntimeError(f"the engine's frame is {frame.dtype} {frame.shape}, not {shape}")
        position = shown.get(POSITION)
        rotation = shown.get(ROTATION)
        self._seen = Seen(
            frame=frame,
            instruction=str(shown.get(INSTRUCTION, "")),
            position=np.full(2, np.nan) if position is None else np.array(position[:2], float),
            yaw=float("nan") if rotation is None else float(rotation[1]),
        )
        return self._seen


def _frame(settings: LabSettings) -> str:
    return WITH_DEPTH if settings.depth else FRAME


def _open(module: Any, settings: LabSettings) -> Any:
    """The engine with all observations that the level has of those wanted."""
    wanted = [_frame(settings), INSTRUCTION, POSITION, ROTATION]
    needed = {_frame(settings)} | ({INSTRUCTION} if settings.with_instruction else set())
    folder = settings.cache_folder
    while True:
        try:
            return module.Lab(
                level_script(settings.level),
                list(wanted),
                config=settings.engine_config(),
                renderer=settings.renderer,
                level_cache=None if folder is None else LevelCache(folder),
            )
        except (RuntimeError, TypeError, ValueError) as error:
            missing = [name for name in wanted if f"'{name}'" in str(error)]
            if "nknown observation" in str(error) and missing and missing[0] not in needed:
                wanted.remove(missing[0])
                continue
            raise ValueError(f"deepmind_lab refuses the level: {error}") from error
