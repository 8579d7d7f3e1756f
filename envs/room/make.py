"""`dmlab_rooms_select` on whichever engine there is."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from gymnasium.vector import VectorEnv

from envs.errors import MissingDependencyError
from envs.room.vector import RoomVectorEnv

ENGINES = ("auto", "embedded", "deepmind_lab")


def choose_engine(engine: str) -> str:
    """The engine that `engine` stands for here: "auto" is the real one where it can be imported.

    Raises:
        ValueError: for an unknown name.
        MissingDependencyError: when the real engine is asked for and is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}: choose one of {', '.join(ENGINES)}")
    there = find_spec("deepmind_lab") is not None
    if engine == "deepmind_lab" and not there:
        raise MissingDependencyError(
            "engine='deepmind_lab' needs the module deepmind_lab, which cannot be imported: build it from "
            "DeepMind Lab's sources, or use engine='embedded'"
        )
    if engine == "auto":
        return "deepmind_lab" if there else "embedded"
    return engine


def make_rooms_select(num_envs: int, *, engine: str = "auto", **settings: Any) -> VectorEnv:
    """The room task as a vector environment; `settings` are `RoomVectorEnv`'s."""
    if choose_engine(engine) == "deepmind_lab":
        raise NotImplementedError(
            "the adapter of the real engine is not written yet: use engine='embedded'"
        )
    return RoomVectorEnv(num_envs, **settings)
