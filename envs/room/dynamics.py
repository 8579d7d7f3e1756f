"""Walking, touching and scoring of N room worlds at once, frame by frame as the level does it.

The walk is the engine's ground movement (acceleration 10, friction 6, full speed 320 units a second, frames of
16 ms) in the plane; DMLab units, +y left of +x. Angles are the engine's 16-bit ones, so a turn is exact.
"""

from __future__ import annotations

import numpy as np

from envs.actions import action_vectors
from envs.room import layout as plan
from envs.room.settings import N_OBJECTS, RoomSettings

DT = 0.016
SPEED, STOP_SPEED, FRICTION = 320.0, 100.0, 6.0
GROUND_PUSH, AIR_PUSH = 10 * DT * SPEED, 1 * DT * SPEED  # speed gained in a frame, at most
ARRIVAL_SPEED = 400.0
# Frames without friction. After an arrival 160 ms, which run out in the tenth frame, before its friction; after a spawn
# what is left of the engine's hold: +1 comes at frame 56, as measured.
ARRIVAL_SLIDE, SPAWN_SLIDE = 9, 2
TURN = 19.2  # 16-bit angle units a frame for one pixel of look
PITCH_LIMIT = 16000
REWARD_PAD, REWARD_MATCH, REWARD_OTHER = 1.0, -10.0, 10.0
N_STYLES = 8  # wall and floor textures to draw from

_ANGLES = np.arange(65536) * (2 * np.pi / 65536)
COS, SIN = np.cos(_ANGLES), np.sin(_ANGLES)


class RoomWorlds:
    """State of N worlds: arrays over worlds, drawn from one generator for each world."""

    def __init__(self, n: int, settings: RoomSettings) -> None:
        self.n, self.settings = n, settings
        self.layout = plan.Layout(settings.room_scale)
        self.rngs = [np.random.default_rng() for _ in range(n)]
        vectors = action_vectors(settings.actions)
        self._yaw_turn = np.rint(-vectors[:, 0] * TURN).astype(np.int64)
        self._pitch_turn = np.rint(-vectors[:, 1] * TURN).astype(np.int64)
        self._ahead, self._aside = vectors[:, 3].astype(float), vectors[:, 2].astype(float)
        self._moves = (self._ahead != 0) | (self._aside != 0)
        self._solids = np.empty((2, 3, 4))  # [room, box, x0 x1 y0 y1]
        self._bounds = np.array([self.layout.bounds(0), self.layout.bounds(1)])
        nowhere = (1e9, -1e9, 1e9, -1e9)
        for room in (0, 1):
            self._solids[room] = [*self.layout.solids(room), nowhere]
        self._door, self._nowhere = np.array(self.layout.door), np.array(nowhere)
        self.x, self.y, self.vx, self.vy = np.zeros((4, n))
        self.yaw, self.pitch, self.slide, self.door = np.zeros((4, n), np.int64)
        self.room, self.frame = np.zeros((2, n), np.int64)
        self.match, self.other, self.distractor = np.zeros((3, n), np.int64)
        self.example_side, self.match_side = np.zeros((2, n), np.int64)  # 0 left, 1 right
        self.wall_style, self.floor_style = np.zeros((2, n), np.int64)
        self.teleports, self.trials, self.correct, self.wrong = np.zeros((4, n), np.int64)
        self.finished = np.zeros(n, bool)  # the trial is over: the next frame is at the spawn
        self.solids = np.empty((n, 3, 4))
        self.bounds = np.empty((n, 4))
        self.trigger = np.empty((n, 2, 2))  # [world, which, x y]: twice the pad, or both stands
        self.reach = np.empty((n, 1))
        self.changed: set[int] = set(range(n))  # worlds whose scene is no longer what was drawn

    def seed(self, i: int, seed: int | None) -> None:
        self.rngs[i] = np.random.default_rng(seed)

    def begin_episode(self, i: int) -> None:
        """Draw a match object and put world i at its first trial."""
        rng = self.rngs[i]
        self.match[i] = rng.integers(self.settings.objects)
        if self.settings.match_skew and rng.random() < self.settings.match_skew:
            self.match[i] = 0
        if self.settings.textures == "random":
            self.wall_style[i], self.floor_style[i] = rng.integers(N_STYLES, size=2)
        self.frame[i] = 0
        for count in (self.teleports, self.trials, self.correct, self.wrong):
            count[i] = 0
        self._begin_trial(i)

    def stagger(self) -> None:
        """Let the worlds stand at evenly spaced times of their episodes."""
        repeat = self.settings.action_repeat
        self.frame[:] = np.arange(self.n) * (self.settings.frames // repeat) // self.n * repeat

    def _begin_trial(self, i: int) -> None:
        rng, n_objects = self.rngs[i], self.settings.objects
        self.example_side[i], self.match_side[i] = rng.integers(2, size=2)
        self.other[i] = (self.match[i] + 1 + rng.integers(n_objects - 1)) % n_objects
        lo, hi = self.settings.spawn
        spawn = lo + (hi - lo) * rng.random()
        if self.settings.distractor:
            self.distractor[i] = rng.integers(N_OBJECTS)
        self._enter(i, 0, spawn * self.layout.scale, self.layout.spawn_y)
        self.slide[i] = SPAWN_SLIDE
        self.trigger[i] = self.layout.pad
        self.reach[i] = plan.PAD_REACH
        self.finished[i] = False

    def _arrive(self, i: int) -> None:
        self._enter(i, 1, *self.layout.arrival)
        self.vx[i], self.slide[i] = ARRIVAL_SPEED, ARRIVAL_SLIDE
        self.door[i] = self.settings.delay
        if self.settings.delay:
            self.solids[i, 2] = self._door
        self.trigger[i] = self.layout.choice_stands
        self.reach[i] = plan.PICKUP_REACH
        self.teleports[i] += 1

    def _enter(self, i: int, room: int, x: float, y: float) -> None:
        self.room[i], self.x[i], self.y[i] = room, x, y
        self.vx[i] = self.vy[i] = self.yaw[i] = self.pitch[i] = self.door[i] = 0
        self.solids[i], self.bounds[i] = self._solids[room], self._bounds[room]
        self.changed.add(i)

    def step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advance the active worlds by one action each.

        actions int [N], active bool [N] -> rewards float64 [N], ended bool [N].
        """
        rewards = np.zeros(self.n)
        turn, pitch = self._yaw_turn[actions], self._pitch_turn[actions]
        ahead, aside = self._ahead[actions], self._aside[actions]
        moves = self._moves[actions]
        looks = bool(pitch.any())
        waiting = self.door > 0
        for _ in range(self.settings.action_repeat):
            live = active & (self.frame < self.settings.frames)
            if not live.any():
                break
            self.frame += live
            if self.finished.any():
                again = live & self.finished
                for i in np.flatnonzero(again):
                    self._begin_trial(int(i))
                live &= ~again
            self._walk(live, turn, ahead, aside, moves)
            if looks:
                self.pitch = np.clip(self.pitch + pitch * live, -PITCH_LIMIT, PITCH_LIMIT)
            self._touch(live, rewards)
        if waiting.any():
            self._wait_at_door(waiting & active)
        return rewards, active & (self.frame >= self.settings.frames)

    def _walk(
        self,
        live: np.ndarray,
        turn: np.ndarray,
        ahead: np.ndarray,
        aside: np.ndarray,
        moves: np.ndarray,
    ) -> None:
        self.yaw = (self.yaw + turn * live) & 65535
        cos, sin = COS[self.yaw], SIN[self.yaw]
        vx, vy = self.vx, self.vy
        held = self.slide > 0
        speed = np.sqrt(vx * vx + vy * vy)
        drop = np.maximum(speed, STOP_SPEED) * (FRICTION * DT)
        keep = np.maximum(speed - drop, 0.0) / np.maximum(speed, 1e-9)
        keep[held] = 1.0
        vx, vy = vx * keep, vy * keep
        wx, wy = cos * ahead + sin * aside, sin * ahead - cos * aside
        push = np.minimum(np.where(held, AIR_PUSH, GROUND_PUSH), SPEED - vx * wx - vy * wy)
        push = np.maximum(push, 0.0) * moves
        vx, vy = (vx + push * wx) * live, (vy + push * wy) * live
        x, y = self.x + vx * DT, self.y + vy * DT
        inside = _inside(x, y, self.solids)
        if inside.any():
            for i in np.flatnonzero(inside.any(1)):
                self._slide_along(int(i), x, y, vx, vy)
        low_x, high_x, low_y, high_y = self.bounds.T
        cx, cy = np.minimum(np.maximum(x, low_x), high_x), np.minimum(np.maximum(y, low_y), high_y)
        vx[cx != x] = 0.0
        vy[cy != y] = 0.0
        self.x, self.y, self.vx, self.vy = cx, cy, vx, vy
        self.slide -= held & live

    def _slide_along(
        self, i: int, x: np.ndarray, y: np.ndarray, vx: np.ndarray, vy: np.ndarray
    ) -> None:
        """Move world i along x, then along y, stopping at the faces of its solids."""
        old_x, old_y = self.x[i], self.y[i]
        for x0, x1, y0, y1 in self.solids[i]:
            if x0 < x[i] < x1 and y0 < old_y < y1:
                x[i], vx[i] = (x0 if old_x <= x0 else x1), 0.0
        for x0, x1, y0, y1 in self.solids[i]:
            if x0 < x[i] < x1 and y0 < y[i] < y1:
                y[i], vy[i] = (y0 if old_y <= y0 else y1), 0.0

    def _touch(self, live: np.ndarray, rewards: np.ndarray) -> None:
        near = (np.abs(self.trigger[..., 0] - self.x[:, None]) < self.reach) & (
            np.abs(self.trigger[..., 1] - self.y[:, None]) < self.reach
        )
        touched = near.any(1) & live & ~self.finished
        if not touched.any():
            return
        for i in map(int, np.flatnonzero(touched)):
            if self.room[i] == 0:
                rewards[i] += REWARD_PAD
                self._arrive(i)
                continue
            right = not near[i, 0]
            is_match = right == bool(self.match_side[i])
            rewards[i] += REWARD_MATCH if is_match else REWARD_OTHER
            self.correct[i] += not is_match
            self.wrong[i] += is_match
            self.trials[i] += 1
            self.finished[i] = True
            self.changed.add(i)

    def _wait_at_door(self, waiting: np.ndarray) -> None:
        self.door[waiting] = np.maximum(self.door[waiting] - 1, 0)
        for i in map(int, np.flatnonzero(waiting & (self.door == 0))):
            self.solids[i, 2] = self._nowhere
            self.changed.add(i)


def _inside(x: np.ndarray, y: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether points [N] lie in their boxes [N, K, 4]: bool [N, K]."""
    x, y = x[:, None], y[:, None]
    return (x > boxes[..., 0]) & (x < boxes[..., 1]) & (y > boxes[..., 2]) & (y < boxes[..., 3])
