"""Playing of N room worlds at once, frame by frame as the level does it: moving, touching, scoring.

DMLab units, +y left of +x. A world's state is one entry of each array, and its generator.
"""

from __future__ import annotations

import numpy as np

from envs.actions import action_vectors
from envs.room import layout as plan
from envs.room.movement import FRAME_SECONDS, accelerate, apply_friction, fall
from envs.room.settings import N_OBJECTS, RoomSettings

ARRIVAL_SPEED = 400.0
PAD_FRAMES = (
    2  # frames that begin on the pad until it takes the player: +1 comes at frame 56, as measured
)
LOOK = 1056  # what one pixel of look turns in a frame, in units of 1e-4 degrees
TURN = 3_600_000  # a full turn in these units
PITCH_LIMIT = 878_906  # 16,000 of the engine's 65,536 parts of a turn
REWARD_PAD, REWARD_MATCH, REWARD_OTHER = 1.0, -10.0, 10.0
N_STYLES = 8  # wall and floor textures to draw from

# The engine sends angles in 65,536 parts of a turn.
_ANGLES = np.arange(65536) * (2 * np.pi / 65536)
COS, SIN = np.cos(_ANGLES), np.sin(_ANGLES)


def degrees(angle: np.ndarray) -> np.ndarray:
    """Angles of the state in degrees, -180 to 180."""
    return (angle + TURN // 2) % TURN / 1e4 - 180.0


class RoomWorlds:
    """State of N worlds: arrays over worlds, drawn from one generator for each world."""

    def __init__(self, n: int, settings: RoomSettings) -> None:
        self.n, self.settings = n, settings
        self.layout = plan.Layout(settings.room_scale)
        self.rngs = [np.random.default_rng() for _ in range(n)]
        vectors = action_vectors(settings.actions)
        self._yaw_turn = -vectors[:, 0].astype(np.int64) * LOOK
        self._pitch_turn = -vectors[:, 1].astype(np.int64) * LOOK
        self._ahead, self._aside = vectors[:, 3].astype(float), vectors[:, 2].astype(float)
        self._solids = np.empty((2, 3, 4))  # [room, box, x0 x1 y0 y1]
        self._bounds = np.array([self.layout.bounds(0), self.layout.bounds(1)])
        nowhere = (1e9, -1e9, 1e9, -1e9)
        for room in (0, 1):
            self._solids[room] = [*self.layout.solids(room), nowhere]
        self._door, self._nowhere = np.array(self.layout.door), np.array(nowhere)
        self.x, self.y, self.z, self.vx, self.vy, self.vz = np.zeros((6, n))
        self.yaw, self.pitch, self.door = np.zeros((3, n), np.int64)
        self.room, self.frame = np.zeros((2, n), np.int64)
        self.trial_frame, self.on_pad = np.zeros(
            (2, n), np.int64
        )  # frames of the trial, on the pad
        self.floor = np.full(n, plan.STANDING)  # height of a centre that stands where the player is
        self.dark = np.zeros(n, bool)  # the frame in which the pad takes the player shows nothing
        self.match, self.other, self.distractor = np.zeros((3, n), np.int64)
        self.example_side, self.match_side = np.zeros((2, n), np.int64)  # 0 left, 1 right
        self.wall_style, self.floor_style = np.zeros((2, n), np.int64)
        self.teleports, self.trials, self.correct, self.wrong = np.zeros((4, n), np.int64)
        self.finished = np.zeros(n, bool)  # the trial is over: the next frame is at the spawn
        self.solids = np.empty((n, 3, 4))
        self.bounds = np.empty((n, 4))
        self._pad = np.array(self.layout.pad)
        self._stands = np.array(self.layout.choice_stands)  # [left and right, x y]
        self.changed: set[int] = set(range(n))  # worlds whose scene is no longer what was drawn

    def seed(self, i: int, seed: int | None) -> None:
        self.rngs[i] = np.random.default_rng(seed)

    def begin_episode(self, i: int) -> None:
        """Draw a match object and put world i at its first trial."""
        rng = self.rngs[i]
        self._draw_match(i)
        if self.settings.textures == "random":
            self.wall_style[i], self.floor_style[i] = rng.integers(N_STYLES, size=2)
        self.frame[i] = 0
        for count in (self.teleports, self.trials, self.correct, self.wrong):
            count[i] = 0
        self._begin_trial(i)

    def _draw_match(self, i: int) -> None:
        rng = self.rngs[i]
        self.match[i] = rng.integers(self.settings.objects)
        if self.settings.match_skew and rng.random() < self.settings.match_skew:
            self.match[i] = 0

    def stagger(self) -> None:
        """Let the worlds stand at evenly spaced times of their episodes."""
        repeat = self.settings.action_repeat
        self.frame[:] = np.arange(self.n) * (self.settings.frames // repeat) // self.n * repeat

    def _begin_trial(self, i: int) -> None:
        rng, n_objects = self.rngs[i], self.settings.objects
        if self.settings.match_per_trial and self.trials[i]:
            self._draw_match(i)
        self.example_side[i], self.match_side[i] = rng.integers(2, size=2)
        self.other[i] = (self.match[i] + 1 + rng.integers(n_objects - 1)) % n_objects
        lo, hi = self.settings.spawn
        spawn = lo + (hi - lo) * rng.random()
        if self.settings.distractor:
            self.distractor[i] = rng.integers(N_OBJECTS)
        self._enter(i, 0, spawn * self.layout.scale, self.layout.spawn_y, plan.STANDING)
        self.trial_frame[i] = 0
        self.finished[i] = False

    def _arrive(self, i: int) -> None:
        self._enter(i, 1, *self.layout.arrival)
        self.vx[i], self.dark[i] = ARRIVAL_SPEED, True
        self.door[i] = self.settings.delay
        if self.settings.delay:
            self.solids[i, 2] = self._door
        self.teleports[i] += 1

    def _enter(self, i: int, room: int, x: float, y: float, z: float) -> None:
        self.room[i], self.x[i], self.y[i], self.z[i] = room, x, y, z
        self.floor[i] = plan.STANDING
        self.vx[i] = self.vy[i] = self.vz[i] = 0
        self.yaw[i] = self.pitch[i] = self.door[i] = self.on_pad[i] = 0
        self.solids[i], self.bounds[i] = self._solids[room], self._bounds[room]
        self.changed.add(i)

    def step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advance the active worlds by one action each.

        actions int [N], active bool [N] -> rewards float64 [N], ended bool [N].
        """
        rewards = np.zeros(self.n)
        turn, pitch = self._yaw_turn[actions], self._pitch_turn[actions]
        ahead, aside = self._ahead[actions], self._aside[actions]
        looks = bool(pitch.any())
        waiting = self.door > 0
        for _ in range(self.settings.action_repeat):
            live = active & (self.frame < self.settings.frames)
            if not live.any():
                break
            self.frame += live
            self.dark &= ~live
            if self.finished.any():
                again = live & self.finished
                for i in np.flatnonzero(again):
                    self._begin_trial(int(i))
                live &= ~again
            self._touch(live, rewards)
            self.yaw = (self.yaw + turn * live) % TURN
            if looks:
                self.pitch = np.clip(self.pitch + pitch * live, -PITCH_LIMIT, PITCH_LIMIT)
            self._move(live, ahead, aside)
            self.trial_frame += live
        if waiting.any():
            self._wait_at_door(waiting & active)
        return rewards, active & (self.frame >= self.settings.frames)

    def _move(self, live: np.ndarray, ahead: np.ndarray, aside: np.ndarray) -> None:
        seconds = FRAME_SECONDS[self.trial_frame % 3] * live
        floor = self.floor
        on_ground = self.z <= floor
        sent = self.yaw * 65536 // TURN
        cos, sin = COS[sent], SIN[sent]
        vx, vy = apply_friction(self.vx, self.vy, seconds, on_ground)
        wish_x, wish_y = cos * ahead + sin * aside, sin * ahead - cos * aside
        vx, vy = accelerate(vx, vy, wish_x, wish_y, seconds, on_ground)
        x, y = self.x + vx * seconds, self.y + vy * seconds
        inside = _inside(x, y, self.solids)
        if inside.any():
            for i in np.flatnonzero(inside.any(1)):
                self._slide_along(int(i), x, y, vx, vy)
        low_x, high_x, low_y, high_y = self.bounds.T
        cx, cy = np.minimum(np.maximum(x, low_x), high_x), np.minimum(np.maximum(y, low_y), high_y)
        vx[cx != x] = 0.0
        vy[cy != y] = 0.0
        if not on_ground.all():
            z, vz = fall(self.z, self.vz, floor, seconds)
            self.z, self.vz = np.where(on_ground, self.z, z), np.where(on_ground, self.vz, vz)
        self.x, self.y, self.vx, self.vy = cx, cy, np.rint(vx), np.rint(vy)
        self.floor = self._height_under()
        np.maximum(self.z, self.floor, out=self.z)  # steps up onto the plinth

    def _height_under(self) -> np.ndarray:
        """Height [N] at which the players' centres stand, where they are."""
        raised = (
            (np.abs(self.x - self._pad[0]) < plan.PLINTH)
            & (np.abs(self.y - self._pad[1]) < plan.PLINTH)
            & (self.room == 0)
        )
        return plan.STANDING + plan.PLINTH_Z * raised

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
        """What the players touch where the last frame left them."""
        on_pad = (np.abs(self.x - self._pad[0]) < plan.PAD_REACH) & (
            np.abs(self.y - self._pad[1]) < plan.PAD_REACH
        )
        on_pad &= live & (self.room == 0)
        if on_pad.any():
            self.on_pad[on_pad] += 1
        elif not (live & (self.room == 1)).any():
            return
        self.on_pad[live & ~on_pad] = 0
        for i in map(int, np.flatnonzero(self.on_pad >= PAD_FRAMES)):
            rewards[i] += REWARD_PAD
            self._arrive(i)
        x0, x1, y0, y1 = plan.PICKUP
        dx, dy = self._stands[:, :1] - self.x, self._stands[:, 1:] - self.y  # [left and right, N]
        near = (dx >= x0) & (dx <= x1) & (dy >= y0) & (dy <= y1)
        touched = near.any(0) & live & (self.room == 1)
        for i in map(int, np.flatnonzero(touched)):
            right = not near[0, i]
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
