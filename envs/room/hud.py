"""The level's head-up display over a frame: health, ammunition, score and seconds left, in our own small digits."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

_ROWS = {  # each three wide and five high, a bit a pixel
    "0": (7, 5, 5, 5, 7),
    "1": (2, 6, 2, 2, 7),
    "2": (7, 1, 7, 4, 7),
    "3": (7, 1, 7, 1, 7),
    "4": (5, 5, 7, 1, 1),
    "5": (7, 4, 7, 1, 7),
    "6": (7, 4, 7, 5, 7),
    "7": (7, 1, 1, 2, 2),
    "8": (7, 5, 7, 5, 7),
    "9": (7, 5, 7, 1, 7),
    "-": (0, 0, 7, 0, 0),
    "+": (0, 2, 7, 2, 0),
}
_PLATE = (16, 24, 36)
_RED, _YELLOW, _WHITE, _CYAN = (230, 70, 60), (240, 200, 60), (240, 240, 240), (90, 230, 240)
_PLATE_HEIGHT = 7
HEALTH, AMMUNITION = 100, 10  # nothing in the task changes either


class Hud:
    """Draws the display of N worlds into their frames [N, height, width, 3], at 72x96 seven pixels high.

    Args:
        height, width: of a frame; one too small for the display stays as it is.
    """

    def __init__(self, height: int, width: int) -> None:
        size = max(1, min(height // 72, width // 96))
        self._fits = height >= 2 * (_PLATE_HEIGHT + 2) and width >= 48
        self._health = _plate(f"+{HEALTH:3d}", _RED, size)
        self._ammunition = _plate(f"{AMMUNITION:2d}", _YELLOW, size)
        self._seconds = _Plates(lambda left: _plate(f"{min(left, 99):2d}", _WHITE, size))
        self._score = _Plates(lambda score: _plate(f"{min(max(score, -99), 999):3d}", _CYAN, size))
        self._bottom, self._right = height - 1, width - 1

    def draw(self, frames: np.ndarray, seconds_left: np.ndarray, score: np.ndarray) -> None:
        """Puts whole seconds left and score, int [N] each, into uint8 frames in place; 99 and more seconds are 99."""
        if not self._fits:
            return
        seconds, points = self._seconds.of(seconds_left), self._score.of(score)
        bottom, right = self._bottom, self._right
        tall, wide = self._health.shape[:2]
        frames[:, bottom - tall : bottom, 1 : 1 + wide] = self._health
        wide = self._ammunition.shape[1]
        frames[:, bottom - tall : bottom, right - wide : right] = self._ammunition
        frames[:, 1 : 1 + tall, 1 : 1 + points.shape[2]] = points
        frames[:, 1 : 1 + tall, right - seconds.shape[2] : right] = seconds


class _Plates:
    """Plates of N numbers, kept for as long as the numbers stay: most steps change none."""

    def __init__(self, make: Callable[[int], np.ndarray]) -> None:
        self._make = functools.cache(make)
        self._numbers, self._plates = np.empty(0, np.int64), np.empty(0, np.uint8)

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """uint8 [N, height, width, 3] for int [N]."""
        if not np.array_equal(numbers, self._numbers):
            self._numbers = numbers.copy()
            self._plates = np.array([self._make(number) for number in numbers.tolist()])
        return self._plates


def _plate(text: str, colour: tuple[int, int, int], size: int) -> np.ndarray:
    """Characters on a dark plate, uint8 [7 * size, (4 * characters + 1) * size, 3]."""
    plate = np.empty((_PLATE_HEIGHT, 4 * len(text) + 1, 3), np.uint8)
    plate[:] = _PLATE
    for k, character in enumerate(text):
        for y, bits in enumerate(_ROWS.get(character, (0,) * 5)):
            for x in range(3):
                if bits >> (2 - x) & 1:
                    plate[1 + y, 1 + 4 * k + x] = colour
    return plate.repeat(size, 0).repeat(size, 1)
