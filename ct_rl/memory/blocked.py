"""Relative attention with its gradient, a few rows at a time: what a pass needs stays in a core's cache.

The same numbers as `RelativeAttention.read` on the logits that `Layer` puts together, which is its twin. On a CPU the
logits of a whole batch do not fit the cache, and moving them through memory costs more than computing with them; here
the only thing of their size that is written is the weights, once. Nothing is skewed: logits by distance are added
along the diagonals of the logits by key, through a view.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CACHED = 2**18  # elements of logits at a time


def blocked_attention(
    queries: tuple[Tensor, Tensor, Tensor],
    keys_values: Tensor,
    distances: tuple[Tensor, Tensor | None],
    hidden: Tensor,
    slots: Tensor | None,
    rings: int,
) -> Tensor:
    """Attention over [rings | steps | new slots].

    Args:
        queries: with content bias, position bias, and slot position bias, each [B, H, T, Dh]; the last is not read
            without slots.
        keys_values: [B, N, 2 D].
        distances: keys of distances, [H, Dh, R] farthest first, and of slots' distances [H, Dh, n].
        hidden: [B, 1, T, N], -inf where a query may not look, else 0.
        slots: int64 [B, 1, T, S], which of the n each slot column is at; the first `rings` stand before the steps.

    Returns:
        [B, T, D].
    """
    content, by_step, by_slot = (q.contiguous() for q in queries)
    far, slot_far = distances
    return _Blocked.apply(
        content, by_step, by_slot, keys_values, far, slot_far, hidden, slots, rings
    )


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qc, qp, qs, keys_values, far, slot_far, hidden, slots, rings):  # type: ignore[no-untyped-def]
        rows, heads, steps, size = qc.shape
        keys, values = _heads(keys_values, heads)
        weights = qc.new_empty(rows, heads, steps, keys_values.shape[1])
        y = torch.empty_like(qc)
        for r in _chunks(weights):
            w = weights[r]
            torch.matmul(qc[r], keys[r].transpose(-1, -2), out=w)
            _band(w, rings, far.shape[2]).add_(qp[r] @ far)
            if slots is not None:
                index = slots[r].expand(-1, heads, -1, -1)
                bias = (qs[r] @ slot_far).gather(3, index)
                w[..., :rings] += bias[..., :rings]
                if bias.shape[3] > rings:
                    w[..., rings - bias.shape[3] :] += bias[..., rings:]
            w += hidden[r]
            torch.softmax(w, -1, out=w)
            torch.matmul(w, values[r], out=y[r])
        ctx.save_for_backward(qc, qp, qs, keys_values, far, slot_far, slots, weights, y)
        ctx.rings = rings
        return y.transpose(1, 2).reshape(rows, steps, heads * size)

    @staticmethod
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        qc, qp, qs, keys_values, far, slot_far, slots, weights, y = ctx.saved_tensors
        rings, (rows, heads, steps, size) = ctx.rings, qc.shape
        keys, values = _heads(keys_values, heads)
        gy = grad.view(rows, steps, heads, size).transpose(1, 2).contiguous()
        offset = (gy * y).sum(-1, keepdim=True)
        gqc, gqp = torch.empty_like(qc), torch.empty_like(qp)
        gqs = torch.zeros_like(qs) if slots is None else torch.empty_like(qs)
        g_far = torch.zeros_like(far)
        g_slot_far = None if slots is None else torch.zeros_like(slot_far)
        gkv = torch.empty_like(keys_values)
        gkv_heads = gkv.view(rows, -1, 2, heads, size).permute(2, 0, 3, 1, 4)  # (2, B, H, N, Dh)
        logits = None
        for r in _chunks(weights):
            w = weights[r]
            if logits is None:
                logits = torch.empty_like(w)
            g = logits[: len(w)]
            torch.matmul(gy[r], values[r].transpose(-1, -2), out=g)
            g.sub_(offset[r]).mul_(w)
            gkv_heads[0, r] = g.transpose(-1, -2) @ qc[r]
            gkv_heads[1, r] = w.transpose(-1, -2) @ gy[r]
            torch.matmul(g, keys[r], out=gqc[r])
            band = _band(g, rings, far.shape[2])
            torch.matmul(band, far.transpose(-1, -2), out=gqp[r])
            g_far += (qp[r].transpose(-1, -2) @ band).sum(0)
            if slots is not None:
                count = slots.shape[3] - rings
                bias = g[..., :rings]
                if count:
                    bias = torch.cat([bias, g[..., -count:]], 3)
                by_slot = g.new_zeros(*g.shape[:3], slot_far.shape[2])
                by_slot.scatter_add_(3, slots[r].expand(-1, heads, -1, -1), bias)
                torch.matmul(by_slot, slot_far.transpose(-1, -2), out=gqs[r])
                g_slot_far += (qs[r].transpose(-1, -2) @ by_slot).sum(0)
        return gqc, gqp, gqs, gkv, g_far, g_slot_far, None, None, None


def _heads(keys_values: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    rows, count, width = keys_values.shape
    split = keys_values.view(rows, count, 2, heads, width // (2 * heads)).permute(2, 0, 3, 1, 4)
    keys, values = split.contiguous().unbind(0)
    return keys, values


def _chunks(weights: Tensor) -> Iterator[slice]:
    """Rows that are worked on together."""
    rows = len(weights)
    size = max(1, CACHED * rows // max(weights.numel(), 1))
    for start in range(0, rows, size):
        yield slice(start, start + size)


def _band(logits: Tensor, first: int, reach: int) -> Tensor:
    """A view [b, H, T, R] of logits [b, H, T, N] by distance: column c of query t is the key first + t + c + 1."""
    b, heads, steps, count = logits.shape
    stride = (*logits.stride()[:2], count + 1, 1)
    return logits.as_strided((b, heads, steps, reach), stride, logits.storage_offset() + first + 1)
