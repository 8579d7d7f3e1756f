"""Relative attention with its gradient, a few rows of a head at a time: what a pass needs stays in a core's cache.

The same numbers as `RelativeAttention.read` on the logits that `Layer` puts together, which is its twin. On a CPU the
logits of a whole batch do not fit the cache, and moving them through memory costs more than computing with them; here
the only thing of their size that is written is the weights, once. Heads are columns of what the projections give, and
logits by distance are logits by key seen along their diagonals: nothing is transposed, padded or skewed by a copy.
What a batched product writes is contiguous: torch's fast way takes it only so, while factors may lie anyhow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

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
        return torch.nn.functional.linear(joined, weight)

    @staticmethod
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
    flat = [None if bias is None else bias.flatten() for bias in biases]
    return _Blocked.apply(queries, *flat, keys_values, *distances, hidden, slots)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q, cb, pb, sb, keys_values, far, slot_far, hidden, slots):  # type: ignore[no-untyped-def]
        steps = hidden.shape[2] - (0 if slots is None else slots.shape[2])
        by_content, by_step = q + cb, q + pb
        by_slot = None if slots is None else q + sb
        weights = q.new_empty(len(far), *hidden.shape)
        y = torch.empty_like(q)
        for h, r, key, value in _chunks(weights, q.shape[2]):
            w = weights[h, r]
            near = _skew(by_step[r, :, key].flatten(0, 1) @ far[h], w.shape[1], steps)
            torch.add(hidden[r, :, :steps], near, out=w[:, :, :steps])
            if slots is not None:
                near = (by_slot[r, :, key].flatten(0, 1) @ slot_far[h]).view(*w.shape[:2], -1)
                near = near.gather(2, slots[r])
                torch.add(hidden[r, :, steps:], near, out=w[:, :, steps:])
            past = keys_values[r, : w.shape[2]]
            w.baddbmm_(by_content[r, :, key], past[:, :, key].transpose(1, 2))
            torch.softmax(w, -1, out=w)
            y[r, :, key] = torch.bmm(w, past[:, :, value])
        ctx.steps = steps
        ctx.save_for_backward(
            by_content, by_step, by_slot, keys_values, far, slot_far, slots, weights, y
        )
        return y

    @staticmethod
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        by_content, by_step, by_slot, keys_values, far, slot_far, slots, weights, y = (
            ctx.saved_tensors
        )
        heads, rows, length, count = weights.shape
        of_q, of_kv = torch.empty_like(y), torch.empty_like(keys_values)
        of_kv[:, count:] = 0
        of_biases = [torch.zeros_like(y[0, 0]) for _ in range(3)]
        of_far = torch.zeros_like(far)
        of_slot_far = None if slots is None else torch.zeros_like(slot_far)
        grad = grad.contiguous()
        mean = (grad * y).unflatten(2, (heads, -1)).sum(3, keepdim=True)
        # Zeros before the first step, where diagonals of distances out of sight begin.
        zeros = far.shape[2] + length - 1 - ctx.steps
        size, width = _rows(weights), zeros + count
        buffer = y.new_zeros(size, length * (width + 1))
        near = None if slots is None else y.new_empty(size, length, slot_far.shape[2])
        for h, r, key, value in _chunks(weights, y.shape[2]):
            w, gy, part = weights[h, r], grad[r, :, key], buffer[: min(size, rows - r.start)]
            past, of_past = keys_values[r, :count], of_kv[r, :count]
            g = part[:, : length * width].unflatten(1, (length, width))[:, :, zeros:]
            of_weights = torch.bmm(gy, past[:, :, value].transpose(1, 2))
            torch.mul(of_weights.sub_(mean[r, :, h]), w, out=g)
            of_past[:, :, value] = torch.bmm(w.transpose(1, 2), gy)
            of_past[:, :, key] = torch.bmm(g.transpose(1, 2), by_content[r, :, key])
            of_head = torch.bmm(g, past[:, :, key])
            of_biases[0][key] += of_head.sum((0, 1))
            diagonals = part.view(-1, width + 1)[:, : far.shape[2]]
            of_far[h].addmm_(by_step[r, :, key].flatten(0, 1).t(), diagonals)
            other = diagonals @ far[h].t()
            of_biases[1][key] += other.sum(0)
            if slots is not None:
                each = near[: len(w)].zero_().scatter_add_(2, slots[r], g[:, :, ctx.steps :])
                each = each.flatten(0, 1)
                of_slot_far[h].addmm_(by_slot[r, :, key].flatten(0, 1).t(), each)
                of_slot = each @ slot_far[h].t()
                of_biases[2][key] += of_slot.sum(0)
                other += of_slot
            torch.add(of_head, other.view(of_head.shape), out=of_q[r, :, key])
        if slots is None:
            of_biases[2] = None
        return of_q, *of_biases, of_kv, of_far, of_slot_far, None, None


def _rows(weights: Tensor) -> int:
    """How many rows of a head are worked on together."""
    rows = weights.shape[1]
    parts = -(-weights[0].numel() // CACHED)
    return max(1, -(-rows // max(parts, 1)))


def _chunks(weights: Tensor, width: int) -> Iterator[tuple[int, slice, slice, slice]]:
    """Heads, rows that are worked on together, and the columns of the head's keys and values."""
    heads, rows = weights.shape[:2]
    each, size = width // heads, _rows(weights)
    for h in range(heads):
        key = slice(h * each, (h + 1) * each)
        value = slice(width + key.start, width + key.stop)
        for start in range(0, rows, size):
            yield h, slice(start, start + size), key, value


def _skew(by_distance: Tensor, length: int, steps: int) -> Tensor:
    """A view [b, T, steps] by key of logits [b T, R] by distance; what is not a distance is another's number."""
    reach = by_distance.shape[1]
    shape, stride = (len(by_distance) // length, length, steps), (length * reach, reach - 1, 1)
    return by_distance.as_strided(shape, stride, reach + length - 1 - steps)
