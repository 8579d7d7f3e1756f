"""Encoders of images.

Shapes: N observations, H height, W width, C channels. Every encoder maps [N, ...] to [N, d_out].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from agents.encoders.blocks import fold, fold_filters
from agents.encoders.spots import Spots


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

    BLOCK = 0  # pixels that the first layer's filters move by, where it can read blocks (`blocks`)

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
        bytes_from_0 = frames.dtype == torch.uint8 and not self.low
        if (
            bytes_from_0
            and torch.amp.is_autocast_available(kind)
            and torch.is_autocast_enabled(kind)
        ):
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
        # Flattened before its last ReLU, whose backward pass is slow where gradients lie in another order than frames.
        y = self.trunk[-1](self.trunk[1:-1](y).flatten(1))
        return F.relu(self.project(y))


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
        height, frame_width, channels = (*space.shape, 1)[:3]
        self.spots = Spots(channels)
        if not self.spots.fits(frame_width):
            raise ValueError(
                f"frames of {height}x{frame_width} are too narrow for the {self.spots.columns} columns of spots: "
                "give at least 36x36, channels last (envs.adapt brings them there)"
            )
        self.d_out = width + self.spots.d_out

    def pick(self, frames: Tensor) -> Tensor:
        """What `forward` may be given again for the same frames, in their own type [N, ...]."""
        return self.spots.pick(frames if frames.dim() == 4 else frames.unsqueeze(-1))

    def forward(self, frames: Tensor, picked: Tensor | None = None) -> Tensor:
        colours = self.pick(frames) if picked is None else picked
        colours = self.floats(colours) if self.low else colours
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
