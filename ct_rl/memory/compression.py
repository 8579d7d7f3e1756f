"""Compression functions: c neighbouring memories become one slot (Rae et al. 2019, section 3.1).

Shapes: [..., c, D] in, [..., D] out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaxPool(nn.Module):
    """The largest of each feature."""

    def __init__(self, d_model: int, rate: int):
        super().__init__()

    def forward(self, groups: Tensor) -> Tensor:
        return groups.amax(-2)


class MeanPool(nn.Module):
    """The mean of each feature."""

    def __init__(self, d_model: int, rate: int):
        super().__init__()

    def forward(self, groups: Tensor) -> Tensor:
        return groups.mean(-2)


class Convolution(nn.Module):
    """A convolution whose kernel and stride are the rate, without bias; it starts as the mean."""

    def __init__(self, d_model: int, rate: int):
        super().__init__()
        self.linear = nn.Linear(rate * d_model, d_model, bias=False)
        noise = torch.randn(d_model, rate, d_model) * (0.02 / rate**0.5)
        mean = torch.eye(d_model)[:, None, :].expand(-1, rate, -1) / rate
        self.linear.weight = nn.Parameter((mean + noise).flatten(1))

    def forward(self, groups: Tensor) -> Tensor:
        return self.linear(groups.flatten(-2))


COMPRESSIONS: dict[str, type[nn.Module]] = {"conv": Convolution, "max": MaxPool, "mean": MeanPool}
COMPRESSION_LOSSES = ("attention", "auto_encoding", "none")


def attention_reconstruction(
    queries: Tensor,
    old_keys: Tensor,
    old_values: Tensor,
    new_keys: Tensor,
    new_values: Tensor,
    old_there: Tensor,
    new_there: Tensor,
) -> Tensor:
    """Squared difference between what content-only attention reads from the memories and from their slots.

    Section 3.2, algorithm 2: no positions, no output projection, per head.

    Args:
        queries: [B, H, T, Dh], scaled.
        old_keys, old_values: [B, H, N, Dh], of the memories that leave.
        new_keys, new_values: [B, H, N / c, Dh], of the slots made of them.
        old_there: bool [B, N]; new_there: bool [B, N / c]: which of them exist.

    Returns:
        A scalar: the mean over rows that compress anything, heads, queries and features; 0 where none does.
    """

    def read(keys: Tensor, values: Tensor, there: Tensor) -> Tensor:
        logits = queries @ keys.transpose(-1, -2)
        logits = logits.masked_fill(~there[:, None, None], torch.finfo(logits.dtype).min)
        return logits.softmax(-1) @ values

    error = read(old_keys, old_values, old_there) - read(new_keys, new_values, new_there)
    rows = new_there.any(-1).to(error.dtype)  # (B)
    return (error.square().mean((1, 2, 3)) * rows).sum() / rows.sum().clamp(min=1.0)
