"""What the queries of a pass may see, as masks and distances over its keys, the same for all layers.

Two shapes: `Visible` for the plain way, `VisibleInBlocks` for the way that a CPU's cache likes.

Glossary: B batch (rows), T time, R steps that a query can see (window + memory), S slots, n keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ct_rl.memory.compressive.plan import Plan, Sizes

_NEVER = -1e30  # many times as fast to fill in as infinity, and its exponential is 0 all the same


@dataclass
class Visible:
    """The keys are, in order: S slots (the rings of all queues, then the new ones), the steps (the last R kept and the
    T new), those steps once more that gradients reach (only where they stop at a window's end), and one zero for all
    places that were never filled (only where they are not masked).

    Attributes:
        hidden: [B, 1, T, n], additive: so low that the weight is 0 where a query may not look, else 0.
        slots: int64 [B, 1, T, S], columns of `slot_by_distance`; None without compressed memory.
        live: how many steps stand there once more.
    """

    hidden: Tensor
    slots: Tensor | None
    live: int = 0

    @property
    def slot_count(self) -> int:
        """S."""
        return 0 if self.slots is None else self.slots.shape[-1]


@dataclass
class VisibleInBlocks:
    """The steps come before the slots, and what no query sees is left out: the first steps, the last new slots.

    Attributes:
        hidden: [B, T, n]; slots: int64 [B, T, S], or None; see `Visible`.
        first: the first of the last R + T steps that stands there.
    """

    hidden: Tensor
    slots: Tensor | None
    first: int


def visible(
    sizes: Sizes, plan: Plan, x: Tensor, *, by_usage: bool, window_gradient: bool
) -> Visible:
    """What a pass over x [B, T, D] sees; by usage, new slots come too late for the pass's own queries."""
    steps = x.shape[1]
    pairs = list(zip(sizes.queues, plan.queues, strict=True))
    ends = [slice(q.size) for q, _ in pairs]
    if not by_usage:
        pairs, ends = pairs * 2, ends + [slice(q.size, None) for q, _ in pairs]
    parts = [queue.hidden[..., end] for (_, queue), end in zip(pairs, ends, strict=True)]
    far = [queue.distance[..., end] for (_, queue), end in zip(pairs, ends, strict=True)]
    live = 0
    if window_gradient:
        parts.append(plan.hidden)
    else:
        back = torch.arange(steps, device=x.device)[:, None] + sizes.reach
        back = back - torch.arange(sizes.reach + steps, device=x.device)  # (T, R + T): steps ago
        own = back <= (plan.age % sizes.window)[..., None]
        live = sizes.window - 1 + steps
        parts += [plan.hidden | own, (plan.hidden | ~own)[..., -live:]]
    if plan.absent is not None:
        parts.append(torch.zeros_like(plan.hidden[..., :1]))
    hidden = torch.cat(parts, 2)[:, None]
    return Visible(
        hidden=hidden.to(x.dtype).mul_(_NEVER),
        slots=torch.cat(far, 2)[:, None] if far else None,
        live=live,
    )


def visible_in_blocks(sizes: Sizes, plan: Plan, x: Tensor) -> VisibleInBlocks:
    """What a pass over x [B, T, D] sees, for `blocked_attention`."""
    steps = torch.arange(x.shape[1])
    back = torch.minimum(plan.age, plan.age - sizes.boundary(plan.age))
    first = sizes.reach + int((steps - back).min())
    hidden = [plan.hidden[..., first:]]
    ends = [slice(queue.size) for queue in sizes.queues]
    ends += [slice(queue.size, None) for queue in sizes.queues]
    if len(sizes.queues) == 1:
        seen = torch.nonzero(~plan.queues[0].hidden[..., ends[1]].flatten(0, 1).all(0))
        ends[1] = slice(ends[1].start, ends[1].start + (int(seen[-1]) + 1 if len(seen) else 0))
    pairs = list(zip(plan.queues * 2, ends, strict=True))
    hidden += [queue.hidden[..., end] for queue, end in pairs]
    far = [queue.distance[..., end] for queue, end in pairs]
    return VisibleInBlocks(
        hidden=torch.cat(hidden, 2).to(x.dtype).mul_(_NEVER),
        slots=torch.cat(far, 2) if far else None,
        first=first,
    )
