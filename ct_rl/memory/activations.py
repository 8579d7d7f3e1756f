"""What lies between the two projections of a core's feed-forward part."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """swish(a) b of the two halves a, b of what comes in (Shazeer 2020, arXiv 2002.05202, section 2)."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return F.silu(a) * b


ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "swiglu": SwiGLU}


def widths(d_model: int, d_ff: int | None, activation: str) -> tuple[int, int]:
    """Numbers that the first projection gives and the last one reads; the first of swiglu's is twice as wide.

    Where `d_ff` is None it is 4 d_model, or 8/3 of it for swiglu, so that all have as many weights.
    """
    if activation == "swiglu":
        d_ff = d_ff or 8 * -(-d_model // 3)
        return 2 * d_ff, d_ff
    d_ff = d_ff or 4 * d_model
    return d_ff, d_ff
