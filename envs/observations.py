"""Parts of observations as networks read them: pictures, numbers, categories and words, each with its reader."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from gymnasium import Space, spaces

from envs.dmlab.instruction import WORDS, hash_words, instruction_space

SMALLEST = 36  # the shorter side that convolutions read, at least [pixels]
ENLARGED = 16  # pictures with channels from this side on are repeated up to SMALLEST [pixels]
LARGEST, SHRUNK = 128, 96  # sides longer than the first are averaged down to the second [pixels]
CHANNELS = 16  # of a picture without bounds or of a small one, at most: more is no picture
LARGE = 100.0  # numbers that can be larger are put on a logarithmic scale
BYTE = 255.0  # whole numbers up to it are divided by their own bounds
LINEAR = 65_535.0  # pictures with values beyond it are put on a logarithmic scale
MANY = 1024  # numbers or categories of a part that nothing is said about, at most
MOST_WORDS = 64
_GRID = (11, 6, 3)  # MiniGrid's codes of objects, colours and states
# A part's space as the network sees it, and how a value gets there.
Part = tuple[Space, Callable[[Any], Any]]


def observation_part(space: Space, grid: bool = False) -> Part:
    """The space that the network sees for a part of an observation, and the function to it.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary or Text.
        grid: whether the part holds MiniGrid's codes.

    Raises:
        ValueError: for Sequence, Graph and OneOf.
    """
    if is_text(space):
        return _sentence(space)
    if grid:
        sizes = np.broadcast_to(np.array(_GRID), space.shape or ()).flatten()
        return spaces.MultiDiscrete(sizes), lambda image: np.minimum(image.flatten(), sizes - 1)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return space, _same
    if isinstance(space, spaces.Box):
        axes = picture_axes(space)
        if axes is not None:
            return _picture(space, axes)
        return _numbers(space)
    raise ValueError(
        f"no network here reads observations of {space}: give Box, Discrete, MultiDiscrete, "
        "MultiBinary, Text, or a Dict or Tuple of them"
    )


def is_text(space: Space) -> bool:
    """Whether a space holds sentences."""
    # MiniGrid's missions are a space of their own, known by name so that MiniGrid need not be installed.
    kinds = {kind.__name__ for kind in type(space).__mro__}
    return isinstance(space, spaces.Text) or "MissionSpace" in kinds


def picture_axes(space: Space) -> tuple[int, ...] | None:
    """The axes of a picture's rows and columns, then those of its channels; None where a space holds no pictures.

    Two neighbouring axes of 36 and more are rows and columns, those that leave the fewest channels where there are
    several; everything else (colours, a stack of frames) is channels. Pictures with few channels may be smaller;
    without bounds only what has few channels is taken for one.
    """
    if not isinstance(space, spaces.Box) or not 2 <= len(space.shape) <= 5:
        return None
    bounded = np.isfinite(space.low).all() and np.isfinite(space.high).all()
    found: list[tuple[int, tuple[int, ...]]] = []
    for i in range(len(space.shape) - 1):
        sides = space.shape[i : i + 2]
        rest = tuple(axis for axis in range(len(space.shape)) if axis not in (i, i + 1))
        channels = int(np.prod([space.shape[axis] for axis in rest], dtype=np.int64))
        few = bool(rest) and channels <= CHANNELS
        if min(sides) >= (ENLARGED if few else SMALLEST) and (bounded or few):
            found.append((channels, (i, i + 1, *rest)))
    return min(found, key=lambda one: one[0])[1] if found else None


def _picture(space: spaces.Box, axes: tuple[int, ...]) -> Part:
    """A picture [H, W, C]: long sides averaged down, short ones repeated; bytes stay bytes where that loses nothing."""
    sides = [space.shape[axis] for axis in axes[:2]]
    factor = SHRUNK / max(sides) if max(sides) > LARGEST else 1.0
    height, width = (max(round(side * factor), min(side, SMALLEST)) for side in sides)
    channels = int(np.prod(space.shape)) // (sides[0] * sides[1])
    repeat = -(-SMALLEST // min(height, width))
    low, high = float(space.low.min()), float(space.high.max())
    shrinks = [height, width] != sides
    # The mean of bytes is rounded to a byte: of little loss among 256, of much among two.
    as_bytes = space.dtype in (np.uint8, np.bool_) and not (shrinks and high - low < BYTE)
    kind = np.uint8 if as_bytes else np.float32
    logarithmic = max(abs(low), abs(high)) > LINEAR

    def read(value: Any) -> np.ndarray:
        picture = np.asarray(value).transpose(axes).reshape(*sides, channels)
        if logarithmic:
            picture = _logarithm(picture.astype(np.float64))
        picture = np.ascontiguousarray(picture, kind)
        if shrinks:
            picture = _shrink(picture, height, width)
        return picture.repeat(repeat, 0).repeat(repeat, 1) if repeat > 1 else picture

    if logarithmic:
        low, high = float(_logarithm(low)), float(_logarithm(high))
    return spaces.Box(low, high, (height * repeat, width * repeat, channels), kind), read


def _shrink(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    # OpenCV averages four channels at once, at most.
    pieces = [
        cv2.resize(
            np.ascontiguousarray(picture[..., i : i + 4]),
            (width, height),
            interpolation=cv2.INTER_AREA,
        ).reshape(height, width, -1)
        for i in range(0, picture.shape[-1], 4)
    ]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, -1)


def _numbers(space: spaces.Box) -> Part:
    """Numbers as float32 [size], each element by its own bounds and none by its type.

    Whole numbers within a byte's range are divided by their bound (0 stays 0; where 0 is out of bounds, the lower one
    becomes 0); what can be beyond 100 is put on a logarithmic scale; everything else stays as it is.
    """
    low, high = (bound.astype(np.float64).reshape(-1) for bound in (space.low, space.high))
    extent = np.maximum(abs(low), abs(high))
    scaled = (extent <= BYTE) & (np.dtype(space.dtype).kind in "iub")
    logged = ~scaled & (extent > LARGE)
    shift = np.where(scaled & ((low > 0) | (high < 0)), low, 0.0)
    span = np.where(scaled, np.maximum(abs(low - shift), abs(high - shift)), 1.0)
    span[span == 0] = 1.0
    scales, logs = bool(scaled.any()), bool(logged.any())
    plain = not scales and not logs

    def read(value: Any) -> np.ndarray:
        if plain:
            return np.asarray(value, np.float32).reshape(-1)
        x = np.asarray(value, np.float64).reshape(-1)
        if scales:
            x = (x - shift) / span
        if logs:
            x = np.where(logged, _logarithm(x), x)
        return x.astype(np.float32)

    return spaces.Box(read(low), read(high), dtype=np.float32), read


def _logarithm(x: Any) -> Any:
    """Signs stay, small numbers too, and those of a game's score or ammunition become small."""
    return np.sign(x) * np.log1p(np.abs(x))


def _sentence(space: Space) -> Part:
    """Hashed words int64 [words]; 16 of them, or as many as the longest text of the space can have, up to 64."""
    longest = getattr(space, "max_length", 0)
    words = min(max(WORDS, -(-int(longest) // 2)), MOST_WORDS)

    def read(text: str) -> np.ndarray:
        text = _spelled(text)
        if len(text) > 2 * words - 1 and len(re.findall(r"[a-z0-9]+", text.lower())) > words:
            note(f"a text has more words than the {words} that are read: {text[:60]!r}...")
        return hash_words(text, words)

    return instruction_space(words), read


def _spelled(text: str) -> str:
    """The text with every sign that is no Latin letter or digit as a word of its own, where it would be lost."""
    if text.isascii() and (re.search(r"[A-Za-z0-9]", text) or not text.strip()):
        return text
    bare = not re.search(r"[A-Za-z0-9]", text)
    return "".join(
        f" u{ord(sign):x} " if not sign.isspace() and (bare or not sign.isascii()) else sign
        for sign in text
    )


def note_large(name: str, space: Space, seen: Space) -> None:
    """Says once that the part `name` is read as many numbers and not as a picture."""
    if isinstance(seen, spaces.Discrete):
        count = int(seen.n)
    elif isinstance(seen, spaces.MultiDiscrete):
        count = int(seen.nvec.sum())
    else:
        count = int(np.prod(seen.shape or (1,)))
    if count <= MANY or picture_axes(seen) is not None or is_text(space):
        return
    what = f"the observation's part {name!r} ({type(space).__name__} of shape {list(space.shape or ())})"
    hint = (
        f"to be a picture it needs bounds and two neighbouring sides of {SMALLEST} or more"
        if isinstance(space, spaces.Box)
        else "if it need not be so many, make it fewer"
    )
    note(f"{what} is read as {count:,} numbers, not as a picture: {hint}")


@functools.cache
def note(text: str) -> None:
    """Says something once a process, to stderr."""
    warnings.warn(text, stacklevel=2)


def _same(value: Any) -> Any:
    return value
