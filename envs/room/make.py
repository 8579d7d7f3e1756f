"""`dmlab_rooms_select` on whichever engine there is."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import VectorEnv

from envs.dmlab.levels import ROOMS_SELECT
from envs.dmlab.make import choose_engine, engine_notes, make_level
from envs.room.env import RoomVectorEnv


def make_rooms_select(num_envs: int, *, engine: str = "auto", **settings: Any) -> VectorEnv:
    """The room task as a vector environment; `settings` are `RoomVectorEnv`'s or `LabVectorEnv`'s.

    "auto" is deepmind_lab where it can be imported, the embedded engine elsewhere; `metadata["engine"]` says which,
    and `metadata["notes"]` what else of the choice should be known.

    Raises:
        ValueError: for another engine.
        MissingDependencyError: where deepmind_lab is asked for and cannot be imported.
    """
    if choose_engine(engine) == "deepmind_lab":
        return make_level(ROOMS_SELECT, num_envs, **settings)
    env = RoomVectorEnv(num_envs, **settings)
    env.metadata["notes"] = engine_notes(engine)
    return env
