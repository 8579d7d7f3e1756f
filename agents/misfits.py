"""Which observation is not of its space; training asks when acting has failed, so that a step costs nothing more."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv


def refuse_misfit(error: Exception, env: VectorEnv, obs: Any = None) -> None:
    """Looks for a world whose observation is not of its space after an error that it may have made.

    Args:
        obs: [N, ...], what the environment gave; None for what its worlds gave last, which it could not join.

    Raises:
        ValueError: one line that names part and world, what it gave and what its space is.
    """
    if obs is None:
        base: Any = getattr(env, "unwrapped", env)  # gymnasium's SyncVectorEnv holds them
        worlds = getattr(base, "_env_obs", None)
        if worlds is None:
            return
        space = base.single_observation_space
    else:
        worlds, space = [_row(obs, i) for i in range(env.num_envs)], env.single_observation_space
    for i, one in enumerate(worlds):
        found = None if one is None else misfit(space, one)
        if found is not None:
            part, given = found
            raise ValueError(
                f"the observation{part} of world {i} is {given}: mend the environment"
            ) from error


def _row(obs: Any, i: int) -> Any:
    return {key: _row(x, i) for key, x in obs.items()} if isinstance(obs, dict) else obs[i]


def misfit(space: gym.Space, x: Any, part: str = "", lead: int = 0) -> tuple[str, str] | None:
    """The part of an observation that is not of its space, and what it is instead of what; None where all is.

    Args:
        lead: dimensions before an observation's own, 1 for a batch.
    """
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            if not isinstance(x, dict) or key not in x:
                return f"'s part {key!r}", "not there"
            found = misfit(inner, x[key], f"'s part {key!r}", lead)
            if found is not None:
                return found
        return None
    array = np.asarray(x)
    if array.shape[lead:] != space.shape or array.dtype.kind not in "biuf":
        return part, f"{array.dtype} {list(array.shape)}, and its space is {_said(space)}"
    # A network reads numbers out of a Box's bounds, and has no place for a choice that there is not.
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        choices = space.n if isinstance(space, spaces.Discrete) else space.nvec
        if ((array < space.start) | (array >= space.start + choices)).any():
            return part, f"{array.tolist()}, and its space is {_said(space)}"
    return None


def _said(space: gym.Space) -> str:
    return (
        f"a Box of {space.dtype} {list(space.shape)}"
        if isinstance(space, spaces.Box)
        else str(space)
    )
