"""Attention weights place by place: of a pass for `AttentionReport`, of an acting step for `StepAttention`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ct_rl.memory.compressive.acting import step
from ct_rl.memory.compressive.layer import Layer
from ct_rl.memory.compressive.places import places
from ct_rl.memory.compressive.plan import Plan, Sizes
from ct_rl.memory.contract import State
from ct_rl.memory.report import StepAttention


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


def watched_step(
    layers: Sequence[Layer],
    sizes: Sizes,
    x: Tensor,
    state: State,
    resets: Tensor,
    masked: Tensor | None = None,
) -> tuple[Tensor, StepAttention]:
    """`acting.step`, and where it looked; `state` moves on IN PLACE.

    Args:
        x: [B, D]; resets: bool [B].
        masked: bool [B, N], places of `StepAttention` that the step may not read; its own it always reads.

    Returns:
        y [B, D], and the attention.

    Raises:
        ValueError: for a mask of another shape or type.
    """
    at = torch.where(resets, 0, state["steps"])  # `step` moves the state's on
    by_usage = "usage" in state
    where = places(sizes, at, by_usage)
    there = where.ring >= 0
    ring = where.ring.clamp(min=0)
    vectors = sizes.compressed + sizes.kept
    hidden = None
    if masked is not None:
        if masked.shape != ring.shape or masked.dtype != torch.bool:
            raise ValueError(
                f"masked is {masked.dtype} {list(masked.shape)}, expected bool {list(ring.shape)}"
            )
        # One column more, for the places where there is nothing.
        hidden = torch.zeros(len(x), vectors + 1, dtype=torch.bool, device=x.device)
        barred = masked & there & (where.first < at[:, None])
        hidden = hidden.scatter(1, torch.where(there, ring, vectors), barred)[:, :vectors]
    looked: list[Tensor] = []
    y = step(layers, sizes, x, state, resets, masked=hidden, weights=looked)
    weights = torch.stack(looked, 1)  # (B, L, H, C + K or one more)
    index = ring[:, None, None].expand(*weights.shape[:3], -1)
    ordered = weights.gather(3, index) * there[:, None, None]
    attention = StepAttention(
        weights=ordered,
        empty=weights[..., vectors:].sum(3),
        step=at,
        first=where.first,
        last=where.last,
        compressed_size=sizes.compressed,
        memory_size=sizes.memory,
    )
    return y, attention
