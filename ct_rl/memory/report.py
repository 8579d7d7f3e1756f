"""Where a call looked: the numbers behind the paper's two analysis figures, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class AttentionReport:
    """Mean attention weights of a call, over its rows and steps; plain numbers without gradient.

    Attributes:
        by_slot: [L, H, C], on each compressed slot, oldest first.
        by_step: [L, H, M + W], on each place of the memory and then of the window, oldest first.
        memory_size: M.
        compression_loss: [L], each layer's; None outside training and without one.
    """

    by_slot: Tensor
    by_step: Tensor
    memory_size: int
    compression_loss: Tensor | None = None

    @property
    def compressed(self) -> Tensor:
        """[L, H]: the weight on all compressed memory."""
        return self.by_slot.sum(2)

    @property
    def memory(self) -> Tensor:
        """[L, H]: the weight on all memory."""
        return self.by_step[:, :, : self.memory_size].sum(2)

    @property
    def window(self) -> Tensor:
        """[L, H]: the weight on the current window."""
        return self.by_step[:, :, self.memory_size :].sum(2)

    def buckets(self, count: int = 6) -> Tensor:
        """[L, H, 3 count]: the mean weight of a place in `count` parts of each memory, oldest first (figure 4)."""
        parts = (
            self.by_slot,
            self.by_step[:, :, : self.memory_size],
            self.by_step[:, :, self.memory_size :],
        )
        empty = self.by_slot.new_zeros(self.by_slot.shape[:2])
        means = [
            bucket.mean(2) if bucket.shape[2] else empty
            for part in parts
            for bucket in part.tensor_split(count, 2)
        ]
        return torch.stack(means, 2)


@dataclass
class StepAttention:
    """Where one acting step of each row looked, and which steps of its episode stand where it looked.

    Places are ordered as in `AttentionReport`: C compressed slots, oldest first, then the memory's M steps, then the
    window's W; N = C + M + W. Steps are counted from 0 in the row's episode.

    Attributes:
        weights: [B, L, H, N], the weights that the step acted with; 0 where nothing is.
        empty: [B, L, H], the weight on places that were never filled, 0 where those are masked: with it, a head's
            weights sum to 1.
        step: int64 [B], the step itself.
        first, last: int64 [B, N], the steps that a place holds, both included; -1 where there is nothing.
        compressed_size, memory_size: C and M.
    """

    weights: Tensor
    empty: Tensor
    step: Tensor
    first: Tensor
    last: Tensor
    compressed_size: int
    memory_size: int

    @property
    def there(self) -> Tensor:
        """bool [B, N]: where there is something to look at."""
        return self.first >= 0

    @property
    def by_place(self) -> Tensor:
        """[B, N]: the mean weight over layers and heads."""
        return self.weights.mean((1, 2))

    @property
    def compressed(self) -> Tensor:
        """[B, L, H]: the weight on all compressed memory."""
        return self.weights[..., : self.compressed_size].sum(3)

    @property
    def memory(self) -> Tensor:
        """[B, L, H]: the weight on all memory."""
        return self.weights[..., self.compressed_size :][..., : self.memory_size].sum(3)

    @property
    def window(self) -> Tensor:
        """[B, L, H]: the weight on the current window, the step itself included."""
        return self.weights[..., self.compressed_size + self.memory_size :].sum(3)
