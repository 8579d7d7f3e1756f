"""Which steps of its episode each place of a memory holds, for one query.

Places are those of `AttentionReport`: C compressed slots, oldest first, then M + W steps from the boundary b(s) on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ct_rl.memory.compressive.plan import Sizes
from ct_rl.memory.compressive.queues import levels, ring_number


@dataclass(frozen=True)
class Places:
    """What the query at step s finds, place by place; N = C + M + W.

    Attributes:
        ring: int64 [B, N], which of a state's C + K vectors stands there; -1 where there is none.
        first, last: int64 [B, N], the steps of the episode that it holds, counted from 0; -1 where there is none.
    """

    ring: Tensor
    first: Tensor
    last: Tensor


def places(sizes: Sizes, steps: Tensor, by_usage: bool = False) -> Places:
    """The places of queries at the steps `steps` [B] of their episodes.

    A slot of "dilated" also reads up to 7 steps before its first. By usage, a slot is one step of the block that left
    together: first and last are the block's, since which one it is depends on attention and on the layer.
    """
    bound = sizes.boundary(steps)[:, None]
    step = bound + torch.arange(sizes.reach, device=steps.device)  # (B, M + W)
    there = (step >= 0) & (step <= steps[:, None])
    ring = torch.where(there, sizes.compressed + step % sizes.kept, -1)
    step = torch.where(there, step, -1)
    if not sizes.compressed:
        return Places(ring, step, step)
    slots = _slots(sizes, steps, by_usage)
    return Places(
        torch.cat([slots.ring, ring], 1),
        torch.cat([slots.first, step], 1),
        torch.cat([slots.last, step], 1),
    )


def _slots(sizes: Sizes, steps: Tensor, by_usage: bool) -> Places:
    """`Places` of the compressed slots alone, [B, C] each."""
    rows, count = len(steps), sizes.compressed
    # One column more, for what is not there.
    ring, first, last = torch.full((3, rows, count + 1), -1, device=steps.device).unbind(0)
    offset, newer = 0, torch.zeros_like(steps)
    for queue, oldest, made in levels(sizes.queues, sizes.made(steps)):
        number = ring_number(made, queue.size)  # (B, S)
        there = number >= oldest[:, None]
        rank = (newer + made)[:, None] - number  # 1 for the newest that the query sees
        place = torch.where(there, count - rank, count)
        newest = queue.newest_step(number) - sizes.padding
        begin = torch.zeros_like(number) if queue.running else newest - queue.span + 1
        if by_usage:
            begin, newest = _block(sizes, begin)
        lies = offset + torch.arange(queue.size, device=steps.device).expand_as(number)
        ring.scatter_(1, place, lies)
        first.scatter_(1, place, begin.clamp(min=0))
        last.scatter_(1, place, newest)
        offset += queue.size
        newer = newer + made - oldest
    return Places(ring[:, :count], first[:, :count], last[:, :count])


def _block(sizes: Sizes, step: Tensor) -> tuple[Tensor, Tensor]:
    """First and last step of the block in which `step` left the memory."""
    index = torch.div(step + sizes.memory, sizes.window, rounding_mode="floor")
    begin = index * sizes.window - sizes.memory
    return begin, begin + sizes.window - 1
