"""Memory Maze (Pasukonis et al. 2022, arXiv 2210.13383) as gymnasium ids; the package itself knows only the old gym."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

os.environ.setdefault("MUJOCO_GL", "egl")
try:
    # Without the old gym the package prints a line and raises after its tasks are imported.
    with contextlib.redirect_stdout(io.StringIO()):
        import memory_maze.tasks as tasks
except ImportError:
    if "memory_maze.tasks" not in sys.modules:
        raise
    tasks = sys.modules["memory_maze.tasks"]

SIZES = ("9x9", "11x11", "13x13", "15x15")


class MemoryMaze(gym.Env):
    """One maze: observation uint8 [64, 64, 3], whose border shows the colour to find; Discrete(6) actions.

    Args:
        size: one of `SIZES`.
        render_mode: "rgb_array" for `render()`, which is the last observation.
        settings: those of the package's tasks, such as camera_resolution.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]  # gymnasium has it on instances
        "render_modes": ["rgb_array"],
        "render_fps": 4,
    }
    action_names = (
        "nothing",
        "forward",
        "left",
        "right",
        "forward_left",
        "forward_right",
    )

    def __init__(self, size: str, render_mode: str | None = None, **settings: Any) -> None:
        self._build = getattr(tasks, f"memory_maze_{size}")
        self._settings = {"image_only_obs": True, **settings}
        self.render_mode = render_mode
        self._env = self._build(seed=0, **self._settings)
        pixels = self._env.observation_spec().shape
        self.observation_space = gym.spaces.Box(0, 255, pixels, np.uint8)
        self.action_space = gym.spaces.Discrete(self._env.action_spec().num_values)
        self._frame = np.zeros(pixels, np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            # The package takes a seed only when an environment is made.
            self._env.close()
            self._env = self._build(seed=seed % 2**32, **self._settings)
        self._frame = self._env.reset().observation
        return self._frame, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        step = self._env.step(int(action))
        self._frame = step.observation
        over, ended = step.last(), step.last() and step.discount == 0.0
        return self._frame, float(step.reward or 0.0), ended, over and not ended, {}

    def render(self) -> Any:
        return self._frame if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self._env.close()


for _size in SIZES:
    gym.register(
        f"MemoryMaze-{_size}-v0", entry_point=f"{__name__}:MemoryMaze", kwargs={"size": _size}
    )
