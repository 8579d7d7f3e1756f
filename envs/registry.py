"""Environments by name: `make` gives one, `make_vec` gives N in one batch, `names` lists ours."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from envs.benchmarks import check_render_mode, enter, wrappers
from envs.dmlab.levels import LEVEL_NAMES
from envs.wrappers import LastStep, LastStepVector, Single

# name -> "module:function" or "module:function:argument" that builds a VectorEnv from ([argument,] num_envs,
# **settings); imported when asked for.
_ENVIRONMENTS: dict[str, str] = {
    "dmlab_rooms_select": "envs.room.make:make_rooms_select",
    **{f"dmlab_{level}": f"envs.dmlab.make:make_level:{level}" for level in LEVEL_NAMES},
}


def names() -> list[str]:
    """The names of this package's own environments; any gymnasium id works beside them."""
    return sorted(_ENVIRONMENTS)


def make_vec(name: str, num_envs: int, **settings: Any) -> VectorEnv:
    """N environments as one `gymnasium.vector.VectorEnv` that resets itself in the next step.

    Args:
        name: one of `names()`, or a gymnasium id; the latter's observations become a flat Dict (`envs.adapt`)
            that also has the last reward and the last action.
        num_envs: how many.
        settings: the environment's own.

    Raises:
        ValueError: for a name that nobody knows, with the nearest that exist, or a bad setting.
        MissingDependencyError: where the package of a benchmark is not installed.
    """
    if name in _ENVIRONMENTS:
        return _ours(name)(num_envs, **settings)
    benchmark = enter(name)
    _check_id(name)
    apart = benchmark is not None and benchmark.own_process and num_envs > 1
    env = gym.make_vec(
        name,
        num_envs,
        vectorization_mode="async" if apart else "sync",
        vector_kwargs={"context": "spawn"} if apart else None,
        wrappers=wrappers(benchmark),
        **settings,
    )
    return LastStepVector(env)


def make(name: str, **settings: Any) -> gym.Env:
    """One environment; the arguments are `make_vec`'s."""
    if name in _ENVIRONMENTS:
        return Single(_ours(name)(1, **settings))
    benchmark = enter(name)
    _check_id(name)
    check_render_mode(name, settings.get("render_mode"))
    env = gym.make(name, **settings)
    for wrapper in wrappers(benchmark):
        env = wrapper(env)
    return LastStep(env)


def _ours(name: str) -> Callable[..., VectorEnv]:
    module, function, *arguments = _ENVIRONMENTS[name].split(":")
    return partial(getattr(import_module(module), function), *arguments)


def _check_id(name: str) -> None:
    try:
        gym.spec(name)
    except (gym.error.Error, ModuleNotFoundError) as error:
        known = [*names(), *gym.registry]
        near = difflib.get_close_matches(name, known, 3, 0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "envs.names() lists ours"
        raise ValueError(f"unknown environment {name!r}: {hint}") from error
