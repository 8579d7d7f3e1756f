"""Multi-head attention with relative positions over [compressed | memory | current].

Relative positions as in Transformer-XL (Dai et al. 2019) and the authors' Compressive Transformer: the
compressed slots have their own projection and bias. Shapes: R distances of steps, N keys.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ct_rl.memory.compressive.kernels.blocked import blocked_attention
from ct_rl.memory.compressive.optimiser_steps import optimiser_steps
from ct_rl.memory.compressive.plan import Absent


def sinusoids(length: int, d_model: int) -> Tensor:
    """Position codes [length, d_model] of the distances 0, 1, ..., length - 1, in float64."""
    place = torch.arange(0, d_model, 2, dtype=torch.float64)
    frequency = torch.exp(place * (-math.log(10000.0) / d_model))
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)[:, :d_model]


def skew(by_distance: Tensor) -> Tensor:
    """From logits by distance to logits by key, without a copy per query.

    Args:
        by_distance: [..., T, R], where column R - 1 - d belongs to distance d.

    Returns:
        [..., T, R + T], where query t finds distance d at column t + R - d; other columns hold numbers that a mask
        must hide.
    """
    steps, reach = by_distance.shape[-2:]
    padded = F.pad(by_distance, (1, steps))  # (..., T, R + T + 1)
    return padded.flatten(-2)[..., : steps * (reach + steps)].unflatten(-1, (steps, reach + steps))


class RelativeAttention(nn.Module):
    """Projections and relative logits of one layer; which keys a query may see is the caller's mask.

    Args:
        reach: distances 0 ... reach - 1 that current and remembered steps can have.
        slots: the first distance that slots can have, and the last + 1; equal for no compressed memory.
        dropout: rate on the attention weights.
        gated: whether each number that the heads read passes a gate that the step's own input opens.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        reach: int,
        slots: tuple[int, int],
        dropout: float = 0.0,
        gated: bool = False,
    ):
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_model // n_heads
        self.scale = self.d_head**-0.5
        self.reach, self.slots, self.dropout = reach, slots, dropout
        self.q = nn.Linear(d_model, d_model, bias=False)
        self.kv = nn.Linear(d_model, 2 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model)
        self.content_bias = nn.Parameter(torch.zeros(n_heads, 1, self.d_head))
        self.read_gate = nn.Linear(d_model, d_model) if gated else None
        self.position = nn.Linear(d_model, d_model, bias=False)
        self.position_bias = nn.Parameter(torch.zeros(n_heads, 1, self.d_head))
        self.clamp = 0
        self._acting_keys: Tensor | None = None
        self._made_of: tuple[Any, ...] = ()
        self._behind: list[Tensor] = []
        for name in ("codes", "slot_codes"):
            self.register_buffer(name, None, persistent=False)
        self.codes: Tensor
        self.slot_codes: Tensor
        if slots[1]:
            self.slot_position = nn.Linear(d_model, d_model, bias=False)
            self.slot_position_bias = nn.Parameter(torch.zeros(n_heads, 1, self.d_head))
        self._encode()

    @torch.no_grad()
    def look_near_first(self) -> None:
        """Starts with weights that fall as (1 + distance)^-s: s is 2, 1, 1/2, ... by head, and 0 for the last.

        One number of each head's position keys says -ln(1 + distance), by least squares in the codes, and its bias s;
        both go on to learn. The squares go on to eight times the distances that are there,
        or a memory that is longer in evaluation than in training would see weights that rise.
        """
        if self.position.weight.is_meta:
            return  # sizes alone
        with torch.device("cpu"):  # wherever the module is made
            distance = torch.arange(8 * max(self.reach, self.slots[1]), dtype=torch.float64)
            codes = sinusoids(len(distance), self.q.in_features)
            worth = (1.0 + distance).rsqrt()[:, None]  # each doubling of it counts alike
            small = 1e-2 * torch.eye(codes.shape[1], dtype=torch.float64)  # few codes fix no row
            given = torch.cat([codes * worth, small])
            wanted = torch.cat([-distance.log1p()[:, None] * worth, small.new_zeros(len(small), 1)])
            row = torch.linalg.lstsq(given, wanted).solution[:, 0]
        parts = [(self.position.weight, self.position_bias)]
        if self.slots[1]:
            parts.append((self.slot_position.weight, self.slot_position_bias))
        for weight, bias in parts:
            for head in range(self.n_heads - 1):
                weight[head * self.d_head] = row.to(weight)
                bias[head, 0, 0] = 2.0 ** (1 - head)

    def _encode(self) -> None:
        weight = self.q.weight
        codes = sinusoids(max(self.reach, self.slots[1]), weight.shape[1])
        if self.clamp:
            codes = codes[torch.arange(len(codes)).clamp(max=self.clamp)]
        self.codes = codes[: self.reach].to(weight)
        self.slot_codes = codes[slice(*self.slots)].to(weight)

    def _apply(self, fn: Any, recurse: bool = True) -> RelativeAttention:
        # Codes follow the weights' dtype, exact in each: a float32 code turned float64 is off by 1e-8.
        super()._apply(fn, recurse)
        self._encode()
        return self

    def clamp_distances(self, most: int) -> None:
        """Gives distances of `most` and more one code (the authors' clamp_time_range); 0 for none."""
        self.clamp = most
        self._encode()

    def heads(self, x: Tensor) -> Tensor:
        """[..., N, D] as [..., H, N, Dh]."""
        return x.unflatten(-1, (self.n_heads, self.d_head)).transpose(-2, -3)

    def queries(self, x: Tensor) -> Tensor:
        """Scaled queries [B, T, D], see `heads`."""
        return F.linear(x, self.q.weight * self.scale)

    def keys_values(self, x: Tensor) -> Tensor:
        """Keys and values [2, B, H, N, Dh] of x [B, N, D]."""
        return self.apart(self.kv(x))

    def apart(self, keys_values: Tensor) -> Tensor:
        """[B, N, 2 D] as [2, B, H, N, Dh]."""
        return keys_values.unflatten(-1, (2, self.n_heads, self.d_head)).permute(2, 0, 3, 1, 4)

    def distance_keys(self) -> Tensor:
        """Keys of distances [H, Dh, R], FARTHEST first (distance R - 1 ... 0)."""
        return self.heads(self.position(self.codes.flip(0))).transpose(-1, -2)

    def slot_distance_keys(self) -> Tensor:
        """Keys of slots' distances [H, Dh, n], nearest first."""
        return self.heads(self.slot_position(self.slot_codes)).transpose(-1, -2)

    def by_distance(self, queries: Tensor) -> Tensor:
        """Relative logits [B, H, T, R] of steps, farthest first."""
        return (queries + self.position_bias) @ self.distance_keys()

    def slot_by_distance(self, queries: Tensor) -> Tensor:
        """Relative logits [B, H, T, n] of slots, nearest first."""
        return (queries + self.slot_position_bias) @ self.slot_distance_keys()

    def absent_logit(self, by_step: Tensor, by_slot: Tensor | None, absent: Absent) -> Tensor:
        """One logit [B, H, T, 1] for all empty places: their keys and values are zero, their positions count."""
        never = torch.finfo(by_step.dtype).min / 4
        logits = [by_step.masked_fill(~absent.steps[:, None], never)]
        if by_slot is not None and absent.slots is not None and absent.distance is not None:
            slots = by_slot.gather(3, absent.distance[:, None].expand(-1, self.n_heads, -1, -1))
            logits.append(slots.masked_fill(~absent.slots[:, None], never))
        return torch.cat(logits, 3).logsumexp(3, keepdim=True)

    def read(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        bias: Tensor,
        hidden: Tensor,
        report: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends.

        Args:
            bias: [B, H, T, N], relative logits.
            hidden: [B, 1, T, N], 0, or so low that the weight is 0 where a query may not look.
            report: whether to give the weights too.

        Returns:
            What the heads read [B, T, D], for `output`, and the weights [B, H, T, N] before dropout.
        """
        queries = queries + self.content_bias
        rate = self.dropout if self.training else 0.0
        weights = None
        if queries.is_cuda and not report:  # the fused kernels that take a bias with a gradient
            mask = (bias + hidden).to(queries.dtype)
            y = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, dropout_p=rate, scale=1.0
            )
        else:
            logits = (queries @ keys.transpose(-1, -2)).add_(bias).add_(hidden)
            weights = logits.softmax(-1)
            y = F.dropout(weights, rate) @ values if rate else weights.to(values.dtype) @ values
        return y.transpose(1, 2).flatten(2), weights

    def output(self, read: Tensor, u: Tensor) -> Tensor:
        """Attention's output, of what the heads have read and the attention's input, both [..., D].

        The gate is RetNet's (Sun et al. 2023, arXiv 2307.08621, gated multi-scale retention): a swish for each number,
        before the last projection.
        """
        if self.read_gate is not None:
            read = read * F.silu(self.read_gate(u))
        return self.out(read)

    def both_distance_keys(self) -> Tensor:
        """Keys of slots' distances, then of steps' [H, Dh + 1, n + R], and under them what the biases add."""
        parts = [(self.distance_keys(), self.position_bias)]
        if self.slots[1]:
            parts.insert(0, (self.slot_distance_keys(), self.slot_position_bias))
        return torch.cat([torch.cat([keys, bias @ keys], 1) for keys, bias in parts], 2)

    @torch.no_grad()
    def acting_keys(self) -> Tensor:
        """`both_distance_keys`, made anew only when a weight behind them has changed."""
        behind = [self.position.weight, self.position_bias]
        if self.slots[1]:
            behind += [self.slot_position.weight, self.slot_position_bias]
        if any(weight.is_inference() for weight in behind):
            return self.both_distance_keys()  # tensors of inference mode count no changes
        # A weight that was written to has another version, one that was moved another place; a fused optimiser
        # writes without a new version. What is held here keeps its place: no other weight can come to lie there.
        made_of = (*((weight.data_ptr(), weight._version) for weight in behind), optimiser_steps())
        if self._acting_keys is None or made_of != self._made_of:
            self._acting_keys, self._made_of = self.both_distance_keys(), made_of
            self._behind = [weight.detach() for weight in behind]
        return self._acting_keys

    def __getstate__(self) -> dict[str, Any]:
        # A copy's weights have places and versions of their own.
        return {**self.__dict__, "_acting_keys": None, "_made_of": (), "_behind": []}

    def read_past(self, queries: Tensor, past: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """`read` for one query a row, of what is remembered itself: nothing of it is projected, so nothing is cached.

        The projection of keys moves to the query's side, (W m) q = m (W q), and that of values to the end.

        Args:
            queries: [H, B, Dh], scaled.
            past: [B, N, D], slots and steps.
            bias: [B, H, N] or more, relative logits, -inf where a query may not look. More are empty places, which
                are zeros. Overwritten.

        Returns:
            What the heads read [B, D], for `output`, and the weights [B, H, N or more].
        """
        keys, values = self.kv.weight.view(2, self.n_heads, self.d_head, -1)
        asking = torch.bmm(queries + self.content_bias, keys)  # (H, B, D)
        # The long side first: several times as fast on a CPU.
        bias[:, :, : past.shape[1]] += torch.bmm(past, asking.permute(1, 2, 0)).transpose(1, 2)
        weights = bias.softmax(2)
        read = torch.bmm(weights[:, :, : past.shape[1]], past)  # (B, H, D)
        y = torch.bmm(read.transpose(0, 1), values.transpose(1, 2))  # (H, B, Dh)
        return y.transpose(0, 1).flatten(1), weights

    def read_blocked(
        self, queries: Tensor, keys_values: Tensor, hidden: Tensor, slots: Tensor | None
    ) -> Tensor:
        """`read` with the relative logits of `Layer`, on a CPU; see `blocked_attention`."""
        slot_bias = slot_keys = None
        if slots is not None:
            slot_bias, slot_keys = self.slot_position_bias, self.slot_distance_keys()
        biases = (self.content_bias, self.position_bias, slot_bias)
        far = (self.distance_keys(), slot_keys)
        return blocked_attention(queries, biases, keys_values, far, hidden, slots)
