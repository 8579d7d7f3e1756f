"""Wrappers: the last reward and action beside any observation, and one world of a batch as a plain Env."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

REWARD, ACTION = "last_reward", "last_action"


def _with_last_step(observation: spaces.Dict, action: gym.Space) -> spaces.Dict:
    """The observation space with last reward and last action added."""
    added = {REWARD: spaces.Box(-np.inf, np.inf, (1,), np.float32), ACTION: action}
    return spaces.Dict({**observation.spaces, **added})


class LastStep(gym.Wrapper):
    """Adds "last_reward" [1] and "last_action" to a Dict observation; zeros at the start."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.observation_space = _with_last_step(env.observation_space, env.action_space)
        self._zero = np.zeros_like(np.asarray(env.action_space.sample()))

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        return self._add(obs, 0.0, self._zero), info

    def step(self, action: Any) -> tuple[Any, ...]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._add(obs, float(reward), action), reward, terminated, truncated, info

    def _add(self, obs: dict[str, Any], reward: float, action: Any) -> dict[str, Any]:
        return {**obs, REWARD: np.array([reward], np.float32), ACTION: action}


class LastStepVector(VectorWrapper):
    """`LastStep` for a vector environment."""

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        if env.metadata.get("autoreset_mode") != AutoresetMode.NEXT_STEP:
            raise ValueError(
                "the environment must reset itself in the next step (AutoresetMode.NEXT_STEP)"
            )
        self.single_observation_space = _with_last_step(
            env.single_observation_space, env.single_action_space
        )
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._fresh = np.zeros(env.num_envs, bool)

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        self._fresh[:] = False
        actions = np.zeros_like(np.asarray(self.action_space.sample()))
        return self._add(obs, np.zeros(self.num_envs), actions), info

    def step(self, actions: Any) -> tuple[Any, ...]:
        obs, rewards, terminated, truncated, info = self.env.step(actions)
        shape = (-1,) + (1,) * (np.ndim(actions) - 1)
        last = np.where(self._fresh.reshape(shape), 0, actions).astype(self.action_space.dtype)
        observation = self._add(obs, np.where(self._fresh, 0.0, rewards), last)
        self._fresh = terminated | truncated
        return observation, rewards, terminated, truncated, info

    def _add(self, obs: dict[str, Any], rewards: np.ndarray, actions: np.ndarray) -> dict[str, Any]:
        return {**obs, REWARD: rewards.astype(np.float32)[:, None], ACTION: actions}


class Single(gym.Env):
    """A vector environment of one world as a plain gymnasium environment."""

    def __init__(self, env: VectorEnv):
        self.env = env
        self.metadata = env.metadata
        self.render_mode = env.render_mode
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self._over = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        obs, info = self.env.reset(seed=seed, options=options)
        self._over = False
        return _first(obs), _first(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._over:
            raise ValueError("step after the episode's end: call reset() first")
        obs, reward, terminated, truncated, info = self.env.step(np.asarray(action)[None])
        self._over = bool(terminated[0] or truncated[0])
        return _first(obs), float(reward[0]), bool(terminated[0]), bool(truncated[0]), _first(info)

    def render(self) -> Any:
        frames = self.env.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        self.env.close()


def _first(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {key: _first(value) for key, value in batch.items()}
    return batch[0]
