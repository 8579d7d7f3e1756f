"""Attention weights of a pass, summed place by place: what `AttentionReport` is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from ct_rl.memory.compressive.plan import Plan, Sizes


def place_weights(sizes: Sizes, plan: Plan, slots: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
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
    ranks = [queue.latest[..., None] - queue.number[:, None] for _, queue in pairs]
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
