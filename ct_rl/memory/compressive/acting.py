"""One step of a compressive transformer for acting: write it into the ring, attend to what is remembered, compress.

The state is updated IN PLACE. Rings: step u lives at u mod K, slot j of a queue at j mod its size; a query's places
are the C slots first and then the K steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ct_rl.memory.compressive.layer import Layer
from ct_rl.memory.compressive.plan import Absent, Sizes, absent, departure, ends, slot_origin
from ct_rl.memory.compressive.queues import levels, ring_number
from ct_rl.memory.contract import State


@dataclass
class VisibleNow:
    """What one new step of each row may see, place by place.

    Attributes:
        rows, place: [B], where the step is written.
        hidden: [B, 1, C + K], -inf where the step may not look; one more, 0, for an unmasked memory's empty places.
        distance: [B, 1, C + K], columns of `both_distance_keys`.
        empty: what an unmasked memory reads beside them.
    """

    rows: Tensor
    place: Tensor
    hidden: Tensor
    distance: Tensor
    empty: Absent | None


def visible_now(
    sizes: Sizes, steps: Tensor, like: Tensor, masked: Tensor | None = None
) -> VisibleNow:
    """What the steps with the numbers `steps` [B] see; `like` gives the dtype.

    `masked`: bool [B, C + K], further places where they may not look.
    """
    kept, device = sizes.kept, steps.device
    place = steps % kept
    bound = sizes.boundary(steps)
    back = (place[:, None] - torch.arange(kept, device=device)) % kept  # (B, K): steps ago
    hidden = back > torch.minimum(steps, steps - bound)[:, None]
    first, end = sizes.slot_distances
    distance = (end - first + sizes.reach - 1 - back).clamp(min=0)  # steps' keys are farthest first
    if sizes.compressed:
        origin = slot_origin(sizes, steps, bound)[:, None]
        newer = torch.zeros_like(origin)
        veiled, far = [], []
        for queue, oldest, made in levels(sizes.queues, sizes.made(steps)[:, None]):
            number = ring_number(made[:, 0], queue.size)
            veiled.append(number < oldest)
            far.append(sizes.slot_distance.of(queue, number, newer + made, origin)[:, 0])
            newer = newer + made - oldest
        hidden = torch.cat([*veiled, hidden], 1)
        distance = torch.cat([*far, distance], 1)
    if masked is not None:
        hidden = hidden | masked
    if not sizes.mask_empty:
        hidden = F.pad(hidden, (0, 1))
    barred = torch.zeros(hidden.shape, dtype=like.dtype, device=device)
    return VisibleNow(
        rows=torch.arange(len(steps), device=device),
        place=place,
        hidden=barred.masked_fill_(hidden, -torch.inf)[:, None],
        distance=distance[:, None],
        empty=None if sizes.mask_empty else absent(sizes, steps[:, None]),
    )


def step(
    layers: Sequence[Layer],
    sizes: Sizes,
    x: Tensor,
    state: State,
    resets: Tensor,
    *,
    masked: Tensor | None = None,
    weights: list[Tensor] | None = None,
) -> Tensor:
    """Reads x [B, D] and moves `state` on by one step, in place.

    Args:
        masked: bool [B, C + K], places that this step may not read, in any layer.
        weights: takes each layer's attention weights [B, H, C + K or one more], those that it has acted with.

    Returns:
        y [B, D].
    """
    begun = torch.nonzero(resets)[:, 0]
    if len(begun):
        for value in state.values():
            value[begun] = 0
    steps = state["steps"]
    seen = visible_now(sizes, steps, x, masked)
    for i, layer in enumerate(layers):
        x, looked = _layer_step(layer, i, x, state, seen)
        if weights is not None:
            weights.append(looked)
    if sizes.compressed:
        due = torch.nonzero(ends(sizes, steps))[:, 0]
        if len(due):
            _compress(layers, sizes, state, due)
    steps += 1
    return x


def _layer_step(
    layer: Layer, i: int, x: Tensor, state: State, seen: VisibleNow
) -> tuple[Tensor, Tensor]:
    attention, slots = layer.attention, layer.sizes.compressed
    u = layer.attended(x)
    past = state["past"][:, i]
    past[seen.rows, slots + seen.place] = u.to(past.dtype)
    queries = attention.queries(u).unflatten(1, (attention.n_heads, -1)).transpose(0, 1)
    keys = attention.acting_keys()
    by_distance = torch.baddbmm(keys[:, -1:], queries, keys[:, :-1]).transpose(0, 1)  # (B, H, n)
    bias = by_distance.gather(2, seen.distance.expand(-1, attention.n_heads, -1))
    if seen.empty is not None:
        by_slot, by_step = by_distance[:, :, None].tensor_split([-layer.sizes.reach], 3)
        empty = attention.absent_logit(by_step, by_slot, seen.empty)
        bias = torch.cat([bias, empty[:, :, 0]], 2)
    read, weights = attention.read_past(queries, past, bias.add_(seen.hidden))
    if layer.by_usage:
        usage = state["usage"][:, i]
        usage[seen.rows, seen.place] = 0
        usage += weights[:, :, slots : past.shape[1]].mean(1)
    return layer.after(x, u, read), weights


def _compress(layers: Sequence[Layer], sizes: Sizes, state: State, due: Tensor) -> None:
    """Turns the steps that the rows `due` have just left behind into slots, in all layers."""
    plan = departure(sizes, state["steps"][due])
    row = due[:, None, None]
    # (L, n, 1, lookback + W, D), and without D
    leaving = state["past"][row, :, sizes.compressed + plan.place].movedim(3, 0)
    usage = state["usage"][row, :, plan.place].movedim(3, 0) if "usage" in state else None
    slots = state["past"][due, :, : sizes.compressed]
    made = []
    for i, layer in enumerate(layers):
        worth = None if usage is None else usage[i]
        new = layer.make_slots(leaving[i], plan.there, worth, slots[:, i], plan.sources)
        made.append(torch.cat(new, 1))
    row, new = plan.kept
    fresh = torch.stack(made, 1)[row, :, new]  # (k, L, D)
    state["past"][due[row], :, plan.slot] = fresh.to(state["past"].dtype)
    if sizes.overflow == "merge":  # what a coarser queue was made of is gone
        gone = torch.nonzero(~_kept_slots(sizes, state["steps"][due] + 1))
        state["past"][due[gone[:, 0]], :, gone[:, 1]] = 0


def _kept_slots(sizes: Sizes, steps: Tensor) -> Tensor:
    """bool [n, C]: which places of the rings hold a slot that a row at `steps` [n] keeps."""
    rings = levels(sizes.queues, sizes.made(steps))
    kept = [ring_number(made, queue.size) >= first[:, None] for queue, first, made in rings]
    return torch.cat(kept, 1)
