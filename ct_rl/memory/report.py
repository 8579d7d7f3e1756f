"""What attention reads and what compression loses: the numbers behind the paper's two analysis figures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ct_rl.memory.geometry import Sizes, View


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


def place_weights(sizes: Sizes, plan: View, slots: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Sums weights by place.

    Args:
        slots: [B, H, T, S], on the rings' slots and, unless they came too late, the new ones.
        steps: [B, H, T, R + T], on the steps.

    Returns:
        [H, C] and [H, M + W], summed over rows and queries.
    """
    _, heads, length, seen = steps.shape
    newest = torch.arange(length, device=steps.device)[:, None] + sizes.reach
    back = newest - torch.arange(seen, device=steps.device)  # (T, R + T): steps ago
    place = (plan.age - sizes.boundary(plan.age))[..., None] - back  # from the boundary on
    by_step = _summed(steps, place, sizes.reach)
    if not sizes.compressed:
        return steps.new_zeros(heads, 0), by_step
    pairs = list(zip(sizes.queues, plan.queues, strict=True))
    ranks = [view.latest[..., None] - view.number[:, None] for _, view in pairs]
    rings = [rank[..., : queue.size] for (queue, _), rank in zip(pairs, ranks, strict=True)]
    fresh = [rank[..., queue.size :] for (queue, _), rank in zip(pairs, ranks, strict=True)]
    rank = torch.cat([*rings, *fresh], 2)[..., : slots.shape[3]]
    return _summed(slots, sizes.compressed - rank, sizes.compressed), by_step


def _summed(weights: Tensor, place: Tensor, size: int) -> Tensor:
    """[H, size]: weights [B, H, T, N] summed by place [B, T, N]; a hidden one weighs nothing wherever it is put."""
    heads = weights.shape[1]
    flat = weights.movedim(1, 0).flatten(1)
    index = place.clamp(0, size - 1).flatten().expand(heads, -1)
    return weights.new_zeros(heads, size).scatter_add_(1, index, flat)
