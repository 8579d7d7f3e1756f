"""`dmlab_rooms_select` on whichever engine there is."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import VectorEnv

from envs.room.env import RoomVectorEnv

ENGINES = ("auto", "embedded")


def make_rooms_select(num_envs: int, *, engine: str = "auto", **settings: Any) -> VectorEnv:
    """The room task as a vector environment; `settings` are `RoomVectorEnv`'s.

    "auto" is the embedded engine: an adapter of the real deepmind_lab does not exist yet.

    Raises:
        ValueError: for another engine.
    """
    if engine == "deepmind_lab":
        raise ValueError(
            "engine 'deepmind_lab' is not there yet: the adapter is not written; use 'embedded'"
        )
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}: choose one of {', '.join(ENGINES)}")
    return RoomVectorEnv(num_envs, **settings)
