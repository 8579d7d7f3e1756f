"""What a level eye cannot see wherever it is in a room: it need not be drawn, and the picture stays the same."""

from __future__ import annotations

import numpy as np

_MARGIN = 1.0  # units that a point must lie outside a plane of the view


def may_be_seen(
    triangles: np.ndarray, eyes: np.ndarray, yaws: np.ndarray, slope: float
) -> np.ndarray:
    """Whether triangles [K, 3, 3] may be in a view 90 degrees wide: bool [K].

    A triangle is not where, for every eye and every yaw, all its corners lie beyond one plane of the view: to the
    left, to the right, above, below or behind the eye.

    Args:
        eyes: the box that holds every eye, [low and high, x y z].
        yaws: radians, close enough together that a plane between two of them adds nothing.
        slope: half a frame's height by half its width.
    """
    middle, half = eyes.mean(0), (eyes[1] - eyes[0]) / 2
    ahead = np.stack([np.cos(yaws), np.sin(yaws), 0 * yaws], 1)
    left = np.stack([-np.sin(yaws), np.cos(yaws), 0 * yaws], 1)
    up = np.array([0.0, 0.0, 1.0])
    outward = [left - ahead, -left - ahead, up - slope * ahead, -up - slope * ahead, -ahead]
    seen = np.zeros(len(triangles), bool)
    for normals in zip(*outward, strict=True):  # of one yaw
        hidden = np.zeros(len(triangles), bool)
        for normal in normals:
            beyond = (triangles - middle) @ normal - half @ np.abs(normal)
            hidden |= (beyond > _MARGIN).all(1)
        seen |= ~hidden
    return seen
