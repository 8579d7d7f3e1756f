"""A map from above: the path so far, where the agent stands, and where it stood in what it looks at."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

from ct_rl.drawing import FAINT, INK, PANEL, Box, Color, fill

_PATH: Color = (215, 218, 224)
_OLD: Color = (72, 76, 86)


def draw_map(
    frame: np.ndarray,
    box: Box,
    path: np.ndarray,
    breaks: np.ndarray,
    *,
    yaw: float | None = None,
    outlines: Sequence[np.ndarray] = (),
    marks: Sequence[tuple[np.ndarray, Color]] = (),
) -> None:
    """Draws into `box`, x to the right and y up, with one scale for both.

    Args:
        path: [T, 2], positions so far, the last one now.
        breaks: bool [T], where a position is not joined to the one before: a new trial, a jump.
        yaw: of the view, degrees counter-clockwise from +x.
        outlines: polygons [n, 2] of what is fixed; with any, the map's bounds are theirs and stay.
        marks: positions [2] to point out, each in its colour.
    """
    fill(frame, box, PANEL)
    if not len(path):
        return
    x, y, width, height = box
    frame = frame[y : y + height, x : x + width]  # nothing is drawn beyond it
    corners = np.concatenate([*outlines]) if len(outlines) else path
    low, high = corners.min(0), corners.max(0)
    extent = np.maximum(high - low, 1e-6 + 0.05 * float((high - low).max()))
    margin = 12
    scale = float(min((width - 2 * margin) / extent[0], (height - 2 * margin) / extent[1]))
    middle = (low + high) / 2

    def at(points: np.ndarray) -> np.ndarray:
        """Pixels, in 1/16 of one."""
        flat = (np.asarray(points) - middle) * (scale, -scale) + (width / 2, height / 2)
        inside = np.clip(flat, (3, 3), (width - 4, height - 4))
        return np.rint(inside * 16).astype(np.int32)

    for outline in outlines:
        cv2.polylines(frame, [at(outline)], True, FAINT, 1, cv2.LINE_AA, 4)
    pixels = at(path)
    age = np.linspace(0, 1, max(len(path), 2))
    for i in range(max(1, len(path) - 600), len(path)):
        if not breaks[i]:
            shade = tuple(int(a + (b - a) * age[i] ** 2) for a, b in zip(_OLD, _PATH, strict=True))
            cv2.line(frame, pixels[i - 1].tolist(), pixels[i].tolist(), shade, 2, cv2.LINE_AA, 4)
    for place, color in marks:
        point = tuple(map(int, at(place)))
        cv2.circle(frame, point, 6 * 16, color, -1, cv2.LINE_AA, 4)
        cv2.circle(frame, point, 6 * 16, PANEL, 1, cv2.LINE_AA, 4)
    now = pixels[-1]
    if yaw is None:
        cv2.circle(frame, tuple(map(int, now)), 6 * 16, INK, -1, cv2.LINE_AA, 4)
        return
    turn = np.radians([yaw, yaw + 140, yaw - 140])
    arrow = now + 16 * 10 * np.stack([np.cos(turn), -np.sin(turn)], 1)
    cv2.fillPoly(frame, [np.rint(arrow).astype(np.int32)], INK, cv2.LINE_AA, 4)


def path_breaks(path: np.ndarray, trials: Sequence[int | None]) -> np.ndarray:
    """bool [T]: positions not reached on foot: a new trial's first, and those after a jump far beyond a usual step."""
    breaks = np.zeros(len(path), bool)
    if len(path) < 2:
        return breaks
    far = np.linalg.norm(np.diff(path, axis=0), axis=1)
    moved = far[far > 0]
    usual = float(np.median(moved)) if len(moved) else 0.0
    breaks[1:] = far > 10 * usual
    breaks[1:] |= [new != old for old, new in pairwise(trials)]
    return breaks
