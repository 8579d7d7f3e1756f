"""The level's rules in numpy, for N worlds at once: walls, walking, teleport, choice, rewards.

Units are Quake's: +x is ahead of the spawn, +y its left, yaw counter-clockwise. A frame is 16 ms of engine time.
Measured on the real engine or read from its map (em_non_match), unless a comment says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FRAME_SECONDS = 0.016
FRAMES_PER_SECOND = 60  # DeepMind Lab counts 60 frames to an episode's second
PLAYER_HALF = 15.0  # the player is a box of 30 x 30
RUN_SPEED = 320.0
TURN_PER_FRAME = np.radians(2.1125)  # at 20 pixels a frame

SPAWN = (-232.0, -64.0)
ROOM_1 = ((-256.0, 128.0), (-256.0, 128.0))  # (x from, to), (y from, to)
CORRIDOR = ((256.0, 384.0), (-128.0, 0.0))
HALL = ((384.0, 640.0), (-248.0, 128.0))
WALL_HEIGHT = 128.0
PAD = (64.0, -64.0)
PAD_HALF = 24.0  # the trigger; the pad itself is 64 wide
EXAMPLE_STANDS = ((40.0, 64.0), (40.0, -192.0))  # left, right
EXAMPLE_HEIGHT = 40.0
CAGE_HALF = 40.0  # keeps the player away from an example, unseen
CHOICE_STANDS = ((600.0, 64.0), (600.0, -192.0))  # left, right
CHOICE_HEIGHT = 48.0
PICKUP_HALF = 30.0
ARRIVAL = (288.0, -64.0)
ARRIVAL_SPEED = 400.0
# Chosen so that a player who does nothing slides about 100 units, as measured.
ARRIVAL_HOLD_FRAMES = 7
# Chosen so that walking straight reaches the pad in frame 56, as measured.
SPAWN_HOLD_FRAMES = 2

REWARD_TELEPORT, REWARD_MATCH, REWARD_NON_MATCH = 1.0, -10.0, 10.0
NUM_OBJECTS = 36
SIDES = ("left", "right")

# Quake III's ground movement (bg_pmove.c): friction, stop speed, acceleration.
_FRICTION, _STOP_SPEED, _ACCELERATE = 6.0, 100.0, 10.0

# DeepMind Lab's action vectors, cut to (look, strafe, forward); look is in units of 20 pixels a frame to the RIGHT.
IMPALA_ACTIONS = {
    "forward": (0.0, 0, 1),
    "backward": (0.0, 0, -1),
    "strafe_left": (0.0, -1, 0),
    "strafe_right": (0.0, 1, 0),
    "look_left": (-1.0, 0, 0),
    "look_right": (1.0, 0, 0),
    "forward_look_left": (-1.0, 0, 1),
    "forward_look_right": (1.0, 0, 1),
    "fire": (0.0, 0, 0),
}
# Looking up and down changes nothing that this level's player can use; it is kept as a step that does nothing.
EXTENDED_ACTIONS = {
    "forward": (0.0, 0, 1),
    "backward": (0.0, 0, -1),
    "strafe_left": (0.0, -1, 0),
    "strafe_right": (0.0, 1, 0),
    "look_left_slow": (-0.5, 0, 0),
    "look_right_slow": (0.5, 0, 0),
    "look_left_fast": (-3.0, 0, 0),
    "look_right_fast": (3.0, 0, 0),
    "look_down": (0.0, 0, 0),
    "look_up": (0.0, 0, 0),
    "forward_look_left_slow": (-0.5, 0, 1),
    "forward_look_right_slow": (0.5, 0, 1),
    "forward_look_left_fast": (-3.0, 0, 1),
    "forward_look_right_fast": (3.0, 0, 1),
    "fire": (0.0, 0, 0),
}
ACTION_SETS = {"impala": IMPALA_ACTIONS, "extended": EXTENDED_ACTIONS}


@dataclass
class Worlds:
    """N worlds, each with random numbers of its own, so that none depends on its neighbours.

    Attributes:
        position, velocity: [N, 2]; yaw: [N] radians, not wrapped.
        room: [N] 0 or 1; trial: [N], from 0.
        match: [N] object of the episode; other: [N] of the trial.
        example_side, match_side: [N], 0 left, 1 right.
        hold: [N] frames left without friction after arrival; still: [N] frames left without walking after spawn.
        teleports, correct, wrong: [N], of the running episode.
    """

    num: int
    objects: int
    spawn: tuple[float, float]

    def __post_init__(self) -> None:
        n = self.num
        self.rng = [np.random.default_rng(i) for i in range(n)]
        self.position, self.velocity = np.zeros((n, 2)), np.zeros((n, 2))
        self.yaw = np.zeros(n)
        self.hold, self.still = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.room, self.trial = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.match, self.other = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.example_side, self.match_side = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.teleports, self.correct, self.wrong = (np.zeros(n, np.int64) for _ in range(3))
        # The objects in play are spread over all 36, so that a few differ in shape and colour.
        self.pool = np.arange(self.objects) * NUM_OBJECTS // self.objects

    def begin_episode(self, i: int) -> None:
        """A new match object, and counts from zero."""
        self.match[i] = self.rng[i].choice(self.pool)
        self.trial[i] = self.teleports[i] = self.correct[i] = self.wrong[i] = 0
        self._begin_trial(i)

    def _begin_trial(self, i: int) -> None:
        rng = self.rng[i]
        others = self.pool[self.pool != self.match[i]]
        self.other[i] = rng.choice(others)
        self.example_side[i], self.match_side[i] = rng.integers(2), rng.integers(2)
        low, high = self.spawn
        self.position[i] = (low + (high - low) * rng.random(), SPAWN[1])
        self.velocity[i] = self.yaw[i] = self.room[i] = self.hold[i] = 0
        self.still[i] = SPAWN_HOLD_FRAMES

    def frame(self, actions: np.ndarray) -> np.ndarray:
        """Moves every world by one frame.

        Args:
            actions: [N, 3] (look, strafe, forward), as in `IMPALA_ACTIONS`.

        Returns:
            Rewards [N].
        """
        self.yaw -= actions[:, 0] * TURN_PER_FRAME
        able = self.still == 0
        self._accelerate(actions[:, 1] * able, actions[:, 2] * able)
        self.still = np.maximum(self.still - 1, 0)
        before = self.position.copy()
        self.position += self.velocity * FRAME_SECONDS
        self._collide(before)
        self.hold = np.maximum(self.hold - 1, 0)
        rewards = np.zeros(self.num)
        in_first = self.room == 0
        on_pad = in_first & self._near(PAD, PAD_HALF + PLAYER_HALF)
        for i in np.flatnonzero(on_pad):
            rewards[i] += REWARD_TELEPORT
            self._teleport(i)
        for side, stand in enumerate(CHOICE_STANDS):
            for i in np.flatnonzero(~in_first & (self.room == 1) & self._near(stand, PICKUP_HALF)):
                is_match = self.match_side[i] == side
                rewards[i] += REWARD_MATCH if is_match else REWARD_NON_MATCH
                self.wrong[i] += is_match
                self.correct[i] += not is_match
                self.trial[i] += 1
                self._begin_trial(i)
        return rewards

    def _teleport(self, i: int) -> None:
        self.teleports[i] += 1
        self.room[i] = 1
        self.position[i] = ARRIVAL
        self.velocity[i] = (ARRIVAL_SPEED, 0.0)
        self.yaw[i] = 0.0
        self.hold[i] = ARRIVAL_HOLD_FRAMES

    def _near(self, place: tuple[float, float], half: float) -> np.ndarray:
        return (np.abs(self.position - place) < half).all(1)

    def _accelerate(self, strafe: np.ndarray, forward: np.ndarray) -> None:
        velocity = self.velocity
        speed = np.hypot(velocity[:, 0], velocity[:, 1])
        drop = np.maximum(speed, _STOP_SPEED) * _FRICTION * FRAME_SECONDS
        left = np.where(self.hold > 0, speed, np.maximum(speed - drop, 0.0))
        velocity *= np.divide(left, speed, out=np.zeros_like(speed), where=speed > 0)[:, None]
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        wish = np.stack([cos * forward + sin * strafe, sin * forward - cos * strafe], 1)
        length = np.hypot(wish[:, 0], wish[:, 1])
        wish /= np.maximum(length, 1.0)[:, None]
        towards = (velocity * wish).sum(1)
        gain = np.clip(RUN_SPEED - towards, 0.0, _ACCELERATE * FRAME_SECONDS * RUN_SPEED)
        velocity += wish * np.where(length > 0, gain, 0.0)[:, None]

    def _collide(self, before: np.ndarray) -> None:
        """Keeps every player in its room; what runs into a wall slides along it."""
        p, h = self.position, PLAYER_HALF
        wanted = p.copy()
        first = self.room == 0
        low = np.where(first[:, None], (ROOM_1[0][0], ROOM_1[1][0]), (CORRIDOR[0][0], HALL[1][0]))
        high = np.where(first[:, None], (ROOM_1[0][1], ROOM_1[1][1]), (HALL[0][1], HALL[1][1]))
        np.clip(p, low + h, high - h, out=p)
        # Between corridor and hall: beside the opening, x may not enter the corridor, nor y leave it.
        beside = (before[:, 1] < CORRIDOR[1][0] + h) | (before[:, 1] > CORRIDOR[1][1] - h)
        entering = ~first & (p[:, 0] < HALL[0][0] + h)
        p[:, 0] = np.where(entering & beside, HALL[0][0] + h, p[:, 0])
        inside = ~first & (p[:, 0] < HALL[0][0] + h) & ~beside
        narrow = np.clip(p[:, 1], CORRIDOR[1][0] + h, CORRIDOR[1][1] - h)
        p[:, 1] = np.where(inside, narrow, p[:, 1])
        for x, y in EXAMPLE_STANDS:
            self._keep_out(first, before, (x, y), CAGE_HALF + h)
        self.velocity = np.where(p == wanted, self.velocity, 0.0)

    def _keep_out(
        self, where: np.ndarray, before: np.ndarray, centre: tuple[float, float], half: float
    ) -> None:
        """Pushes players out of a square along the axis by which they entered."""
        p = self.position
        inside = where & (np.abs(p - centre) < half).all(1)
        if not inside.any():
            return
        was_out = np.abs(before - centre) >= half
        for axis in (0, 1):
            hit = inside & was_out[:, axis]
            side = np.sign(before[:, axis] - centre[axis])
            p[hit, axis] = centre[axis] + side[hit] * half
            inside &= ~hit
