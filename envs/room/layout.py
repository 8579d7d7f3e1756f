"""The plan of em_non_match: walls, stands, pad, cages, in DMLab units (x forward, y left)."""

from __future__ import annotations

from dataclasses import dataclass

PLAYER = 15.0  # half width of the player's box
EYE = 50.0  # height of the eye above the floor
WALL = 128.0  # height of the walls, under an open sky
PAD_REACH = 24.0 + PLAYER  # the trigger is 48 wide
PICKUP_REACH = 15.0 + PLAYER  # an object's box is 30 wide
CAGE = 40.0  # half width of the invisible cage round a stand of room 1
EXAMPLE_Z, CHOICE_Z = 40.0, 48.0  # heights of the objects' centres
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
    def arrival(self) -> tuple[float, float]:
        return self.at(288, -64)

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
        return min(xs) + PLAYER, max(xs) - PLAYER, min(ys) + PLAYER, max(ys) - PLAYER

    def solids(self, room: int) -> list[Box]:
        """Boxes the player's centre cannot enter: cages in room 1, the corridor's walls in room 2."""
        if room == 0:
            reach = CAGE + PLAYER
            return [(x - reach, x + reach, y - reach, y + reach) for x, y in self.example_stands]
        s, far = self.scale, 1e6
        mouth = 384 * s + PLAYER
        return [(-far, mouth, -PLAYER, far), (-far, mouth, -far, -128 * s + PLAYER)]

    @property
    def door(self) -> Box:
        """The closed door as a solid for the player's centre."""
        x = 384 * self.scale
        return x - PLAYER, x + DOOR + PLAYER, -1e6, 1e6
