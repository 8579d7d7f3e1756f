"""A vector environment whose every step is known in advance, for tests that compare acting with learning."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ct_rl.memory import MemoryCore, MemoryOutput, register_memory


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


class WideEnv(CountingEnv):
    """Shows a thousand numbers beside the rest: a fragment that is kept shows in the process's memory."""

    def __init__(self, num_envs: int, length: int = 7):
        super().__init__(num_envs, length)
        wide = gym.spaces.Box(0, 1, (1000,), np.float32)
        self.single_observation_space = gym.spaces.Dict(
            {**self.single_observation_space.spaces, "wide": wide}
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def _observe(self) -> dict[str, np.ndarray]:
        return {**super()._observe(), "wide": np.ones((self.num_envs, 1000), np.float32)}


class SerialEnv(CountingEnv):
    """Shows beside the rest the steps of the running episode, and a serial number no other step bears."""

    def __init__(self, num_envs: int, length: int = 7):
        super().__init__(num_envs, length)
        number = gym.spaces.Box(0, np.inf, (1,), np.float64)
        self.single_observation_space = gym.spaces.Dict(
            {**self.single_observation_space.spaces, "age": number, "serial": number}
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.count = int.from_bytes(os.urandom(3), "big") << 28

    def _observe(self) -> dict[str, np.ndarray]:
        self.count += self.num_envs
        serial = (self.count + np.arange(self.num_envs)) / 2**52  # exact, and small for the encoder
        age = self.t.astype(np.float64)
        return {**super()._observe(), "age": age[:, None], "serial": serial[:, None]}


@dataclass(frozen=True)
class CountingOptions:
    d_model: int = 4


class CountingMemory(MemoryCore):
    """A memory that counts the steps since the last reset; `seen` keeps what the last pass gave."""

    def __init__(self, d_model: int = 4):
        super().__init__()
        self.d_model = self.d_out = d_model
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.seen = None

    @property
    def context_length(self) -> None:
        return None

    def initial_state(self, batch_size: int) -> dict[str, torch.Tensor]:
        return {"count": torch.zeros(batch_size, 1)}

    def run(
        self, x: torch.Tensor, state: Any, resets: torch.Tensor, attention: bool
    ) -> MemoryOutput:
        count, counts = state["count"], []
        for t in range(x.shape[1]):
            count = torch.where(resets[:, t : t + 1], 0.0, count) + 1
            counts.append(count)
        self.seen = torch.stack(counts, 1)  # (B, T, 1)
        return MemoryOutput(self.scale * x + self.seen, {"count": count})


class CountingCheck:
    """Mixin before a learner: what the network counts is what the environment counts, no step comes twice."""

    def build(self) -> None:
        self.steps_seen: set[float] = set()
        super().build()

    def losses(self, given: Any) -> Any:
        obs, taken = given.fragment.obs, given.taken.bool()
        counted = self.net.core.seen[..., 0]
        if not torch.equal(counted, obs["age"][..., 0].float() + 1):
            raise AssertionError(f"the network counts {counted}, the environment {obs['age'] + 1}")
        serials = obs["serial"][:, :-1, 0][taken].tolist()
        if len(set(serials)) < len(serials) or self.steps_seen & set(serials):
            raise AssertionError("a step came twice")
        self.steps_seen |= set(serials)
        return super().losses(given)


def create_serial(context: dict[str, Any]) -> SerialEnv:
    """For `ray.tune.register_env`; whoever makes the environment knows the counting memory, too."""
    register_memory("counting", CountingMemory, CountingOptions)
    return SerialEnv(context["num_envs"])


class BrokenEnv(CountingEnv):
    """Fails in its twelfth step."""

    def step(self, actions: np.ndarray) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 12:
            raise KeyError("a mistake in the environment")
        return super().step(actions)


def create_broken(context: dict[str, Any]) -> BrokenEnv:
    """For `ray.tune.register_env`."""
    return BrokenEnv(context["num_envs"])
