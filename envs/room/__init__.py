"""The room task: rooms_select_nonmatching_object of DMLab-30 on an embedded 3-D engine."""

from envs.room.env import RoomVectorEnv
from envs.room.settings import RoomSettings

__all__ = ["RoomSettings", "RoomVectorEnv"]
