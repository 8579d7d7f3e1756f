"""Reconstruction: the observation, drawn again from what the memory gives.

Shapes: S steps, H, W, C of a frame.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from agents.auxiliary.contract import AuxiliaryLoss, Experience, Sizes
from agents.auxiliary.options import ReconstructionOptions
from agents.encoders import frame_bounds, has_image, is_instruction
from agents.encoders.values import one_hot


class Reconstruction(AuxiliaryLoss):
    """Squared error of the observation rebuilt by a perceptron from the memory's output, the mean over its numbers.

    An instruction is left out: it is told anew in every step, and as one-hot words would outweigh all else by far.
    Frames are averaged down to `side` pixels and read by their space's bounds as 0 to 1; discrete values are one-hot;
    other numbers, frames without bounds among them, are put on a signed logarithmic scale. As in Memory Gym (Pleines
    et al. 2023, arXiv 2309.17207). The gradient reaches the memory, and through it the encoder.
    """

    Options = ReconstructionOptions

    small: ClassVar[dict[str, Any]] = {"steps": 16, "side": 6, "width": 8}

    def __init__(self, sizes: Sizes, steps: int, side: int, width: int):
        super().__init__(sizes)
        self.steps, self.side = steps, side
        with torch.no_grad():
            blank = _blank(sizes.observation_space)
            size = targets(sizes.observation_space, blank, side).shape[1]
        self.decode = nn.Sequential(
            nn.Linear(sizes.outputs, width), nn.ReLU(), nn.Linear(width, size)
        )

    def forward(self, experience: Experience) -> Tensor:
        chance = torch.rand(experience.ignored.shape, device=experience.ignored.device)
        chance = chance.masked_fill(experience.ignored, -1.0).flatten()
        best = chance.topk(min(self.steps, chance.numel()))
        rebuilt = self.decode(experience.outputs.flatten(0, 1)[best.indices])
        chosen = _map(lambda x: x.flatten(0, 1)[best.indices], experience.observation)
        wanted = targets(self.sizes.observation_space, chosen, self.side).to(rebuilt.dtype)
        error = (rebuilt - wanted).square().mean(1)
        there = best.values >= 0
        return torch.where(there, error, 0.0).sum() / there.sum().clamp(min=1)


def targets(space: gym.Space, observation: Any, side: int) -> Tensor:
    """What is to be rebuilt of observations [S, ...] of a space: numbers [S, size] of about unit scale."""
    if isinstance(space, spaces.Dict):
        names = [key for key in sorted(space) if not is_instruction(key)] or sorted(space)
        return torch.cat([targets(space[key], observation[key], side) for key in names], 1)
    if isinstance(space, spaces.Discrete):
        return one_hot(observation, [int(space.n)], [int(space.start)]).float()
    if isinstance(space, spaces.MultiDiscrete):
        sizes, starts = space.nvec.flatten().tolist(), space.start.flatten().tolist()
        return one_hot(observation, sizes, starts).float()
    values = observation.float()
    is_frame = isinstance(space, spaces.Box) and has_image(space)
    bounds = frame_bounds(space) if is_frame else None
    if bounds is None:
        values = values.sign() * values.abs().log1p()
    else:
        low, high = bounds
        values = (values - low) / (high - low)
    if not is_frame:
        return values.reshape(len(values), -1)
    values = values if values.dim() == 4 else values.unsqueeze(-1)
    height, width = space.shape[:2]
    factor = min(1.0, side / max(height, width))
    size = max(1, round(height * factor)), max(1, round(width * factor))
    return F.adaptive_avg_pool2d(values.permute(0, 3, 1, 2), size).flatten(1)


def _blank(space: gym.Space) -> Any:
    """One observation of a space, as tensors."""
    if isinstance(space, spaces.Dict):
        return {key: _blank(part) for key, part in space.items()}
    if isinstance(space, spaces.Discrete):
        return torch.full((1,), int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        return torch.as_tensor(space.start)[None]
    return torch.zeros(1, *(space.shape or ()))


def _map(change: Any, observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: _map(change, x) for key, x in observation.items()}
    return change(observation)
