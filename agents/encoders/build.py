"""The encoder of any observation: an image's, another value's, or one of each part of a Dict.

Shapes: N observations, H height, W width, C channels. Every encoder maps [N, ...] to [N, d_out].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.encoders.registry import DEFAULT, check_known, image_encoder
from agents.encoders.values import (
    BitsEncoder,
    InstructionEncoder,
    OneHotEncoder,
    RewardEncoder,
    VectorEncoder,
)


class Cropped(nn.Module):
    """An image encoder that never sees the frame's edges, where displays stand.

    Digits that count seconds or points name an episode better than anything else in the frame does. A contrast of
    frames reads them and nothing else (docs/learning.md), so what is cut here is cut for acting and learning alike.

    Args:
        encoder: makes the encoder within.
        space: Box [H, W, C] or [H, W] of whole frames.
        width: features.
        crop: rows cut from top and from bottom, columns cut from left and from right [pixels].
    """

    def __init__(
        self,
        encoder: Callable[[spaces.Box, int], nn.Module],
        space: spaces.Box,
        width: int,
        crop: tuple[int, int],
    ):
        super().__init__()
        rows, columns = crop
        height, wide = space.shape[:2]
        if 2 * rows >= height or 2 * columns >= wide:
            raise ValueError(f"crop {list(crop)} leaves nothing of frames of {height}x{wide}")
        self.rows, self.columns = slice(rows, height - rows), slice(columns, wide - columns)
        low, high = (bound[self.rows, self.columns] for bound in (space.low, space.high))
        self.inner = encoder(spaces.Box(low, high, dtype=space.dtype.type), width)  # type: ignore[union-attr]
        self.d_out = int(self.inner.d_out)  # type: ignore[arg-type]

    def pick(self, frames: Tensor) -> Tensor | None:
        """What the encoder within picks."""
        return pick(self.inner, self._cut(frames))

    def forward(self, frames: Tensor, picked: Tensor | None = None) -> Tensor:
        return encode(self.inner, self._cut(frames), picked)

    def _cut(self, frames: Tensor) -> Tensor:
        return frames[:, self.rows, self.columns]


class DictEncoder(nn.Module):
    """One encoder a key, their features side by side; keys may be any words.

    `last_reward` is bounded, `instruction` and `instruction:...` are read word by word, `action_mask` bit by bit, other
    parts by what their spaces are.
    """

    def __init__(self, space: spaces.Dict, image: str, width: int, crop: tuple[int, int] = (0, 0)):
        super().__init__()
        self.keys = sorted(space.spaces)
        self._modules_of = _module_names(self.keys)
        self.parts = nn.ModuleDict(
            {
                self._modules_of[key]: _part_encoder(key, space[key], image, width, crop)
                for key in self.keys
            }
        )
        self.d_out = sum(int(part.d_out) for part in self.parts.values())  # type: ignore[arg-type]

    def pick(self, observation: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """What each key's encoder picks, of those that do; None where none does."""
        picked = {key: pick(self._part(key), observation[key]) for key in self.keys}
        return {key: found for key, found in picked.items() if found is not None} or None

    def forward(
        self, observation: dict[str, Tensor], picked: dict[str, Tensor] | None = None
    ) -> Tensor:
        found = picked or {}
        features = [encode(self._part(key), observation[key], found.get(key)) for key in self.keys]
        return torch.cat(features, -1)

    def _part(self, key: str) -> nn.Module:
        return self.parts[self._modules_of[key]]


def pick(encoder: nn.Module, observation: Any) -> Any:
    """What an encoder finds in observations [N, ...] and may be given again with them; None for one that finds nothing.

    An encoder with a costly search in it has a method `pick` for that, and takes what it gives as `picked`: a tensor
    [N, ...] of the observation's own type, or a dict of them. Acting searches, and learning need not do it again.
    """
    search = getattr(encoder, "pick", None)
    return None if search is None else search(observation)


def encode(encoder: nn.Module, observation: Any, picked: Any = None) -> Tensor:
    """Features [N, d_out] of observations [N, ...], from what `pick` found in them where that is given."""
    features: Tensor = (
        encoder(observation) if picked is None else encoder(observation, picked=picked)
    )
    return features


def _part_encoder(
    key: str, space: gym.Space, image: str, width: int, crop: tuple[int, int]
) -> nn.Module:
    if key == "last_reward" and space.shape == (1,):
        return RewardEncoder()
    if is_instruction(key):
        return InstructionEncoder(space)
    if key == "action_mask" and _is_mask(space):
        return BitsEncoder(space)
    return _build(space, image, width, crop)


def _is_mask(space: gym.Space) -> bool:
    if isinstance(space, spaces.Box):
        return len(space.shape) == 1 and bool((space.low >= 0).all() and (space.high <= 1).all())
    return isinstance(space, spaces.MultiBinary)


def _module_names(keys: list[str]) -> dict[str, str]:
    """A name for the module of each key: the key itself, where torch can have it."""
    free = nn.ModuleDict()
    found: dict[str, str] = {}
    for key in keys:
        plain = bool(key) and "." not in key and key[0] != "%" and not hasattr(free, key)
        # No plain name begins with "%", and a code for every odd sign keeps the others apart.
        found[key] = (
            key
            if plain
            else "%"
            + "".join(
                sign if sign.isalnum() or sign in "_:/#- " else f"%{ord(sign):x}%" for sign in key
            )
        )
    return found


def build_encoder(
    space: gym.Space, image: str = DEFAULT, width: int = 256, crop: Sequence[int] = (0, 0)
) -> nn.Module:
    """The encoder for an observation space, with `d_out` features.

    Args:
        space: Box image [H, W, C] (or [H, W] from 36x36 on), other Box, Discrete, MultiDiscrete, MultiBinary, or a
            Dict of them (whose keys "last_reward", "instruction" and "action_mask" have readers of their own).
        image: one of `encoder_names()`.
        width: features of an image or a vector.
        crop: rows cut from the top and from the bottom of images, and columns from both sides, before they are read.

    Raises:
        ValueError: for an unknown `image`, a space that no encoder reads, or a crop or an `image` other than the
            default that finds no image.
    """
    check_known(image)
    if np.shape(crop) != (2,) or min(crop) < 0:
        raise ValueError(f"crop {crop!r}: give rows and columns, two numbers of at least 0")
    rows, columns = crop
    encoder = _build(space, image, width, (rows, columns))
    if (rows or columns) and not has_image(space):
        raise ValueError(f"crop {list(crop)}: there is no image in {space}")
    if image != DEFAULT and not has_image(space):
        raise ValueError(
            f"encoder {image!r} reads images, and there is none in {space}: leave it out ({DEFAULT!r})"
        )
    return encoder


def of_saved(settings: Mapping[str, Any], space: gym.Space) -> dict[str, Any]:
    """A saved network's settings, less the encoder of images where there is none: it used to be ignored there."""
    return {key: value for key, value in settings.items() if key != "encoder" or has_image(space)}


def is_instruction(key: str) -> bool:
    """Whether a part of a Dict observation holds hashed words."""
    return key == "instruction" or key.startswith("instruction:")


def has_image(space: gym.Space) -> bool:
    """Whether an observation has a part that the image encoder reads."""
    if isinstance(space, spaces.Dict):
        return any(map(has_image, space.values()))
    return isinstance(space, spaces.Box) and _is_picture(space)


def _build(space: gym.Space, image: str, width: int, crop: tuple[int, int]) -> nn.Module:
    if isinstance(space, spaces.Dict):
        return DictEncoder(space, image, width, crop)
    if isinstance(space, spaces.Box) and _is_picture(space):
        encoder = partial(image_encoder, image)
        return Cropped(encoder, space, width, crop) if any(crop) else encoder(space, width)
    if isinstance(space, spaces.Box):
        return VectorEncoder(space, width)
    if isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
        return VectorEncoder(spaces.Box(0, 1, (size,), np.float32), width)
    if isinstance(space, spaces.Discrete):
        return OneHotEncoder([int(space.n)], int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        sizes, starts = space.nvec.flatten().tolist(), space.start.flatten().tolist()
        return OneHotEncoder(sizes, starts)
    raise ValueError(
        f"no encoder reads observations of {space}: wrap the environment so that it gives a Box, "
        "Discrete, MultiDiscrete, MultiBinary, or a Dict of them"
    )


def _is_picture(space: spaces.Box) -> bool:
    return len(space.shape) == 3 or (len(space.shape) == 2 and min(space.shape) >= 36)
