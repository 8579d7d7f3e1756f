"""Gathering items of a batch by index."""

from __future__ import annotations

import torch
from torch import Tensor


def take(x: Tensor, index: Tensor) -> Tensor:
    """Items by index: x [B, N, ...], index [B, M] -> [B, M, ...]."""
    # Whole rows at a time: many times as fast as `gather`, which reads an index for every number.
    row = torch.arange(x.shape[0], device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (index + row).flatten()).unflatten(0, index.shape)
