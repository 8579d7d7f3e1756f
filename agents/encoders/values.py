"""Encoders of what is no image: vectors, whole numbers, masks, rewards and instructions.

Shapes: N observations, W words. Every encoder maps [N, ...] to [N, d_out].
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from agents.rewards import reward_features


class VectorEncoder(nn.Module):
    """A two-layer perceptron over a flattened vector.

    Floats are read as they are. Whole numbers within a byte's range are divided by their space's own bounds, as
    `envs.adapt` does: 0 stays 0, or the lower bound becomes 0 where 0 is out of bounds.
    """

    shift: Tensor
    span: Tensor

    def __init__(self, space: spaces.Box, width: int):
        super().__init__()
        self.size = int(np.prod(space.shape))
        self.layers = nn.Sequential(
            nn.Linear(self.size, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
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
        # One number alone is a row of one, and True a 1.
        x = x.reshape(x.shape[0], self.size).to(self.layers[0].weight.dtype)
        if self.scales:
            x = (x - self.shift) / self.span
        return self.layers(x)


class _WithoutWeights(nn.Module):
    """What gives numbers of the network's own type, without a weight that has it."""

    like: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("like", torch.empty(0), persistent=False)


class BitsEncoder(_WithoutWeights):
    """A mask of actions [N, ...] as its 0s and 1s, without parameters."""

    def __init__(self, space: gym.Space):
        super().__init__()
        self.d_out = int(np.prod(space.shape))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) != 0).to(self.like.dtype)


class OneHotEncoder(_WithoutWeights):
    """One-hot of a Discrete or MultiDiscrete value [N, ...], without parameters.

    Args:
        sizes: of each value, in the order of its flattened shape.
        start: the least of each value, or of all.
    """

    def __init__(self, sizes: list[int], start: int | list[int] = 0):
        super().__init__()
        self.sizes = sizes
        self.starts = start if isinstance(start, list) else [start] * len(sizes)
        self.d_out = sum(sizes)

    def forward(self, x: Tensor) -> Tensor:
        return one_hot(x, self.sizes, self.starts).to(self.like.dtype)


def one_hot(x: Tensor, sizes: list[int], starts: list[int]) -> Tensor:
    """Whole numbers [N, ...] as int64 [N, F], the one-hot codes of each side by side; see `OneHotEncoder`.

    RLlib fills rows up with 0: where that is none of the values it is read as the least.
    """
    hot = []
    values = x.long().reshape(x.shape[0], len(sizes))
    for value, size, start in zip(values.unbind(1), sizes, starts, strict=True):
        if not start <= 0 < start + size:
            value = value.masked_fill(value == 0, start)
        hot.append(F.one_hot(value - start, size))
    return torch.cat(hot, -1)


class RewardEncoder(_WithoutWeights):
    """The last reward, bounded (see `rewards.reward_features`), without parameters."""

    d_out = 2

    def forward(self, x: Tensor) -> Tensor:
        return reward_features(x.reshape(x.shape[0], 1).float()).to(self.like.dtype)


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
