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
    queries: Tensor,
    biases: tuple[Tensor, Tensor, Tensor | None],
    keys_values: Tensor,
    distances: tuple[Tensor, Tensor | None],
    hidden: Tensor,
    slots: Tensor | None,
) -> Tensor:
    """Attention over [slots | steps].

    Args:
        queries: [B, H, T, Dh], scaled.
        biases: what is added to them for content, for steps' distances, and for slots' distances, [H, 1, Dh] each.
        keys_values: [2, B, H, N, Dh].
        distances: keys of distances, [H, Dh, R] farthest first, and of slots' distances [H, Dh, n].
        hidden: [B, 1, T, N], 0, or so low that the weight is 0 where a query may not look.
        slots: int64 [B, 1, T, S], which of the n each slot is at.

    Returns:
        [B, H, T, Dh].
    """
    return _Blocked.apply(
        queries.contiguous(), *biases, keys_values.contiguous(), *distances, hidden, slots
    )


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q, cb, pb, sb, keys_values, far, slot_far, hidden, slots):  # type: ignore[no-untyped-def]
        keys, values = keys_values
        first = 0 if slots is None else slots.shape[3]
        weights = q.new_empty(*q.shape[:3], keys.shape[2])
        y = torch.empty_like(q)
        for r in _chunks(weights):
            w = weights[r]
            torch.matmul(q[r] + cb, keys[r].transpose(-1, -2), out=w)
            _band(w, first, far.shape[2]).add_((q[r] + pb) @ far)
            if slots is not None:
                index = slots[r].expand(-1, q.shape[1], -1, -1)
                w[..., :first] += ((q[r] + sb) @ slot_far).gather(3, index)
            w += hidden[r]
            torch.softmax(w, -1, out=w)
            torch.matmul(w, values[r], out=y[r])
        ctx.save_for_backward(q, cb, pb, sb, keys_values, far, slot_far, slots, weights, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        q, cb, pb, sb, keys_values, far, slot_far, slots, weights, y = ctx.saved_tensors
        keys, values = keys_values
        first = 0 if slots is None else slots.shape[3]
        gq, gkv = torch.empty_like(q), torch.empty_like(keys_values)
        g_cb, g_pb, g_far = torch.zeros_like(cb), torch.zeros_like(pb), torch.zeros_like(far)
        g_sb = g_slot_far = None
        if slots is not None:
            g_sb, g_slot_far = torch.zeros_like(sb), torch.zeros_like(slot_far)
        logits = None
        for r in _chunks(weights):
            w, gy = weights[r], grad[r].contiguous()
            logits = torch.empty_like(w) if logits is None else logits
            g = logits[: len(w)]  # the gradient of the logits
            torch.matmul(gy, values[r].transpose(-1, -2), out=g)
            g.sub_((gy * y[r]).sum(-1, keepdim=True)).mul_(w)
            torch.matmul(g.transpose(-1, -2), q[r] + cb, out=gkv[0, r])
            torch.matmul(w.transpose(-1, -2), gy, out=gkv[1, r])
            by_key = g @ keys[r]
            g_cb += by_key.sum((0, 2))[:, None]
            band = _band(g, first, far.shape[2])
            by_step = band @ far.transpose(-1, -2)
            g_pb += by_step.sum((0, 2))[:, None]
            g_far += ((q[r] + pb).transpose(-1, -2) @ band).sum(0)
            torch.add(by_key, by_step, out=gq[r])
            if slots is not None:
                near = g.new_zeros(*g.shape[:3], slot_far.shape[2])
                near.scatter_add_(3, slots[r].expand(-1, q.shape[1], -1, -1), g[..., :first])
                by_slot = near @ slot_far.transpose(-1, -2)
                g_sb += by_slot.sum((0, 2))[:, None]
                g_slot_far += ((q[r] + sb).transpose(-1, -2) @ near).sum(0)
                gq[r] += by_slot
        return gq, g_cb, g_pb, g_sb, gkv, g_far, g_slot_far, None, None


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
