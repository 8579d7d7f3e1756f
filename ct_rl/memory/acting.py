"""One step of a compressive transformer for acting: project one step, write it into the rings, attend.

The state's caches are updated IN PLACE. Rings: step u lives at u mod K, slot k at k mod C; keys and values hold
the C slots first and then the K steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ct_rl.memory.contract import State

if TYPE_CHECKING:
    from ct_rl.memory.compressive import CompressiveTransformer, Layer
    from ct_rl.memory.geometry import Sizes


def step(core: CompressiveTransformer, x: Tensor, state: State, resets: Tensor) -> Tensor:
    """Reads x [B, 1, D] and moves the cached `state` on by one step.

    Returns:
        y [B, 1, D].
    """
    sizes = core.sizes
    kept, slots, c = sizes.kept, sizes.compressed, sizes.rate
    rows = torch.arange(x.shape[0], device=x.device)
    steps = state["steps"].masked_fill_(resets[:, 0], 0)
    place = steps % kept
    bound = sizes.boundary(steps)
    back = (place[:, None] - torch.arange(kept, device=x.device)) % kept  # (B, K): steps ago
    hidden = back > torch.minimum(steps, steps - bound)[:, None]
    # by_distance runs farthest first.
    distance = kept - 1 - back
    slot_distance = None
    if slots:
        upto = torch.div(bound.clamp(min=0), c, rounding_mode="floor")[:, None]
        newest = (upto - 1 - torch.arange(slots, device=x.device)) % slots  # slots ago
        k = upto - 1 - newest
        slot_distance = ((steps - bound)[:, None] + upto - k).clamp(max=sizes.slot_reach - 1)
        hidden = torch.cat([k < 0, hidden], 1)
    hidden = hidden[:, None, None]  # (B, 1, 1, C + K)
    index = distance[:, None, None].expand(-1, core.n_heads, -1, -1)
    slot_index = (
        None
        if slot_distance is None
        else slot_distance[:, None, None].expand(-1, core.n_heads, -1, -1)
    )
    steps += 1
    after = sizes.boundary(steps)
    due = torch.nonzero((steps % sizes.window == 0) & (after > 0)).flatten() if slots else rows[:0]
    for i, layer in enumerate(core.layers):
        keys, values = state[f"keys_{i}"], state[f"values_{i}"]
        attention = layer.attention
        u = layer.norm(x)
        queries = attention.queries(u)
        key, value = attention.keys_values(u)
        state["memory"][rows, i, place] = u[:, 0]
        keys[rows, :, slots + place] = key[:, :, 0]
        values[rows, :, slots + place] = value[:, :, 0]
        bias = attention.by_distance(queries).gather(3, index)
        if slot_index is not None:
            slot_bias = attention.slot_by_distance(queries).gather(3, slot_index)
            bias = torch.cat([slot_bias, bias], 3)
        x = layer.gate(
            x, attention.read(queries, keys, values, bias.masked_fill_(hidden, float("-inf")))
        )
        x = layer.gate_ff(x, layer.ff(layer.norm_ff(x)))
        if due.numel():
            _compress(layer, i, state, due, after[due], sizes)
    return x


def _compress(layer: Layer, i: int, state: State, due: Tensor, bound: Tensor, sizes: Sizes) -> None:
    """Turns the steps that the rows `due` have just left behind into slots."""
    c, count = sizes.rate, sizes.window // sizes.rate
    first = (bound // c)[:, None] - count + torch.arange(count, device=due.device)  # (R, n): slot k
    member = (first[..., None] * c + torch.arange(c, device=due.device)) % sizes.kept
    groups = state["memory"][due[:, None, None], i, member]  # (R, n, c, D)
    new = layer.compress(groups)
    key, value = layer.attention.keys_values(new)  # (R, H, n, Dh)
    place = first % sizes.compressed
    # A first boundary inside a window closes fewer groups; a queue shorter than a window keeps the newest.
    there = (first >= 0) & (torch.arange(count, device=due.device) >= count - sizes.compressed)
    row, column = torch.nonzero(there, as_tuple=True)
    where = place[row, column]
    state["compressed"][due[row], i, where] = new[row, column]
    state[f"keys_{i}"][due[row], :, where] = key[row, :, column]
    state[f"values_{i}"][due[row], :, where] = value[row, :, column]
