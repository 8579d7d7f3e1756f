"""Playing of N room worlds at once, frame by frame as the level does it: moving, touching, scoring.

DMLab units, +y left of +x. A world's state is one entry of each array, and its generator.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from envs.actions import action_vectors
from envs.room import layout as plan
from envs.room.movement import (
    AIR_ACCELERATION,
    FRAME_SECONDS,
    FRICTION,
    GROUND_ACCELERATION,
    SPEED,
    accelerate,
    apply_friction,
    fall,
)
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
        nowhere = (1e9, -1e9, 1e9, -1e9)
        solids = [[*self.layout.solids(room), nowhere] for room in (0, 1)]
        self._solids = np.array([_corners(boxes) for boxes in solids])
        self._bounds = np.array([_corners([self.layout.bounds(room)]) for room in (0, 1)])
        self._door, self._nowhere = _corners([self.layout.door]), _corners([nowhere])
        self.position, self.velocity = np.zeros((2, 2, n))  # each [x and y, N]
        self._name_axes()
        self.z, self.vz = np.zeros((2, n))
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
        self.solids = np.empty((2, 2, 3, n))  # [low and high, x and y, box, N]
        self.bounds = np.empty((2, 2, 1, n))
        self._pad = np.array(self.layout.pad)[:, None]
        self._stands = np.array(self.layout.choice_stands)  # [left and right, x y]
        self.changed: set[int] = set()  # worlds whose scene is no longer what was drawn

    def _name_axes(self) -> None:
        (self.x, self.y), (self.vx, self.vy) = self.position, self.velocity

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._name_axes()  # a copy's would be arrays of their own

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
        self.match[i] = self.rngs[i].integers(self.settings.objects)

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
        low, high = self.settings.delays
        self.door[i] = low if low == high else self.rngs[i].integers(low, high, endpoint=True)
        if self.door[i]:
            self.solids[..., 2:, i] = self._door
        self.teleports[i] += 1

    def _enter(self, i: int, room: int, x: float, y: float, z: float) -> None:
        self.room[i], self.x[i], self.y[i], self.z[i] = room, x, y, z
        self.floor[i] = plan.STANDING
        self.vx[i] = self.vy[i] = self.vz[i] = 0
        self.yaw[i] = self.pitch[i] = self.door[i] = self.on_pad[i] = 0
        self.solids[..., i], self.bounds[..., i] = self._solids[room], self._bounds[room]
        self.changed.add(i)

    def step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advance the active worlds by one action each.

        actions int [N], active bool [N] -> rewards float64 [N], ended bool [N].
        """
        rewards = np.zeros(self.n)
        repeat, frames = self.settings.action_repeat, self.settings.frames
        pitch = self._pitch_turn[actions]
        looks = bool(pitch.any())
        waiting = self.door > 0
        together = bool(active.all()) and int(self.frame.max()) + repeat <= frames
        near_pad = True  # or not known
        course: list[_Course] = []
        for k in range(repeat):
            live = active if together else active & (self.frame < frames)
            if not together and not live.any():
                break
            self.frame += live
            if np.count_nonzero(self.dark):
                self.dark &= ~live
            again = live & self.finished
            restarts = np.flatnonzero(again)
            for i in map(int, restarts):
                self._begin_trial(i)
            if len(restarts):
                live = live & ~again
            if (near_pad and self._touch_pad(live, rewards)) or len(restarts):
                course = []  # somebody looks elsewhere now
            self._touch_objects(live, rewards)
            if not course:
                whole = together and not len(restarts)
                course = self._course(actions, live, repeat - k if whole else 1)
            now = course.pop(0)
            self.yaw = now.yaw
            if looks:
                self.pitch = np.clip(self.pitch + pitch * live, -PITCH_LIMIT, PITCH_LIMIT)
            near_pad = self._move(now)
            self.trial_frame += live
        if waiting.any():
            self._wait_at_door(waiting & active)
        return rewards, active & (self.frame >= frames)

    def _course(self, actions: np.ndarray, live: np.ndarray, count: int) -> list[_Course]:
        """What the actions ask for in each of the next `count` frames, in which only the live worlds move."""
        frames = np.arange(count)[:, None]  # [F, 1]; below [F, N]
        yaw = (self.yaw + self._yaw_turn[actions] * live * (frames + 1)) % TURN
        sent = yaw * 65536 // TURN
        cos, sin = COS[sent], SIN[sent]
        ahead, aside = self._ahead[actions], self._aside[actions]
        wish = np.stack([cos * ahead + sin * aside, sin * ahead - cos * aside], 1)  # [F, 2, N]
        seconds = FRAME_SECONDS[(self.trial_frame + frames) % 3] * live
        friction, push = FRICTION * seconds, SPEED * seconds
        return list(map(_Course, yaw, wish, seconds, friction, GROUND_ACCELERATION * push))

    def _move(self, now: _Course) -> bool:
        """Move all worlds by one frame; returns whether somebody may be on the pad."""
        seconds, friction, push = now.seconds, now.friction, now.push
        on_ground = self.z <= self.floor
        falling = np.count_nonzero(on_ground) < self.n
        if falling:
            friction = friction * on_ground
            push = np.where(on_ground, push, AIR_ACCELERATION * (SPEED * seconds))
        velocity = accelerate(apply_friction(self.velocity, friction), now.wish, push)
        position = self.position + velocity * seconds
        inside = _inside(position, self.solids)
        if np.count_nonzero(inside):
            for i in np.flatnonzero(inside.any(0)):
                self._slide_along(int(i), position, velocity)
        low, high = self.bounds[:, :, 0]
        self.position[:] = np.minimum(np.maximum(position, low), high)
        np.copyto(velocity, 0.0, where=self.position != position)
        np.rint(velocity, out=self.velocity)
        if falling:
            z, vz = fall(self.z, self.vz, self.floor, seconds)
            self.z, self.vz = np.where(on_ground, self.z, z), np.where(on_ground, self.vz, vz)
        near = np.abs(self.position - self._pad) < plan.PLINTH
        raised = near[0] & near[1] & (self.room == 0)
        near_pad = bool(np.count_nonzero(raised))
        self.floor[:] = plan.STANDING
        if near_pad:
            self.floor[raised] += plan.PLINTH_Z
        np.maximum(self.z, self.floor, out=self.z)  # steps up onto the plinth
        return near_pad or bool(np.count_nonzero(self.on_pad))

    def _slide_along(self, i: int, position: np.ndarray, velocity: np.ndarray) -> None:
        """Move world i along x, then along y, stopping at the faces of its solids."""
        boxes = self.solids[..., i].reshape(4, -1).T  # rows of x0, y0, x1, y1
        old_x, old_y = self.position[:, i]
        for x0, y0, x1, y1 in boxes:
            if x0 < position[0, i] < x1 and y0 < old_y < y1:
                position[0, i], velocity[0, i] = (x0 if old_x <= x0 else x1), 0.0
        for x0, y0, x1, y1 in boxes:
            if x0 < position[0, i] < x1 and y0 < position[1, i] < y1:
                position[1, i], velocity[1, i] = (y0 if old_y <= y0 else y1), 0.0

    def _touch_pad(self, live: np.ndarray, rewards: np.ndarray) -> bool:
        """Teleport who has been on the pad for long enough; returns whether somebody was."""
        near = np.abs(self.position - self._pad) < plan.PAD_REACH
        on_pad = near[0] & near[1] & (self.room == 0)
        self.on_pad = np.where(live, (self.on_pad + 1) * on_pad, self.on_pad)
        taken = np.flatnonzero(live & (self.on_pad >= PAD_FRAMES))
        for i in map(int, taken):
            rewards[i] += REWARD_PAD
            self._arrive(i)
        return len(taken) > 0

    def _touch_objects(self, live: np.ndarray, rewards: np.ndarray) -> None:
        """Score who is within reach of an object of room 2, where the last frame left him."""
        x0, x1, y0, y1 = plan.PICKUP
        if not np.count_nonzero(self.x > self._stands[0, 0] - x1 - 1):
            return
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
            self.solids[..., 2:, i] = self._nowhere
            self.changed.add(i)


class _Course(NamedTuple):
    """One frame of `RoomWorlds._course`: [N], and the unit vector that players push along [2, N]."""

    yaw: np.ndarray
    wish: np.ndarray
    seconds: np.ndarray
    friction: np.ndarray
    push: np.ndarray


def _corners(boxes: list[plan.Box]) -> np.ndarray:
    """Boxes (x0, x1, y0, y1) as [low and high, x and y, box]."""
    return np.array(boxes).reshape(-1, 2, 2).transpose(2, 1, 0)


def _inside(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether points [2, N] lie in their boxes [2, 2, K, N]: bool [K, N]."""
    at = points[:, None]
    within = (at > boxes[0]) & (at < boxes[1])
    return within[0] & within[1]
