"""The room task as a natively batched gymnasium environment: one process, N worlds, one render a step."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.room import level
from envs.room.scene import RoomScene

RANDOM_SCORE, HUMAN_SCORE = 0.312, 65.9  # published for DMLab-30


class RoomVectorEnv(VectorEnv):
    """`rooms_select_nonmatching_object`: remember the object of room 1, take the OTHER one in room 2.

    Observation: Dict(frame uint8 [H, W, 3], last_reward float32 [1], last_action Discrete). An episode ends by
    its clock, reported as terminated, as all published code for DeepMind Lab does.

    Args:
        num_envs: worlds.
        objects: how many of the 36 objects are in play, from 2; few are spread to look different.
        seconds: length of an episode; 12 s are 720 frames.
        action_repeat: frames a step.
        height, width: of a frame, multiples of 4 as in DeepMind Lab.
        spawn: range of x that a trial's start is drawn from; -232 is the level's, the pad is at 64.
        actions: "impala" (9) or "extended" (15).
        stagger: cut the first episodes short, each world's by another share, so that worlds do not run in step:
            a learner's batch then holds every part of an episode.
        render_mode: "rgb_array" for `render()`.
        render_height, render_width: of the frames that `render()` gives.

    Raises:
        ValueError: for a setting out of range.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        objects: int = level.NUM_OBJECTS,
        seconds: float = 12.0,
        action_repeat: int = 4,
        height: int = 72,
        width: int = 96,
        spawn: tuple[float, float] = (level.SPAWN[0], level.SPAWN[0]),
        actions: str = "impala",
        stagger: bool = False,
        render_mode: str | None = None,
        render_height: int = 480,
        render_width: int = 640,
    ):
        _check(
            num_envs, objects, seconds, action_repeat, height, width, spawn, actions, render_mode
        )
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.metadata: dict[str, Any] = {
            "autoreset_mode": AutoresetMode.NEXT_STEP,
            "render_modes": ["rgb_array"],
            "render_fps": level.FRAMES_PER_SECOND / action_repeat,
            "action_repeat": action_repeat,
            "score_range": (RANDOM_SCORE, HUMAN_SCORE),
            "engine": "embedded",
            "episode_metrics": ("teleports", "trials", "correct", "wrong"),
        }
        table = level.ACTION_SETS[actions]
        self.action_names = list(table)
        self._table = np.array(list(table.values()), float)
        self._repeat = action_repeat
        self._stagger = stagger
        self._frames = round(seconds * level.FRAMES_PER_SECOND)
        self._render_size = (render_height, render_width)
        self._worlds = level.Worlds(num_envs, objects, (float(spawn[0]), float(spawn[1])))
        self._scene = RoomScene(num_envs, height, width)
        self._big: RoomScene | None = None
        self._age = np.zeros(num_envs, np.int64)
        self._ended = np.zeros(num_envs, bool)
        self._ready = False
        self.single_action_space = spaces.Discrete(len(table))
        self.single_observation_space = spaces.Dict(
            frame=spaces.Box(0, 255, (height, width, 3), np.uint8),
            last_reward=spaces.Box(-np.inf, np.inf, (1,), np.float32),
            last_action=spaces.Discrete(len(table)),
        )
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begins an episode in every world; with seed s, world i gets s + i."""
        worlds = self._worlds
        if seed is not None or not self._ready:
            seeds = list(np.random.SeedSequence(None).generate_state(self.num_envs))
            if seed is not None:
                seeds = (
                    [seed + i for i in range(self.num_envs)] if np.isscalar(seed) else list(seed)
                )
            worlds.rng = [np.random.default_rng(int(s)) for s in seeds]
        for i in range(self.num_envs):
            worlds.begin_episode(i)
        self._age[:] = 0
        if self._stagger:
            steps = self._frames // self._repeat
            self._age[:] = np.arange(self.num_envs) * steps // self.num_envs * self._repeat
        self._ended[:] = False
        self._ready = True
        zeros = np.zeros(self.num_envs)
        return self._observe(zeros, zeros.astype(np.int64)), self._info()

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        """One step of `action_repeat` frames; a world whose episode has ended only begins its next.

        Raises:
            ValueError: for actions of another shape, type or range, or before `reset`.
        """
        actions = self._checked(actions)
        worlds, fresh = self._worlds, self._ended
        for i in np.flatnonzero(fresh):
            worlds.begin_episode(i)
        self._age[fresh] = 0
        moves = np.where(fresh[:, None], 0.0, self._table[actions])
        rewards = np.zeros(self.num_envs)
        for _ in range(self._repeat):
            running = ~fresh & (self._age < self._frames)
            rewards += worlds.frame(moves)
            self._age += running
        ended = self._age >= self._frames
        self._ended = ended
        observation = self._observe(rewards, np.where(fresh, 0, actions))
        return observation, rewards, ended.copy(), np.zeros(self.num_envs, bool), self._info()

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Frames of all worlds, uint8 [render_height, render_width, 3] each."""
        if self.render_mode is None:
            return None
        if self._big is None:
            self._big = RoomScene(self.num_envs, *self._render_size)
        return tuple(self._big.render(self._worlds, self._age))

    def close_extras(self, **kwargs: Any) -> None:
        for scene in (getattr(self, "_scene", None), getattr(self, "_big", None)):
            if scene is not None:
                scene.close()

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        if not self._ready:
            raise ValueError("step before reset: call reset() first")
        given = np.asarray(actions)
        if given.shape != (self.num_envs,) or not np.issubdtype(given.dtype, np.integer):
            raise ValueError(
                f"actions are {given.dtype} {given.shape}, expected integers ({self.num_envs},)"
            )
        if (given < 0).any() or (given >= len(self._table)).any():
            raise ValueError(f"actions {given} are not within 0 ... {len(self._table) - 1}")
        return given

    def _observe(self, rewards: np.ndarray, actions: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "frame": self._scene.render(self._worlds, self._age),
            "last_reward": rewards.astype(np.float32)[:, None],
            "last_action": actions.astype(np.int64),
        }

    def _info(self) -> dict[str, Any]:
        worlds, sides = self._worlds, np.array(level.SIDES)
        return {
            "room": worlds.room + 1,
            "trial": worlds.trial.copy(),
            "match_side": sides[worlds.match_side],
            "example_side": sides[worlds.example_side],
            "position": worlds.position.copy(),
            "yaw": np.degrees(worlds.yaw),
            "teleports": worlds.teleports.copy(),
            "trials": worlds.trial.copy(),
            "correct": worlds.correct.copy(),
            "wrong": worlds.wrong.copy(),
        }


def _check(
    num_envs: int,
    objects: int,
    seconds: float,
    action_repeat: int,
    height: int,
    width: int,
    spawn: tuple[float, float],
    actions: str,
    render_mode: str | None,
) -> None:
    if num_envs < 1:
        raise ValueError(f"num_envs={num_envs} must be at least 1")
    if not 2 <= objects <= level.NUM_OBJECTS:
        raise ValueError(f"objects={objects} must be 2 to {level.NUM_OBJECTS}")
    if action_repeat < 1:
        raise ValueError(f"action_repeat={action_repeat} must be at least 1")
    if seconds * level.FRAMES_PER_SECOND < action_repeat:
        raise ValueError(f"seconds={seconds} is shorter than one step of {action_repeat} frames")
    for name, size in (("height", height), ("width", width)):
        if size < 4 or size % 4:
            raise ValueError(f"{name}={size} must be a positive multiple of 4, as in DeepMind Lab")
    low, high = (
        level.ROOM_1[0][0] + level.PLAYER_HALF,
        level.PAD[0] - level.PAD_HALF - level.PLAYER_HALF,
    )
    if len(spawn) != 2 or not low <= spawn[0] <= spawn[1] <= high:
        raise ValueError(f"spawn={spawn} must be a range (low, high) within {low} ... {high}")
    if actions not in level.ACTION_SETS:
        raise ValueError(
            f"unknown actions {actions!r}: choose one of {', '.join(level.ACTION_SETS)}"
        )
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"unknown render_mode {render_mode!r}: choose 'rgb_array' or None")
