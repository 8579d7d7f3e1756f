"""What trains the compressor of a layer (Rae et al. 2019, section 3.2), block by block.

The block that leaves the memory when a window ends is read by that window's queries, before and after compression.
In a pyramid, what is merged is treated alike: c slots before, one after.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ct_rl.memory.compressive.attention import RelativeAttention
from ct_rl.memory.compressive.compression import CompressionFunction, attention_reconstruction
from ct_rl.memory.compressive.gather import take
from ct_rl.memory.compressive.kernels.reconstruction import reconstruction
from ct_rl.memory.compressive.plan import Plan, Sizes


class Compressing(Protocol):
    """What the losses read of a layer."""

    attention: RelativeAttention
    compress: CompressionFunction
    decode: Any
    sizes: Sizes
    compression_loss: str


def compression_terms(
    layer: Compressing,
    queries: Tensor,
    timeline: Tensor,
    keys_values: Tensor,
    made: list[Tensor],
    slots: Tensor,
    plan: Plan,
    first: int,
) -> tuple[Tensor, Tensor]:
    """A pass's compression loss: the sum of its terms, and how many there are.

    A term is a query's error for attention reconstruction, and a slot's for auto-encoding.

    Args:
        queries: [B, H, E + T, Dh], with the E steps before the pass that belong to the call; detached.
        timeline: [B, K + T, D]; keys_values: [2, B, H, n, Dh], from the timeline's `first` seen step on; detached.
        made: the new slots [B, G, D] of each queue.
        slots: [B, C, D], the rings.
    """
    assert plan.blocks is not None
    reconstruct = layer.compression_loss == "attention"
    rings = slots.split([queue.size for queue in layer.sizes.queues], 1)
    total, count = timeline.new_zeros(()), torch.zeros((), dtype=torch.long, device=queries.device)
    for level, new in enumerate(made):
        queue = plan.queues[level]
        if level == 0:
            where = plan.blocks.steps[..., layer.compress.lookback :]  # (B, N, W)
            old_there = plan.blocks.there[..., layer.compress.lookback :]
            if reconstruct:
                old = _pick(keys_values, (where - first).clamp(min=0))
                old = old * old_there[:, None, :, :, None]
            else:
                old = take(timeline.detach(), where.flatten(1)).unflatten(1, where.shape[1:])
                old = old * old_there[..., None]
            asking, asked = plan.blocks.queries, plan.blocks.asked
            each = layer.sizes.block
        else:
            assert queue.source is not None
            pool = [rings[level - 1], made[level - 1]]
            pool += [rings[level], new] if layer.sizes.queues[level].running else []
            old = take(torch.cat(pool, 1).detach(), queue.source.flatten(1))
            old = old.unflatten(1, queue.source.shape[1:])  # (B, G, c, D)
            old = _project(layer, old) if reconstruct else old
            old_there = queue.new.there[..., None].expand(queue.source.shape)
            asking, asked = (
                take(x, queue.new.block) for x in (plan.blocks.queries, plan.blocks.asked)
            )
            each = 1
        there = queue.new.there.unflatten(1, (-1, each))  # (B, N, n)
        if reconstruct:
            masks = (old_there, there) if layer.sizes.mask_empty else (None, None)
            q = _pick(queries, asking)
            fresh = _project(layer, new.unflatten(1, (-1, each)))
            error = attention_reconstruction(q, (old[0], old[1]), (fresh[0], fresh[1]), *masks)
            weight = asked
            if layer.sizes.mask_empty:
                weight = asked & there.any(2)[..., None]
        else:
            rebuilt = layer.decode(new).unflatten(-1, (layer.sizes.rate, -1))
            error = (rebuilt - old.reshape_as(rebuilt)).square().mean((2, 3))  # (B, G)
            weight = queue.new.there
            if (
                not layer.sizes.mask_empty
            ):  # what ends a window counts, also where its block is nothing
                weight = asked[..., -1].repeat_interleave(each, 1)
        total = total + torch.where(weight, error, 0).sum()
        count = count + weight.sum()
    return total, count


def blocked_terms(
    layer: Compressing, queries: Tensor, keys_values: Tensor, made: Tensor, plan: Plan, first: int
) -> tuple[Tensor, Tensor]:
    """`compression_terms` of attention reconstruction in one queue, with heads side by side.

    Args:
        queries: [B, E + T, D]; keys_values: [B, n, 2 D], from the timeline's `first` seen step on to the new slots'.
    """
    assert plan.blocks is not None
    blocks, back = plan.blocks, layer.compress.lookback
    where, old_there = blocks.steps[..., back:], blocks.there[..., back:]
    there = plan.queues[0].new.there.unflatten(1, (-1, layer.sizes.block))  # (B, N, n)
    weight = blocks.asked & there.any(2)[..., None]
    q, old = (
        take(x, index.flatten(1)).view(-1, index.shape[2], x.shape[2])
        for x, index in ((queries, blocks.queries), (keys_values, (where - first).clamp(min=0)))
    )
    new = keys_values[:, keys_values.shape[1] - made.shape[1] :].reshape(len(q), -1, old.shape[2])
    seen = (old_there.flatten(0, 1), there.flatten(0, 1))
    reading = layer.attention.kv.weight.detach()
    heads = layer.attention.n_heads
    total = reconstruction(made, q, old, new, seen, weight.flatten(0, 1), reading, heads)
    return total, weight.sum()


def _project(layer: Compressing, x: Tensor) -> Tensor:
    """Keys and values [2, B, H, N, n, Dh] of x [B, N, n, D]."""
    # Only the compressor may learn from this loss: its readers' weights are constants here.
    both = F.linear(x, layer.attention.kv.weight.detach())
    return both.unflatten(-1, (2, layer.attention.n_heads, -1)).permute(3, 0, 4, 1, 2, 5)


def _pick(x: Tensor, index: Tensor) -> Tensor:
    """x [..., B, H, N, Dh] at index [B, n, m]: [..., B, H, n, m, Dh]."""
    flat = index.flatten(1)[:, None].expand(*x.shape[:-2], -1)  # (..., B, H, n m)
    picked = take(x.flatten(0, -3), flat.flatten(0, -2))
    return picked.view(*x.shape[:-2], *index.shape[1:], x.shape[-1])
