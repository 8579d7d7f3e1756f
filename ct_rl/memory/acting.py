"""One step of a compressive transformer for acting: project one step, write it into the rings, attend.

The state's caches are updated IN PLACE. Rings: step u lives at u mod K, slot j of a queue at j mod its size; keys
and values hold the C slots first and then the K steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ct_rl.memory.contract import State
from ct_rl.memory.geometry import Absent, Sizes, View, absent, ends, slot_origin, view
from ct_rl.memory.queues import levels, ring_number

if TYPE_CHECKING:
    from ct_rl.memory.compressive import CompressiveTransformer
    from ct_rl.memory.layer import Layer


@dataclass
class Glance:
    """What one new step of each row may see, ring by ring.

    Attributes:
        place: [B], where the step is written.
        hidden: [B, 1, 1, C + K], -inf where the step may not look.
        distance: [B, 1, 1, K], columns of `by_distance`; slot_distance: [B, 1, 1, C], of `slot_by_distance`.
        empty: what an unmasked memory reads beside them.
    """

    place: Tensor
    hidden: Tensor
    distance: Tensor
    slot_distance: Tensor | None
    empty: Absent | None


def glance(sizes: Sizes, steps: Tensor, like: Tensor) -> Glance:
    """What the steps with the numbers `steps` [B] see; `like` gives the dtype."""
    kept, device = sizes.kept, steps.device
    place = steps % kept
    bound = sizes.boundary(steps)
    back = (place[:, None] - torch.arange(kept, device=device)) % kept  # (B, K): steps ago
    hidden = back > torch.minimum(steps, steps - bound)[:, None]
    distance = (sizes.reach - 1 - back).clamp(min=0)  # by_distance runs farthest first
    slot_distance = None
    if sizes.compressed:
        origin = slot_origin(sizes, steps, bound)[:, None]
        newer = torch.zeros_like(origin)
        veiled, far = [], []
        for queue, first, made in levels(sizes.queues, sizes.made(steps)[:, None]):
            number = ring_number(made[:, 0], queue.size)
            veiled.append(number < first)
            far.append(sizes.slot_distance(queue, number, newer + made, origin)[:, 0])
            newer = newer + made - first
        hidden = torch.cat([*veiled, hidden], 1)
        slot_distance = torch.cat(far, 1)[:, None, None]
    if not sizes.mask_empty:
        hidden = F.pad(hidden, (0, 1))
    barred = torch.zeros(hidden.shape, dtype=like.dtype, device=device)
    return Glance(
        place=place,
        hidden=barred.masked_fill_(hidden, -torch.inf)[:, None, None],
        distance=distance[:, None, None],
        slot_distance=slot_distance,
        empty=None if sizes.mask_empty else absent(sizes, steps[:, None]),
    )


def step(core: CompressiveTransformer, x: Tensor, state: State, resets: Tensor) -> Tensor:
    """Reads x [B, 1, D] and moves the cached `state` on by one step.

    Returns:
        y [B, 1, D].
    """
    sizes = core.sizes
    steps = state["steps"].masked_fill_(resets[:, 0], 0)
    seen = glance(sizes, steps, x)
    due = steps[:0]
    if sizes.compressed:
        due = torch.nonzero(ends(sizes, steps)).flatten()
    plan = None
    if due.numel():
        before = steps[due]
        plan = view(sizes, before, torch.zeros_like(before, dtype=torch.bool)[:, None])
    for i, layer in enumerate(core.layers):
        x = _layer_step(layer, i, x, state, seen)
        if plan is not None:
            _compress(layer, i, state, due, plan)
    steps += 1
    return x


def _layer_step(layer: Layer, i: int, x: Tensor, state: State, seen: Glance) -> Tensor:
    attention = layer.attention
    slots = layer.sizes.compressed
    rows = torch.arange(x.shape[0], device=x.device)
    keys, values = state[f"keys_{i}"], state[f"values_{i}"]
    u = layer.attended(x)
    queries = attention.heads(attention.queries(u))
    key, value = attention.keys_values(u)
    state["memory"][rows, i, seen.place] = u[:, 0]
    keys[rows, :, slots + seen.place] = key[:, :, 0]
    values[rows, :, slots + seen.place] = value[:, :, 0]
    by_step = _by_distance(queries + attention.position_bias, state[f"distances_{i}"][0])
    bias = by_step.gather(3, seen.distance.expand(-1, attention.n_heads, -1, -1))
    by_slot = None
    if seen.slot_distance is not None:
        by_slot = _by_distance(
            queries + attention.slot_position_bias, state[f"slot_distances_{i}"][0]
        )
        slot_bias = by_slot.gather(3, seen.slot_distance.expand(-1, attention.n_heads, -1, -1))
        bias = torch.cat([slot_bias, bias], 3)
    if seen.empty is not None:
        empty = attention.absent_logit(by_step, by_slot, seen.empty)
        nothing = torch.zeros_like(keys[:, :, :1])
        keys, values = torch.cat([keys, nothing], 2), torch.cat([values, nothing], 2)
        bias = torch.cat([bias, empty], 3)
    read, weights = attention.read(queries, keys, values, bias, seen.hidden, layer.by_usage)
    if layer.by_usage and weights is not None:
        usage = state["usage"][:, i]
        usage[rows, seen.place] = 0
        usage += weights[:, :, 0, slots : slots + usage.shape[1]].mean(1)
    return layer.after(x, read)


def _by_distance(queries: Tensor, keys: Tensor) -> Tensor:
    """Logits [B, H, 1, R] of queries [B, H, 1, Dh] and the keys of distances [H, Dh, R]."""
    # A product for each head and all rows: `@` would copy the keys for every row.
    return torch.bmm(queries[:, :, 0].transpose(0, 1), keys).transpose(0, 1)[:, :, None]


def _compress(layer: Layer, i: int, state: State, due: Tensor, plan: View) -> None:
    """Turns the steps that the rows `due` have just left behind into slots."""
    assert plan.blocks is not None
    kept = layer.sizes.kept
    before = plan.steps - 1
    # The timeline's positions follow the ring's places, and its newest step is written already.
    place = (before[:, None, None] + plan.blocks.steps) % kept
    row = due[:, None, None]
    leaving = state["memory"][row, i, place] * plan.blocks.there[..., None]
    usage = None
    if layer.by_usage:
        timeline = (before[:, None] + torch.arange(kept + 1, device=due.device)) % kept
        usage = state["usage"][due[:, None], i, timeline]
    made = layer.make_slots(leaving, usage, state["compressed"][due, i], plan)
    offset = 0
    for queue, new, queued in zip(layer.sizes.queues, made, plan.queues, strict=True):
        taken = (queued.next_source >= queue.size) & queued.next_there
        r, column = torch.nonzero(taken, as_tuple=True)
        fresh = new[r, queued.next_source[r, column] - queue.size]  # (n, D)
        keys, values = layer.attention.keys_values(fresh[:, None])
        where = offset + column
        state["compressed"][due[r], i, where] = fresh
        state[f"keys_{i}"][due[r], :, where] = keys[:, :, 0]
        state[f"values_{i}"][due[r], :, where] = values[:, :, 0]
        offset += queue.size
