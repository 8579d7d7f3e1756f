"""Relative attention with its gradient, a few rows of a head at a time: what a pass needs stays in a core's cache.

The same numbers as `RelativeAttention.read` on the logits that `Layer` puts together, which is its twin. On a CPU the
logits of a whole batch do not fit the cache, and moving them through memory costs more than computing with them; here
the only thing of their size that is written is the weights, once. Heads are columns of what the projections give, and
logits by distance are logits by key seen along their diagonals: nothing is transposed, padded or skewed by a copy.
What a batched product writes is contiguous: torch's fast way takes it only so, while factors may lie anyhow.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ct_rl.memory.compressive.kernels.first_order import first_order

CACHED = 2**18  # elements of logits at a time


def project(before: Tensor, x: Tensor, after: Tensor, weight: Tensor) -> Tensor:
    """[before | x | after] times a weight, [B, N, D'], without gradients that nobody needs."""
    return _Project.apply(before, x, after, weight)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, before, x, after, weight):  # type: ignore[no-untyped-def]
        ctx.sizes = (before.shape[1], x.shape[1], after.shape[1])
        joined = torch.cat([before, x, after], 1)
        ctx.save_for_backward(joined, weight)
        return F.linear(joined, weight)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        joined, weight = ctx.saved_tensors
        of_weight = grad.flatten(0, 1).t() @ joined.flatten(0, 1)
        parts: list[Tensor | None] = [None, None, None]
        needed = [i for i in range(3) if ctx.needs_input_grad[i]]
        if needed:  # from the first that needs one to the last, in one product
            start, sizes = sum(ctx.sizes[: needed[0]]), ctx.sizes[needed[0] : needed[-1] + 1]
            of_inputs = grad[:, start : start + sum(sizes)] @ weight
            for i, part in enumerate(of_inputs.split(sizes, 1), needed[0]):
                parts[i] = part if i in needed else None
        return *parts, of_weight


def blocked_attention(
    queries: Tensor,
    biases: tuple[Tensor, Tensor, Tensor | None],
    keys_values: Tensor,
    distances: tuple[Tensor, Tensor | None],
    hidden: Tensor,
    slots: Tensor | None,
) -> Tensor:
    """Attention over [steps | slots].

    Args:
        queries: [B, T, D], scaled.
        biases: what is added to them for content, for steps' distances, and for slots' distances, [H, 1, Dh] each.
        keys_values: [B, N or more, 2 D]; the steps are the T new ones and at most R - 1 before them.
        distances: keys of distances, [H, Dh, R] farthest first, and of slots' distances [H, Dh, n].
        hidden: [B, T, N], 0, or so low that the weight is 0 where a query may not look.
        slots: int64 [B, T, S], which of the n each slot is at.

    Returns:
        [B, T, D].
    """
    far, slot_far = distances
    if slot_far is not None:  # products of odd sizes are half as fast
        slot_far = F.pad(slot_far, (0, -slot_far.shape[2] % 16))
    flat = [None if bias is None else bias.flatten() for bias in biases]
    return _Blocked.apply(queries, *flat, keys_values, far, slot_far, hidden, slots)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q, cb, pb, sb, keys_values, far, slot_far, hidden, slots):  # type: ignore[no-untyped-def]
        heads, (_, length, count) = len(far), hidden.shape
        ctx.steps = steps = count - (0 if slots is None else slots.shape[2])
        asking = [q + cb, q + pb] + ([] if slots is None else [q + sb])
        weights = q.new_empty(heads, *hidden.shape)
        y = torch.empty_like(q)
        rows = _rows(weights)
        parts = [_parts(x, heads, rows) for x in (*asking, y)]
        keys, values = _keys_values(keys_values[:, :count], heads, rows)
        barred = hidden.split(rows) * heads
        where = [] if slots is None else slots.split(rows) * heads
        many = len(barred) // heads
        for i, w in enumerate(part for head in weights.unbind() for part in head.split(rows)):
            by_content, by_step, *_, read = (part[i] for part in parts)
            near = _skew(by_step.flatten(0, 1) @ far[i // many], length, steps)
            torch.add(barred[i][:, :, :steps], near, out=w[:, :, :steps])
            if slots is not None:
                near = (parts[2][i].flatten(0, 1) @ slot_far[i // many]).view(*w.shape[:2], -1)
                near = near.gather(2, where[i])
                torch.add(barred[i][:, :, steps:], near, out=w[:, :, steps:])
            w.baddbmm_(by_content, keys[i].transpose(1, 2))
            torch.softmax(w, -1, out=w)
            read.copy_(torch.bmm(w, values[i]))
        ctx.save_for_backward(keys_values, far, slot_far, slots, weights, y, *asking)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        keys_values, far, slot_far, slots, weights, y, *asking = ctx.saved_tensors
        heads, _, length, count = weights.shape
        rows = _rows(weights)
        of_q, of_kv = torch.empty_like(y), torch.empty_like(keys_values)
        of_kv[:, count:] = 0
        of_biases = [y.new_zeros(heads, y.shape[2] // heads) for _ in asking]
        of_far = torch.zeros_like(far)
        of_slot_far = None if slots is None else torch.zeros_like(slot_far)
        mean = (grad * y).unflatten(2, (heads, -1)).sum(3, keepdim=True)
        mean = [part for head in mean.unbind(2) for part in head.split(rows)]
        parts = [_parts(x, heads, rows) for x in (*asking, grad, of_q)]
        keys, values = _keys_values(keys_values[:, :count], heads, rows)
        of_keys, of_values = _keys_values(of_kv[:, :count], heads, rows)
        where = [] if slots is None else slots.split(rows) * heads
        many = len(keys) // heads
        # Zeros before the first step, where diagonals of distances out of sight begin.
        zeros = far.shape[2] + length - 1 - ctx.steps
        width = zeros + count
        buffer = y.new_zeros(rows, length * (width + 1))
        for i, w in enumerate(part for head in weights.unbind() for part in head.split(rows)):
            h, space = i // many, buffer[: len(w)]
            by_content, by_step, *_, gy, of_query = (part[i] for part in parts)
            g = space[:, : length * width].unflatten(1, (length, width))[:, :, zeros:]
            of_weights = torch.bmm(gy, values[i].transpose(1, 2))
            torch.mul(of_weights.sub_(mean[i]), w, out=g)
            of_values[i].copy_(torch.bmm(w.transpose(1, 2), gy))
            of_keys[i].copy_(torch.bmm(g.transpose(1, 2), by_content))
            of_content = torch.bmm(g, keys[i])
            of_biases[0][h] += of_content.sum((0, 1))
            diagonals = space.view(-1, width + 1)[:, : far.shape[2]]
            of_far[h].addmm_(by_step.flatten(0, 1).t(), diagonals)
            of_position = diagonals @ far[h].t()
            of_biases[1][h] += of_position.sum(0)
            if slots is not None and of_slot_far is not None:
                near = g.new_zeros(*g.shape[:2], slot_far.shape[2])
                near = near.scatter_add_(2, where[i], g[:, :, ctx.steps :]).flatten(0, 1)
                of_slot_far[h].addmm_(parts[2][i].flatten(0, 1).t(), near)
                of_slot = near @ slot_far[h].t()
                of_biases[2][h] += of_slot.sum(0)
                of_position += of_slot
            torch.add(of_content, of_position.view(of_content.shape), out=of_query)
        of_biases = [bias.flatten() for bias in of_biases] + [None] * (3 - len(of_biases))
        return of_q, *of_biases, of_kv, of_far, of_slot_far, None, None


def _rows(weights: Tensor) -> int:
    """How many rows of a head are worked on together."""
    rows = weights.shape[1]
    parts = -(-weights[0].numel() // CACHED)
    return max(1, -(-rows // max(parts, 1)))


def _parts(x: Tensor, heads: int, rows: int) -> list[Tensor]:
    """Views [b, N, Dh] of x [B, N, heads Dh]: of each head, some rows at a time."""
    by_head = x.unflatten(2, (heads, -1)).unbind(2)
    return [part for head in by_head for part in head.split(rows)]


def _keys_values(x: Tensor, heads: int, rows: int) -> tuple[list[Tensor], list[Tensor]]:
    """`_parts` of keys and of values."""
    parts = _parts(x, 2 * heads, rows)
    return parts[: len(parts) // 2], parts[len(parts) // 2 :]


def _skew(by_distance: Tensor, length: int, steps: int) -> Tensor:
    """A view [b, T, steps] by key of logits [b T, R] by distance; what is not a distance is another's number."""
    reach = by_distance.shape[1]
    shape, stride = (len(by_distance) // length, length, steps), (length * reach, reach - 1, 1)
    return by_distance.as_strided(shape, stride, reach + length - 1 - steps)
