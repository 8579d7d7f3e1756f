"""Encoders: from one observation to one feature vector, for images, vectors, discrete values and Dicts.

Shapes: B batch, T time, H height, W width, C channels. Every encoder maps [N, ...] to [N, d_out].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from agents.blocks import fold, fold_filters
from agents.encoder_check import check_encoder
from agents.errors import unknown
from agents.rewards import reward_features
from agents.spots import Spots
from ct_rl.memory.options import check_name


def frame_bounds(space: spaces.Box) -> tuple[float, float] | None:
    """The least and the largest number of a frame; None where its space has none."""
    low, high = float(space.low.min()), float(space.high.max())
    return (low, high) if np.isfinite([low, high]).all() and high > low else None


class _Image(nn.Module):
    """What image encoders share: frames [N, H, W, C] or [N, H, W] of any type in, features out.

    Frames are read by their space's own bounds, as -0.5 to 0.5, and weights start orthogonal: small objects are told
    apart sooner than from 0 to 1 and torch's own start. Frames without bounds are
    read as they are.
    """

    BLOCK = 0  # pixels that the first layer's filters move by, where it can read blocks (`agents.blocks`)

    center: Tensor

    def __init__(self, space: spaces.Box, width: int):
        super().__init__()
        height, frame_width, channels = (*space.shape, 1)[:3]
        bounds = frame_bounds(space)
        low, high = bounds or (0.0, 1.0)
        self.low, self.scale = low, 1.0 / (high - low)
        self.trunk = self.build_trunk(channels)
        with torch.no_grad():
            try:
                flat = self.trunk(torch.zeros(1, channels, height, frame_width)).numel()
            except RuntimeError as error:
                raise ValueError(
                    f"frames of {height}x{frame_width} are too small for the {type(self).__name__} "
                    "encoder: give at least 36x36, channels last (envs.adapt brings them there)"
                ) from error
        self.project = nn.Linear(flat, width)
        self.d_out = width
        self.register_buffer("center", torch.tensor(0.5 if bounds else 0.0))
        for layer in (*self.trunk.modules(), self.project):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.orthogonal_(layer.weight, 2**0.5)
                nn.init.zeros_(layer.bias)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Networks saved before there was a center read bytes as 0 to 1.
        state_dict.setdefault(prefix + "center", torch.zeros_like(self.center))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def build_trunk(self, channels: int) -> nn.Sequential:
        raise NotImplementedError

    def forward(self, frames: Tensor) -> Tensor:
        return self.read(frames)

    def floats(self, frames: Tensor) -> Tensor:
        """Frames that begin at 0, in the weights' type, of frames as they come."""
        frames = frames.to(self.project.weight.dtype)
        return frames - self.low if self.low else frames

    def read(self, frames: Tensor) -> Tensor:
        """Features [N, d_out] of frames [N, H, W, C] or [N, H, W] as they come."""
        frames = frames if frames.dim() == 4 else frames.unsqueeze(-1)
        # Scaling and shifting the first layer's small weights is the same sum as doing so to every pixel,
        # and what is padded stays black.
        first, kind = self.trunk[0], frames.device.type
        bias = first.bias - self.center * first.weight.sum((1, 2, 3))
        weight, stride = first.weight * self.scale, first.stride
        if frames.dtype == torch.uint8 and not self.low and torch.is_autocast_enabled(kind):
            # Autocast would make the same of floats, which need not be made then: its types hold every byte.
            dtype = torch.get_autocast_dtype(kind)
            if self.BLOCK:
                weight, stride = fold_filters(weight, self.BLOCK), 1
                x = fold(frames, self.BLOCK, dtype)
            else:
                x = frames.to(dtype)
        else:
            x = self.floats(frames)
        # Read as a channels-last [N, C, H, W]: a view, no copy.
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, first.padding)
        return F.relu(self.project(self.trunk[1:](y).flatten(1)))


class SmallEncoder(_Image):
    """IMPALA's shallow network: 16 filters 8x8/4, 32 of 4x4/2, linear (arXiv 1802.01561, figure 3 left)."""

    BLOCK = 4

    def build_trunk(self, channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU()
        )


class SpotEncoder(SmallEncoder):
    """IMPALA's shallow network with `Spots` beside it, for objects of few pixels.

    The spots are features as they are: mixed into the network's they are hard to get out again (docs/learning.md).
    """

    def __init__(self, space: spaces.Box, width: int):
        super().__init__(space, width)
        self.spots = Spots((*space.shape, 1)[2])
        self.d_out = width + self.spots.d_out

    def pick(self, frames: Tensor) -> Tensor:
        """What `forward` may be given again for the same frames, in their own type [N, ...]."""
        return self.spots.pick(frames if frames.dim() == 4 else frames.unsqueeze(-1))

    def forward(self, frames: Tensor, picked: Tensor | None = None) -> Tensor:
        colours = self.floats(self.pick(frames) if picked is None else picked)
        return torch.cat([self.read(frames), self.spots(colours, self.scale)], -1)


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ResidualEncoder(_Image):
    """IMPALA's deep residual network: 16, 32, 32 channels, two blocks each (figure 3 right)."""

    def build_trunk(self, channels: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for width in (16, 32, 32):
            layers += [
                nn.Conv2d(channels, width, 3, padding=1),
                nn.MaxPool2d(3, 2, padding=1),
                _Residual(width),
                _Residual(width),
            ]
            channels = width
        return nn.Sequential(*layers, nn.ReLU())


class VectorEncoder(nn.Module):
    """A two-layer perceptron over a flattened vector.

    Floats are read as they are. Whole numbers within a byte's range are divided by their space's own bounds, as
    `envs.adapt` does: 0 stays 0, or the lower bound becomes 0 where 0 is out of bounds.
    """

    shift: Tensor
    span: Tensor

    def __init__(self, space: spaces.Box, width: int):
        super().__init__()
        size = int(np.prod(space.shape))
        self.layers = nn.Sequential(
            nn.Linear(size, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.d_out = width
        low, high = (x.astype(np.float64).reshape(-1) for x in (space.low, space.high))
        scaled = np.maximum(abs(low), abs(high)) <= 255
        self.scales = bool(scaled.any()) and np.dtype(space.dtype).kind in "iub"
        if self.scales:
            shift = np.where(scaled & ((low > 0) | (high < 0)), low, 0.0)
            span = np.where(scaled, np.maximum(abs(low - shift), abs(high - shift)), 1.0)
            span[span == 0] = 1.0
            # Not weights: they follow from the space.
            for name, x in (("shift", shift), ("span", span)):
                self.register_buffer(name, torch.tensor(x, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.scales:
            x = (x - self.shift) / self.span
        return self.layers(x.to(self.layers[0].weight.dtype))


class BitsEncoder(nn.Module):
    """A mask of actions [N, ...] as its 0s and 1s, without parameters."""

    def __init__(self, space: gym.Space):
        super().__init__()
        self.d_out = int(np.prod(space.shape))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) != 0).to(torch.get_default_dtype())


class OneHotEncoder(nn.Module):
    """One-hot of a Discrete or MultiDiscrete value [N, ...], without parameters.

    Args:
        sizes: of each value, in the order of its flattened shape.
        start: the least of each value, or of all.
    """

    start: Tensor

    def __init__(self, sizes: list[int], start: int | list[int] = 0):
        super().__init__()
        self.sizes = sizes
        least = torch.as_tensor(start, dtype=torch.int64).expand(len(sizes))
        self.register_buffer("start", least.clone(), persistent=False)
        self.d_out = sum(sizes)

    def forward(self, x: Tensor) -> Tensor:
        values = x.long().reshape(x.shape[0], len(self.sizes)) - self.start
        hot = [F.one_hot(values[:, i], size) for i, size in enumerate(self.sizes)]
        return torch.cat(hot, -1).to(torch.get_default_dtype())


class RewardEncoder(nn.Module):
    """The last reward, bounded (see `rewards.reward_features`), without parameters."""

    d_out = 2

    def forward(self, x: Tensor) -> Tensor:
        return reward_features(x.reshape(x.shape[0], 1).float())


class InstructionEncoder(nn.Module):
    """A sentence as hashed words: embedding, then an LSTM whose state after the last word is the feature.

    IMPALA's language network (arXiv 1802.01561, section 5.3.1; sizes of the released agent). Words are
    int64 [N, W]: 0 where there is none, otherwise any positive hash of a word, which is folded into
    `BUCKETS`. A sentence fills the row from the left; no word at all gives zeros.
    """

    BUCKETS, EMBEDDING = 1000, 20
    d_out = 64

    def __init__(self, space: gym.Space):
        super().__init__()
        whole = space.dtype is not None and np.issubdtype(space.dtype, np.integer)
        if not whole or space.shape is None or len(space.shape) != 1:
            raise ValueError(
                f"the instruction is {space}: give hashed words as an integer Box of shape (words,), "
                "0 where there is no word"
            )
        self.words = nn.Embedding(self.BUCKETS + 1, self.EMBEDDING, padding_idx=0)
        self.lstm = nn.LSTM(self.EMBEDDING, self.d_out, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        words = words.long()
        folded = torch.where(words > 0, (words - 1) % self.BUCKETS + 1, 0)
        # An instruction stays for a whole episode: every different one is read once.
        different, which = folded.unique(dim=0, return_inverse=True)
        y, _ = self.lstm(self.words(different))  # (n, W, d_out)
        count = (different > 0).sum(1)
        last = (count - 1).clamp(min=0)[:, None, None].expand(-1, 1, self.d_out)
        read = y.gather(1, last).squeeze(1) * (count > 0)[:, None]
        return read[which]


IMAGE_ENCODERS: dict[str, type[nn.Module]] = {
    "small": SmallEncoder,
    "spots": SpotEncoder,
    "residual": ResidualEncoder,
}
DEFAULT = "small"
_BUILT_IN = frozenset(IMAGE_ENCODERS)


def encoder_names() -> list[str]:
    """The image encoders that `build_encoder` knows."""
    return sorted(IMAGE_ENCODERS)


def register_encoder(name: str, cls: type[nn.Module]) -> None:
    """Makes an image encoder known as `name`: `--network.encoder NAME`.

    Args:
        cls: built as `cls(space, width)` for a Box [H, W, C] and called with its frames [N, H, W, C]; has `d_out`.
            A copy is asked for the features of a few frames when it is built.

    Raises:
        ValueError: for something that is no module's class, or a name that cannot be one or is another's.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ValueError(f"encoder {name!r} is {cls!r}: give a subclass of torch.nn.Module")
    check_name("encoder", name, cls, IMAGE_ENCODERS.get(name), _BUILT_IN)
    IMAGE_ENCODERS[name] = cls


def registration(name: str) -> type[nn.Module] | None:
    """What `name` was registered with, to be carried elsewhere; None for this package's own and the unknown."""
    return None if name in _BUILT_IN else IMAGE_ENCODERS.get(name)


def restore(name: str, found: type[nn.Module]) -> None:
    """Enters in this process what `registration` gave in another, unless the name is known here."""
    IMAGE_ENCODERS.setdefault(name, found)


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
        image: a key of `IMAGE_ENCODERS`.
        width: features of an image or a vector.
        crop: rows cut from the top and from the bottom of images, and columns from both sides, before they are read.

    Raises:
        ValueError: for an unknown `image`, a space that no encoder reads, or a crop or an `image` other than the
            default that finds no image.
    """
    if image not in IMAGE_ENCODERS:
        raise ValueError(unknown("encoder", image, encoder_names()))
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
        encoder = partial(_image_encoder, image)
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


def _image_encoder(image: str, space: spaces.Box, width: int) -> nn.Module:
    encoder = IMAGE_ENCODERS[image](space, width)
    if image not in _BUILT_IN:
        check_encoder(image, encoder, space)
    return encoder


def _is_picture(space: spaces.Box) -> bool:
    return len(space.shape) == 3 or (len(space.shape) == 2 and min(space.shape) >= 36)
