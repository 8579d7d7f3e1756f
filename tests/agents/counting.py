"""A vector environment whose every step is known in advance, for tests that compare acting with learning."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class CountingEnv(VectorEnv):
    """Row i has episodes of `length + i` steps; the observation shows the step and the episode's cue.

    Reward is 1 for repeating the cue (seen at the first step only). Rows with an odd number truncate
    where the even ones terminate.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "episode_metrics": ("hits",)}  # noqa: RUF012

    def __init__(self, num_envs: int, length: int = 7):
        self.num_envs = num_envs
        self.lengths = length + np.arange(num_envs)
        self.single_observation_space = gym.spaces.Dict(
            step=gym.spaces.Box(0, 1, (1,), np.float32), cue=gym.spaces.Discrete(3)
        )
        self.single_action_space = gym.spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _observe(self) -> dict[str, np.ndarray]:
        step = (self.t / self.lengths).astype(np.float32)[:, None]
        return {"step": step, "cue": np.where(self.t == 0, self.cue + 1, 0)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.rng = np.random.default_rng(seed)
        self.t = np.zeros(self.num_envs, np.int64)
        self.cue = self.rng.integers(0, 2, self.num_envs)
        self.hits = np.zeros(self.num_envs)
        self.ended = np.zeros(self.num_envs, bool)
        return self._observe(), {}

    def step(self, actions: np.ndarray) -> Any:
        fresh = self.ended
        reward = np.where(fresh, 0.0, actions == self.cue)
        self.hits = np.where(fresh, 0.0, self.hits + reward)
        self.t = np.where(fresh, 0, self.t + 1)
        self.cue = np.where(fresh, self.rng.integers(0, 2, self.num_envs), self.cue)
        self.ended = self.t >= self.lengths
        odd = np.arange(self.num_envs) % 2 == 1
        return self._observe(), reward, self.ended & ~odd, self.ended & odd, {"hits": self.hits}


def create(context: dict[str, Any]) -> CountingEnv:
    """For `ray.tune.register_env`."""
    return CountingEnv(context["num_envs"], context.get("length", 7))
