"""Wrappers: the last reward and action beside any observation, and one world of a batch as a plain Env."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

REWARD, ACTION = "last_reward", "last_action"


def _key(space: gym.Space) -> str:
    """What an observation that is no Dict is called inside one."""
    is_image = isinstance(space, spaces.Box) and len(space.shape) == 3 and space.dtype == np.uint8
    return "frame" if is_image else "vector"


def _with_last_step(observation: gym.Space, action: gym.Space) -> spaces.Dict:
    """The observation space with last reward and last action added."""
    parts = (
        dict(observation.spaces)
        if isinstance(observation, spaces.Dict)
        else {_key(observation): observation}
    )
    # Text is for people; networks that read it have it as numbers.
    parts = {key: part for key, part in parts.items() if not isinstance(part, spaces.Text)}
    return spaces.Dict(
        {**parts, REWARD: spaces.Box(-np.inf, np.inf, (1,), np.float32), ACTION: action}
    )


class LastStep(gym.Wrapper):
    """Adds "last_reward" [1] and "last_action" to an observation, which becomes a Dict; zeros at the start."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.observation_space = _with_last_step(env.observation_space, env.action_space)
        self._known = frozenset(self.observation_space.spaces)
        self._name = _key(env.observation_space)
        self._zero = np.zeros_like(np.asarray(env.action_space.sample()))

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        return self._add(obs, 0.0, self._zero), info

    def step(self, action: Any) -> tuple[Any, ...]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._add(obs, float(reward), action), reward, terminated, truncated, info

    def _add(self, obs: Any, reward: float, action: Any) -> dict[str, Any]:
        parts = obs if isinstance(obs, dict) else {self._name: obs}
        kept = {key: value for key, value in parts.items() if key in self._known}
        return {**kept, REWARD: np.array([reward], np.float32), ACTION: action}


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
        self._name = _key(env.single_observation_space)
        self._known = frozenset(self.single_observation_space.spaces)
        self._fresh = np.zeros(env.num_envs, bool)

    def reset(  # type: ignore[override]  # gymnasium types observations by the caller
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
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

    def _add(self, obs: Any, rewards: np.ndarray, actions: np.ndarray) -> dict[str, Any]:
        parts = obs if isinstance(obs, dict) else {self._name: obs}
        kept = {key: value for key, value in parts.items() if key in self._known}
        return {**kept, REWARD: rewards.astype(np.float32)[:, None], ACTION: actions}


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
        frames: Any = self.env.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        self.env.close()


def _first(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {key: _first(value) for key, value in batch.items()}
    return batch[0]
