"""The plan of em_non_match: walls, stands, pad, cages, in DMLab units (x forward, y left)."""

from __future__ import annotations

from dataclasses import dataclass

PLAYER = 15.0  # half width of the player's box
EYE = 26.0  # height of the eye above the player's centre
STANDING = 24.125  # height of the player's centre on the floor
GAP = 0.125  # what the engine leaves between a player and a wall
WALL = 128.0  # height of the walls, under an open sky
PAD_REACH = 24.0 + PLAYER  # the trigger is 48 wide
# An object is picked up where (object - player) is in this box, in the world's axes however one looks at it.
PICKUP = (-50.0, 44.0, -36.0, 36.0)  # x0, x1, y0, y1
PLINTH, PLINTH_Z = 32.0 + PLAYER, 10.0  # half width, height of the unseen step under the pad
CAGE = 40.0  # half width of the invisible cage round a stand of room 1
OBJECT_Z = 35.0  # height of the objects' centres, in the middle of their bobbing
DISTRACTOR_Z = 104.0  # high enough to be seen over the way and not to be reached
DOOR = 8.0  # thickness of the door that a delay puts into the corridor's mouth

Box = tuple[float, float, float, float]  # x0, x1, y0, y1


@dataclass(frozen=True)
class Layout:
    """Both rooms' plan; `scale` stretches it, while player, stands and cages keep their size."""

    scale: float = 1.0

    def at(self, x: float, y: float) -> tuple[float, float]:
        return x * self.scale, y * self.scale

    @property
    def spawn_y(self) -> float:
        return -64 * self.scale

    @property
    def pad(self) -> tuple[float, float]:
        return self.at(64, -64)

    @property
    def arrival(self) -> tuple[float, float, float]:
        return *self.at(288, -64), 49.0

    @property
    def example_stands(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Left and right stand of room 1."""
        return self.at(40, 64), self.at(40, -192)

    @property
    def choice_stands(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Left and right stand of room 2."""
        return self.at(600, 64), self.at(600, -192)

    @property
    def distractor(self) -> tuple[float, float]:
        return self.at(400, -64)

    def outline(self, room: int) -> list[tuple[float, float]]:
        """Corners of a room's floor, counter-clockwise seen from above."""
        corners = (
            [(-256, -256), (128, -256), (128, 128), (-256, 128)],
            [
                (256, -128),
                (384, -128),
                (384, -248),
                (640, -248),
                (640, 128),
                (384, 128),
                (384, 0),
                (256, 0),
            ],
        )[room]
        return [self.at(x, y) for x, y in corners]

    def bounds(self, room: int) -> Box:
        """The box that holds the player's centre."""
        xs, ys = zip(*self.outline(room), strict=True)
        reach = PLAYER + GAP
        return min(xs) + reach, max(xs) - reach, min(ys) + reach, max(ys) - reach

    def solids(self, room: int) -> list[Box]:
        """Boxes the player's centre cannot enter: cages in room 1, the corridor's walls in room 2."""
        if room == 0:
            reach = CAGE + PLAYER + GAP
            return [(x - reach, x + reach, y - reach, y + reach) for x, y in self.example_stands]
        s, far = self.scale, 1e6
        reach = PLAYER + GAP
        mouth = 384 * s + reach
        return [(-far, mouth, -reach, far), (-far, mouth, -far, -128 * s + reach)]

    @property
    def door(self) -> Box:
        """The closed door as a solid for the player's centre."""
        x = 384 * self.scale
        return x - PLAYER, x + DOOR + PLAYER, -1e6, 1e6
