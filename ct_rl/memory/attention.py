"""Multi-head attention with relative positions over [compressed | memory | current].

Relative positions as in Transformer-XL (Dai et al. 2019) and the authors' Compressive Transformer: the
compressed slots have their own projection and bias. Shapes: S slots, K remembered and current steps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoids(length: int, d_model: int) -> Tensor:
    """Position codes [length, d_model] of the distances 0, 1, ..., length - 1."""
    frequency = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
    angle = torch.arange(length)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)[:, :d_model]


def skew(by_distance: Tensor) -> Tensor:
    """From logits by distance to logits by key, without a copy per query.

    Args:
        by_distance: [..., T, M], where column M - 1 - d belongs to distance d.

    Returns:
        [..., T, M + T - 1], where query t finds distance d at column t + M - 1 - d; other columns hold
        numbers that a mask must hide.
    """
    steps, reach = by_distance.shape[-2:]
    padded = F.pad(by_distance, (0, steps))  # (..., T, M + T)
    flat = padded.flatten(-2)[..., : steps * (reach + steps - 1)]
    return flat.unflatten(-1, (steps, reach + steps - 1))


class RelativeAttention(nn.Module):
    """Projections and relative logits of one layer; which keys a query may see is the caller's mask.

    Args:
        reach: distances 0 ... reach - 1 that current and remembered steps can have.
        slot_reach: distances that slots can have; 0 for no compressed memory.
    """

    def __init__(self, d_model: int, n_heads: int, reach: int, slot_reach: int):
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_model // n_heads
        self.scale = self.d_head**-0.5
        self.reach, self.slot_reach = reach, slot_reach
        self.q = nn.Linear(d_model, d_model, bias=False)
        self.kv = nn.Linear(d_model, 2 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model)
        self.content_bias = nn.Parameter(torch.zeros(n_heads, 1, self.d_head))
        self.position = nn.Linear(d_model, d_model, bias=False)
        self.position_bias = nn.Parameter(torch.zeros(n_heads, 1, self.d_head))
        self.register_buffer("codes", sinusoids(reach, d_model), persistent=False)
        self.codes: Tensor
        if slot_reach:
            self.slot_position = nn.Linear(d_model, d_model, bias=False)
            self.slot_position_bias = nn.Parameter(torch.zeros(n_heads, 1, self.d_head))
            self.register_buffer("slot_codes", sinusoids(slot_reach, d_model), persistent=False)
            self.slot_codes: Tensor

    def heads(self, x: Tensor) -> Tensor:
        """[..., N, D] as [..., H, N, Dh]."""
        return x.unflatten(-1, (self.n_heads, self.d_head)).transpose(-2, -3)

    def queries(self, x: Tensor) -> Tensor:
        """Scaled queries [B, H, T, Dh]."""
        return self.heads(self.q(x)) * self.scale

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each [B, H, N, Dh]."""
        keys, values = self.kv(x).chunk(2, -1)
        return self.heads(keys), self.heads(values)

    def by_distance(self, queries: Tensor) -> Tensor:
        """Relative logits [B, H, T, reach], FARTHEST first (distance reach - 1 ... 0)."""
        codes = self.heads(self.position(self.codes.flip(0)))  # (H, reach, Dh)
        return (queries + self.position_bias) @ codes.transpose(-1, -2)

    def slot_by_distance(self, queries: Tensor) -> Tensor:
        """Relative logits of slots [B, H, T, slot_reach], nearest first."""
        codes = self.heads(self.slot_position(self.slot_codes))
        return (queries + self.slot_position_bias) @ codes.transpose(-1, -2)

    def read(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Attention output [B, T, D]; `bias` [B, H, T, N] holds relative logits, and -inf where hidden."""
        y = F.scaled_dot_product_attention(
            queries + self.content_bias, keys, values, attn_mask=bias.to(queries.dtype), scale=1.0
        )
        return self.out(y.transpose(1, 2).flatten(2))
