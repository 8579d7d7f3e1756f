"""Attention reconstruction (Rae et al. 2019, section 3.2) with its gradient, a head at a time.

The same numbers as `attention_reconstruction`, its twin: only the new slots learn from this loss, so that their
gradient is known as soon as the loss is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ct_rl.memory.compressive.kernels.first_order import first_order

_NEVER = -1e30


def reconstruction(
    made: Tensor,
    queries: Tensor,
    old: Tensor,
    new: Tensor,
    there: tuple[Tensor, Tensor],
    weight: Tensor,
    keys_values: Tensor,
    heads: int,
) -> Tensor:
    """The weighted sum of queries' errors.

    Args:
        made: [B, G, D], the new slots, N blocks of n each; what learns.
        queries: [B N, W, D], scaled.
        old: [B N, W, 2 D], keys and values of what leaves; new: [B N, n, 2 D], of the slots.
        there: bool [B N, W] and [B N, n], which of them exist.
        weight: [B N, W], of each query's error.
        keys_values: [2 D, D], what projects slots to keys and values.
    """
    return _Reconstruction.apply(made, queries, old, new, *there, weight, keys_values, heads)


class _Reconstruction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, made, q, old, new, old_there, there, weight, keys_values, heads):  # type: ignore[no-untyped-def]
        width = q.shape[2]
        each = width // heads
        never = max(_NEVER, torch.finfo(q.dtype).min / 2)  # finite: a block may have no step at all
        old_hidden, hidden = ((~seen).to(q.dtype).mul_(never) for seen in (old_there, there))
        old_hidden = old_hidden[:, None].expand(-1, q.shape[1], -1)
        # Slots are few: their softmax is along the queries, many at a time.
        hidden = hidden[:, :, None].expand(-1, -1, q.shape[1])
        weight = weight.to(q.dtype)[..., None] / width
        total = q.new_zeros(())
        of_new = torch.empty_like(new)
        for start in range(0, width, each):
            key, value = slice(start, start + each), slice(width + start, width + start + each)
            asking, keys, values = q[:, :, key], new[:, :, key], new[:, :, value]
            seen = torch.baddbmm(old_hidden, asking, old[:, :, key].transpose(1, 2)).softmax(-1)
            seen = seen @ old[:, :, value]
            w = torch.baddbmm(hidden, keys, asking.transpose(1, 2)).softmax(1)  # (B N, n, W)
            error = torch.baddbmm(seen, w.transpose(1, 2), values, beta=-1)
            g = error * weight
            total += g.flatten().dot(error.flatten())
            if ctx.needs_input_grad[0]:
                of_new[:, :, value] = w @ g
                g = values @ g.transpose(1, 2)
                g = torch._softmax_backward_data(g, w, 1, w.dtype)
                of_new[:, :, key] = g @ asking
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward((of_new.flatten(0, 1) @ keys_values).mul_(2).view_as(made))
        return total

    @staticmethod
    @first_order
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        (of_made,) = ctx.saved_tensors
        return of_made * grad, *[None] * 8
