"""Wrappers: the last reward and action beside any observation, and one world of a batch as a plain Env."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from envs.partial_reset import reset_mask
from envs.policy_actions import seen_action
from envs.seeding import world_seeds

REWARD, ACTION = "last_reward", "last_action"


class LastStep(gym.Wrapper):
    """Adds "last_reward" [1] and "last_action" to a Dict observation; zeros at the start.

    The action is the policy's own (`seen_action`): [-1, 1] for a Box with bounds, whatever its units.
    """

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.observation_space, self._seen, self._zero = _with_last_step(
            env.observation_space, env.action_space
        )

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        return self._add(obs, 0.0, self._zero), info

    def step(self, action: Any) -> tuple[Any, ...]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return (
            self._add(obs, float(reward), self._seen(action)),
            reward,
            terminated,
            truncated,
            info,
        )

    def _add(self, obs: dict[str, Any], reward: float, action: Any) -> dict[str, Any]:
        return {**obs, REWARD: np.array([reward], np.float32), ACTION: action}


class LastStepVector(VectorWrapper):
    """`LastStep` for a vector environment.

    `reset(seed=s)` with one whole number draws every world's seed from it (`envs.seeding.world_seeds`); a list holds
    the worlds' own. Infos pass as they are: `_key` beside each key says in which worlds it was given.

    Raises:
        ValueError: for an environment whose autoreset mode is not gymnasium's NEXT_STEP.
    """

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.NEXT_STEP:
            raise ValueError(
                f"the environment resets itself in mode {mode}: it must do so in the next step "
                "(metadata['autoreset_mode'] = AutoresetMode.NEXT_STEP)"
            )
        self.single_observation_space, self._seen, zero = _with_last_step(
            env.single_observation_space, env.single_action_space
        )
        self._zeros = np.stack([np.asarray(zero)] * env.num_envs)
        self._last = np.zeros(env.num_envs), self._zeros
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._fresh = np.zeros(env.num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        seeds: Any = (
            seed  # gymnasium's stubs know one number alone, its vectors take one for each world
        )
        if isinstance(seed, int | np.integer):
            seeds = world_seeds(int(seed), self.num_envs)
        begun = reset_mask(options, self.num_envs)
        obs, info = self.env.reset(seed=seeds, options=options)
        self._fresh[begun] = False
        return self._add(obs, begun, *self._last), info

    def step(self, actions: Any) -> tuple[Any, ...]:
        obs, rewards, terminated, truncated, info = self.env.step(actions)
        seen = np.asarray(self._seen(actions), self._zeros.dtype)
        observation = self._add(obs, self._fresh, rewards, seen)
        self._fresh = terminated | truncated
        return observation, rewards, terminated, truncated, info

    def _add(
        self, obs: dict[str, Any], begun: np.ndarray, rewards: np.ndarray, actions: np.ndarray
    ) -> dict[str, Any]:
        """The observation with rewards and actions, which are zeros in worlds whose episode has just begun."""
        rows = begun.reshape((-1,) + (1,) * (actions.ndim - 1))
        rewards, actions = np.where(begun, 0.0, rewards), np.where(rows, self._zeros, actions)
        self._last = rewards, actions
        return {**obs, REWARD: rewards.astype(np.float32)[:, None], ACTION: actions.copy()}


def _with_last_step(
    observation: gym.Space, action: gym.Space
) -> tuple[spaces.Dict, Callable[[Any], Any], Any]:
    """The observation space with last reward and action, how an action is seen, and that of an episode's start."""
    assert isinstance(observation, spaces.Dict), "adapted observations are Dicts"
    seen, read = seen_action(action)
    added = {REWARD: spaces.Box(-np.inf, np.inf, (1,), np.float32), ACTION: seen}
    return spaces.Dict({**observation.spaces, **added}), read, np.zeros(seen.shape, seen.dtype)


class Single(gym.Env):
    """A vector environment of one world as a plain gymnasium environment; infos that were not given are not there.

    `reset(seed=s)` plays the first of several worlds under that number, `reset(seed=[s])` the world with that seed.
    """

    def __init__(self, env: VectorEnv):
        mode = env.metadata.get("autoreset_mode")
        # Its last observation would be the next episode's first.
        if mode == AutoresetMode.SAME_STEP:
            raise ValueError(
                f"one environment does not reset itself, and autoreset_mode={mode.value!r} was given: leave it out"
            )
        self.env = env
        self.metadata = env.metadata
        self.render_mode = env.render_mode
        self.observation_space = env.single_observation_space
        self.action_space = env.single_action_space
        self._over = False

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed[0] if isinstance(seed, list) else seed)
        seeds: Any = seed  # as above: the stubs know one number alone
        obs, info = self.env.reset(seed=seeds, options=options)
        self._over = False
        return _first(obs), first_info(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._over:
            raise ValueError("step after the episode's end: call reset() first")
        obs, reward, terminated, truncated, info = self.env.step(np.asarray(action)[None])
        self._over = bool(terminated[0] or truncated[0])
        ended = bool(terminated[0]), bool(truncated[0])
        return _first(obs), float(reward[0]), *ended, first_info(info)

    def render(self) -> Any:
        frames: Any = self.env.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        self.env.close()


def first_info(infos: dict[str, Any]) -> dict[str, Any]:
    """The infos of the first world: a key whose mask `_key` is False there was not given, and masks are no infos."""
    found: dict[str, Any] = {}
    for key, value in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        if np.all(np.asarray(infos.get(f"_{key}", True)).reshape(-1)[:1]):
            found[key] = first_info(value) if isinstance(value, dict) else value[0]
    return found


def _first(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {key: _first(value) for key, value in batch.items()}
    return batch[0]
