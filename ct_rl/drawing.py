"""What the films are drawn with: colours that everyone can tell apart, text, boxes, pictures that fit."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ct_rl.colours import PALETTE

Color = tuple[int, int, int]
Box = tuple[int, int, int, int]  # x, y, width, height

BACKGROUND: Color = (18, 20, 26)
PANEL: Color = (32, 35, 43)
INK: Color = (232, 234, 238)
FAINT: Color = (150, 155, 165)


def _rgb(name: str) -> Color:
    red, green, blue = bytes.fromhex(PALETTE[name].removeprefix("#"))
    return red, green, blue


PLACES: tuple[Color, Color, Color] = (_rgb("purple"), _rgb("orange"), _rgb("sky"))
PLACE_NAMES = ("compressed memory", "memory", "window")
GOOD: Color = (0, 190, 140)
BAD: Color = (240, 100, 30)
CURVE: Color = (240, 228, 66)


@lru_cache(maxsize=8)
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


@lru_cache(maxsize=4096)
def _glyphs(words: str, size: int, bold: bool) -> np.ndarray:
    """How much ink each pixel gets: float32 [H, W, 1]; all texts of a size are equally high."""
    font = _font(size, bold)
    rise, fall = font.getmetrics()
    ink = Image.new("L", (max(1, int(font.getlength(words) + 2)), rise + fall))
    ImageDraw.Draw(ink).text((0, 0), words, fill=255, font=font)
    return np.asarray(ink, np.float32)[..., None] / 255


def text_width(words: str, size: int = 13, bold: bool = False) -> int:
    """Pixels that a text takes."""
    return _glyphs(words, size, bold).shape[1]


def text(
    frame: np.ndarray,
    words: str,
    at: tuple[int, int],
    size: int = 13,
    color: Color = INK,
    *,
    bold: bool = False,
    align: str = "left",
    most: int | None = None,
) -> None:
    """Writes onto a frame, with the upper left corner at `at` (or the upper right, or the middle above).

    What is wider than `most` pixels, or than the frame, is cut.
    """
    if most is not None:
        words = shortened(words, most, size, bold)
    ink = _glyphs(words, size, bold)
    x, y = at
    x -= {"left": 0, "middle": ink.shape[1] // 2, "right": ink.shape[1]}[align]
    x, y = max(x, 0), max(y, 0)
    part = frame[y : y + ink.shape[0], x : x + ink.shape[1]]
    ink = ink[: part.shape[0], : part.shape[1]]
    part[:] = (part + (np.array(color, np.float32) - part) * ink + 0.5).astype(np.uint8)


@lru_cache(maxsize=1024)
def shortened(words: str, most: int, size: int, bold: bool = False) -> str:
    """A text that fits into `most` pixels."""
    if text_width(words, size, bold) <= most:
        return words
    while words and text_width(words + "...", size, bold) > most:
        words = words[:-1]
    return words + "..."


def fill(frame: np.ndarray, box: tuple[float, float, float, float], color: Color) -> None:
    """Fills a box; one without width or height is left out."""
    x, y, width, height = (round(side) for side in box)
    if width > 0 and height > 0:
        frame[max(y, 0) : y + height, max(x, 0) : x + width] = color


def fitted(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture [H, W, 3] in the middle of a dark one of this size, its shape kept; small ones keep hard edges."""
    rows, columns = picture.shape[:2]
    factor = min(width / columns, height / rows)
    size = (max(1, round(columns * factor)), max(1, round(rows * factor)))
    way = cv2.INTER_NEAREST if factor > 1 else cv2.INTER_AREA
    scaled = picture if size == (columns, rows) else cv2.resize(picture, size, interpolation=way)
    out = np.full((height, width, 3), BACKGROUND, np.uint8)
    x, y = (width - size[0]) // 2, (height - size[1]) // 2
    out[y : y + size[1], x : x + size[0]] = scaled
    return out
