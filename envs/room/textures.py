"""Textures drawn with numpy: walls, floors, and the patterns that tell the 36 objects apart."""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Callable

import cv2
import numpy as np

from envs.room.shapes import SHAPES

SHAPE_NAMES = tuple(SHAPES)
_TONES = ((0.95, 0.95), (0.45, 1.0), (0.95, 0.55))  # saturation and value: pure, pale, dark
_OBJECT, _SURFACE = 64, 128  # pixels of a side
# Hues (turns) of walls and floors; style 0 is the level's blue wall and orange floor.
_WALL_HUES = (0.571, 0.33, 0.00, 0.83, 0.13, 0.48, 0.72, 0.92)
_FLOOR_HUES = (0.1135, 0.58, 0.28, 0.75, 0.42, 0.00, 0.90, 0.15)


def _drawn_once(draw: Callable[[int], np.ndarray]) -> Callable[[int], np.ndarray]:
    """A texture by its number, drawn at the first call and read-only from then on."""

    @functools.cache
    def drawn(number: int) -> np.ndarray:
        image = draw(number)
        image.flags.writeable = False
        return image

    return functools.wraps(draw)(drawn)


def object_name(index: int) -> str:
    """Name of an object: its shape and one of three variants, as the level's models are called."""
    return f"{SHAPE_NAMES[index // 3]}_{index % 3 + 1:02d}"


def object_colour(index: int) -> np.ndarray:
    """Main colour of an object, RGB 0 to 255: every one of the 36 has its own hue and tone."""
    shape, variant = divmod(index, 3)
    hue, (saturation, value) = (5 * shape + 4 * variant) % 12 / 12, _TONES[(shape + variant) % 3]
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255


def most_different_first() -> list[int]:
    """The 36 objects in an order in which each is far in colour and shape from those before it."""
    colours = np.array([object_colour(i) for i in range(36)])
    shapes = np.arange(36) // 3
    order, wall = [0], np.array([60.0, 100, 190])
    while len(order) < 36:
        gaps = np.linalg.norm(colours[:, None] - colours[order][None], axis=-1)
        gaps += 60.0 * (shapes[:, None] != shapes[order][None])
        nearest = np.minimum(gaps.min(1), np.linalg.norm(colours - wall, axis=-1) + 60)
        nearest[order] = -1
        order.append(int(nearest.argmax()))
    return order


@_drawn_once
def object_pattern(index: int) -> np.ndarray:
    """Texture of an object, uint8 [64, 64, 3]: main colour with bands, checks or dots.

    The main colour covers most of it, so that the object keeps its colour when it is a few pixels tall.
    """
    main = object_colour(index)
    bright = main @ [0.3, 0.59, 0.11] > 130
    other = main * 0.25 if bright else 255 - (255 - main) * 0.25
    y, x = np.mgrid[:_OBJECT, :_OBJECT] * (32 / _OBJECT)
    mark = (
        y % 16 < 5,
        (x % 16 < 8) & (y % 16 < 8),
        ((x % 16 - 8) ** 2 + (y % 16 - 8) ** 2) < 18,
    )[index % 3]
    return np.where(mark[..., None], other, main).astype(np.uint8)


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value)) * 255


@_drawn_once
def wall_texture(style: int) -> np.ndarray:
    """One wall panel, uint8 [128, 128, 3], row 0 at the top: plates with the tracks and pads of a circuit board."""
    hue = _WALL_HUES[style]
    rng = np.random.default_rng(100 + style)
    light = np.full((_SURFACE, _SURFACE), 0.92)
    for _ in range(14):  # tracks: across, then slanting, then up or down, with a pad at each end
        x, y = rng.integers(0, _SURFACE, 2)
        run, slant, rise = rng.integers(10, 44), rng.integers(4, 12), rng.integers(6, 30)
        way = int(rng.choice((-1, 1)))
        corners = [(x, y), (x + run, y), (x + run + slant, y + way * slant)]
        corners.append((corners[-1][0], corners[-1][1] + way * rise))
        for shift in (0, _SURFACE):
            path = np.array([[(px - shift, py) for px, py in corners]], np.int32)
            cv2.polylines(light, [path[0]], False, 1.38, 2)
            for end in (path[0, 0], path[0, -1]):
                cv2.circle(light, tuple(map(int, end)), 3, 1.6, -1)
    y, x = np.mgrid[:_SURFACE, :_SURFACE] / _SURFACE
    light[(x % 0.5 < 0.016) | (y % 0.5 < 0.016)] = 0.6
    light[y > 0.94] = 0.55
    light[y < 0.05] = 1.5
    return _painted(light, _hsv(hue, 0.80, 0.68) / 0.84)  # the mean light on walls


def _painted(light: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """A texture of brightness `light` [H, W] whose mean colour is `mean`, uint8 [H, W, 3]."""
    return (light[..., None] * (mean / light.mean())).clip(0, 255).astype(np.uint8)


@_drawn_once
def floor_texture(style: int) -> np.ndarray:
    """Hexagonal tiles, uint8 [128, 128, 3], repeating."""
    hue = _FLOOR_HUES[style]
    y, x = np.mgrid[:_SURFACE, :_SURFACE] / _SURFACE
    rows, cols = 4, 2 * np.sqrt(3) * 4 / (2 * np.sqrt(3))
    best = np.full((2, _SURFACE, _SURFACE), 9.0)
    shade = np.zeros((_SURFACE, _SURFACE))
    rng = np.random.default_rng(200 + style)
    tints = rng.uniform(0.9, 1.06, (rows, int(cols)))
    for j in range(-1, rows + 1):
        for i in range(-1, int(cols) + 1):
            cx, cy = (i + 0.5 * (j % 2)) / cols, (j + 0.5) / rows
            dx, dy = (x - cx) * cols, (y - cy) * rows * 0.866
            near = np.maximum(np.abs(dx), np.abs(dx) * 0.5 + np.abs(dy) * 0.866)
            first = near < best[0]
            best[1] = np.where(first, best[0], np.minimum(best[1], near))
            shade = np.where(first, tints[j % rows, i % int(cols)], shade)
            best[0] = np.minimum(best[0], near)
    seam = best[1] - best[0] < 0.1
    return _painted(np.where(seam, 0.62, shade), _hsv(hue, 0.754, 0.718))


def pad_texture(size: int = 64) -> np.ndarray:
    """Glowing rings of the teleport pad, uint8 [size, size, 3]."""
    y, x = np.mgrid[:size, :size] / (size / 2) - 1 + 1 / size
    r = np.hypot(x, y)
    ring = (np.cos(r * 14) * 0.5 + 0.5)[..., None]
    colour = ring * np.array([225.0, 255, 250]) + (1 - ring) * np.array([40.0, 190, 170])
    return colour.clip(0, 255).astype(np.uint8)
