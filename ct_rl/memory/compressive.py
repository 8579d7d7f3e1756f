"""The Compressive Transformer (Rae et al. 2019, arXiv 1911.05507), exact for any cut, phase and reset.

Glossary: B batch (rows), T time, L layers, D width, H heads, C compressed slots, K kept steps (memory + window).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ct_rl.memory.acting import step
from ct_rl.memory.attention import RelativeAttention, skew
from ct_rl.memory.compression import (
    COMPRESSION_LOSSES,
    COMPRESSIONS,
    attention_reconstruction,
)
from ct_rl.memory.contract import MemoryCore, MemoryOutput, State
from ct_rl.memory.gating import build_gate
from ct_rl.memory.geometry import Sizes, View, ring_there, view


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of items by index: x [B, N, D], index [B, M] -> [B, M, D]."""
    return torch.gather(x, 1, index[..., None].expand(-1, -1, x.shape[-1]))


class Layer(nn.Module):
    """One block: relative attention over [compressed | memory | window], then an MLP, norm on the input of each."""

    def __init__(
        self,
        sizes: Sizes,
        d_model: int,
        n_heads: int,
        d_ff: int,
        gate: str,
        compression: str,
        compression_loss: str,
    ):
        super().__init__()
        self.sizes = sizes
        self.compression_loss = compression_loss
        self.norm = nn.LayerNorm(d_model)
        self.attention = RelativeAttention(d_model, n_heads, sizes.kept, sizes.slot_reach)
        self.norm_ff = nn.LayerNorm(d_model)
        self.ff = nn.Sequential(nn.Linear(d_model, d_ff), nn.GELU(), nn.Linear(d_ff, d_model))
        self.gate, self.gate_ff = build_gate(gate, d_model), build_gate(gate, d_model)
        if sizes.compressed:
            self.compress = COMPRESSIONS[compression](d_model, sizes.rate)
            if compression_loss == "auto_encoding":
                self.decode = nn.Linear(d_model, sizes.rate * d_model, bias=False)
        # Blocks start as the identity, so that an agent can act before its memory has learned.
        for last in (self.attention.out, self.ff[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(
        self, x: Tensor, kept: Tensor, slots: Tensor | None, plan: View
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """One pass over T steps.

        Args:
            x: [B, T, D].
            kept: [B, K, D], ring of the normed inputs of the steps before.
            slots: [B, C, D], ring of the compressed slots.
            plan: what each step may see.

        Returns:
            The layer's output, the next `kept` and `slots`, and the compression loss.
        """
        attention = self.attention
        u = self.norm(x)
        timeline = torch.cat([take(kept, plan.gather_kept), u], 1)  # (B, K + T, D)
        queries = attention.queries(u)
        keys, values = attention.keys_values(timeline)  # (B, H, K + T, Dh)
        bias = skew_to_keys(attention, queries, plan)
        loss = next_slots = None
        seen_keys, seen_values = keys[:, :, 1:], values[:, :, 1:]
        if slots is not None:
            groups, new = self._compress(timeline, plan)
            if self.training and self.compression_loss != "none":
                loss = self._loss(queries, keys, values, groups, new, plan)
            if self.compression_loss != "none":
                new = new.detach()  # the task never trains the compressor
            every = torch.cat([take(slots, plan.slot_ring), new], 1)  # (B, C + G, D)
            slot_keys, slot_values = attention.keys_values(every)
            by_distance = attention.slot_by_distance(queries)  # (B, H, T, slot_reach)
            index = plan.slot_distance[:, None].expand(-1, attention.n_heads, -1, -1)
            slot_bias = by_distance.gather(3, index)
            slot_bias = slot_bias.masked_fill(plan.slots_hidden[:, None], float("-inf"))
            bias = torch.cat([slot_bias, bias], 3)
            seen_keys = torch.cat([slot_keys, seen_keys], 2)
            seen_values = torch.cat([slot_values, seen_values], 2)
            kept_slots = take(every.detach(), plan.slot_source)
            next_slots = kept_slots * plan.slot_there[..., None]
        x = self.gate(x, attention.read(queries, seen_keys, seen_values, bias))
        x = self.gate_ff(x, self.ff(self.norm_ff(x)))
        next_kept = take(timeline.detach(), plan.next_source) * plan.next_there[..., None]
        return x, next_kept, next_slots, loss

    def _compress(self, timeline: Tensor, plan: View) -> tuple[Tensor, Tensor]:
        """The groups that leave the memory [B, G, c, D], and the slots they become [B, G, D]."""
        source = plan.group_source  # (B, G, c)
        groups = take(timeline, source.flatten(1)).unflatten(1, source.shape[1:])
        if self.compression_loss != "none":
            groups = groups.detach()  # the compressor's loss trains nothing before it
        return groups, self.compress(groups)

    def _loss(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        groups: Tensor,
        new: Tensor,
        plan: View,
    ) -> Tensor:
        there = plan.group_there
        if self.compression_loss == "auto_encoding":
            rebuilt = self.decode(new).unflatten(-1, groups.shape[2:])
            error = (rebuilt - groups).square().mean((2, 3))  # (B, G)
            return (error * there).sum() / there.sum().clamp(min=1)
        # Only the compressor may learn from this loss: its readers' weights are constants here.
        attention = self.attention
        index = plan.group_source.flatten(1)[:, None, :, None]
        index = index.expand(-1, attention.n_heads, -1, attention.d_head)
        old_keys, old_values = (x.detach().gather(2, index) for x in (keys, values))
        projected = nn.functional.linear(new, attention.kv.weight.detach())
        new_keys, new_values = (attention.heads(x) for x in projected.chunk(2, -1))
        old_there = there[..., None].expand(-1, -1, self.sizes.rate).flatten(1)
        return attention_reconstruction(
            queries.detach(), old_keys, old_values, new_keys, new_values, old_there, there
        )


def skew_to_keys(attention: RelativeAttention, queries: Tensor, plan: View) -> Tensor:
    """Relative logits [B, H, T, K + T - 1] of the timeline, -inf where hidden."""
    return skew(attention.by_distance(queries)).masked_fill(plan.hidden[:, None], float("-inf"))


class CompressiveTransformer(MemoryCore):
    """A transformer with a memory of past steps and a compressed memory of older ones.

    State: "memory" [B, L, K, D] (normed layer inputs, ring by step), "compressed" [B, L, C, D] (ring by slot),
    "steps" int64 [B] (of the running episode). `cached` adds "keys_i" and "values_i" [B, H, C + K, Dh] per layer.

    Args:
        d_model, n_layers, n_heads, d_ff: the transformer; d_ff defaults to 4 d_model.
        window: steps after which the memory moves on together (n_s).
        memory: remembered steps beyond the window (n_m).
        compressed: compressed slots (n_cm).
        rate: steps in one slot (c).
        compression: "conv", "max" or "mean".
        compression_loss: "attention", "auto_encoding", or "none" (the task's gradient trains the compressor).
        gate: "residual" or "gru" (GTrXL, Parisotto et al. 2019).

    Raises:
        ValueError: for sizes that do not fit together, saying which would.
    """

    def __init__(
        self,
        d_model: int = 128,
        n_layers: int = 3,
        n_heads: int = 4,
        d_ff: int | None = None,
        window: int = 16,
        memory: int = 64,
        compressed: int = 64,
        rate: int = 4,
        compression: str = "conv",
        compression_loss: str = "attention",
        gate: str = "residual",
    ):
        super().__init__()
        if d_model % n_heads or d_model % 2:
            raise ValueError(f"d_model={d_model} must be even and a multiple of n_heads={n_heads}")
        if compression not in COMPRESSIONS:
            raise ValueError(
                f"unknown compression {compression!r}: choose one of {', '.join(sorted(COMPRESSIONS))}"
            )
        if compression_loss not in COMPRESSION_LOSSES:
            raise ValueError(
                f"unknown compression_loss {compression_loss!r}: "
                f"choose one of {', '.join(COMPRESSION_LOSSES)}"
            )
        self.d_model = self.d_out = d_model
        self.n_heads = n_heads
        self.sizes = Sizes(window, memory, compressed, rate)
        self.layers = nn.ModuleList(
            Layer(
                self.sizes,
                d_model,
                n_heads,
                d_ff or 4 * d_model,
                gate,
                compression,
                compression_loss,
            )
            for _ in range(n_layers)
        )
        self.learns_compression = bool(compressed) and compression_loss != "none"

    @property
    def context_length(self) -> int:
        """memory + rate * compressed + window: the oldest step that one layer can still reach."""
        sizes = self.sizes
        return sizes.memory + sizes.rate * sizes.compressed + sizes.window

    def compressor_parameters(self) -> list[nn.Parameter]:
        if not self.learns_compression:
            return []
        parts = [
            part
            for layer in self.layers
            for name, part in layer.named_children()
            if name in ("compress", "decode")
        ]
        return [p for part in parts for p in part.parameters()]

    def initial_state(self, batch_size: int) -> State:
        like = self.layers[0].norm.weight
        shape = (batch_size, len(self.layers))
        state = {
            "memory": like.new_zeros(*shape, self.sizes.kept, self.d_model),
            "steps": torch.zeros(batch_size, dtype=torch.long, device=like.device),
        }
        if self.sizes.compressed:
            state["compressed"] = like.new_zeros(*shape, self.sizes.compressed, self.d_model)
        return state

    def run(self, x: Tensor, state: State, resets: Tensor) -> MemoryOutput:
        if "keys_0" in state and x.shape[1] == 1 and not torch.is_grad_enabled():
            return self._act(x, state, resets)
        plan = view(self.sizes, state["steps"], resets)
        memory, compressed = state["memory"], state.get("compressed")
        kept, slots, losses = [], [], []
        for i, layer in enumerate(self.layers):
            x, next_kept, next_slots, loss = layer(
                x, memory[:, i], None if compressed is None else compressed[:, i], plan
            )
            kept.append(next_kept)
            slots.append(next_slots)
            if loss is not None:
                losses.append(loss)
        after: State = {"memory": torch.stack(kept, 1), "steps": plan.steps}
        if compressed is not None:
            after["compressed"] = torch.stack(slots, 1)
        if "keys_0" in state:
            after = self.cached(after)
        named = {"compression": torch.stack(losses).mean()} if losses else {}
        return MemoryOutput(x, after, named)

    def compact(self, state: State) -> State:
        if "keys_0" not in state:
            return dict(state)
        steps = state["steps"]
        # Acting leaves an old episode's entries where nothing newer has come yet: they are not the state's.
        there = ring_there(steps, self.sizes.kept)[:, None, :, None]
        after = {"memory": state["memory"] * there, "steps": steps.clone()}
        if "compressed" in state:
            slots = self.sizes.boundary(steps).clamp(min=0) // self.sizes.rate
            there = ring_there(slots, self.sizes.compressed)[:, None, :, None]
            after["compressed"] = state["compressed"] * there
        return after

    @torch.no_grad()
    def cached(self, state: State) -> State:
        """A copy of `state` with keys and values projected; one-step calls without gradient update it in place."""
        after = {key: x.clone() for key, x in self.compact(state).items()}
        for i, layer in enumerate(self.layers):
            past = after["memory"][:, i]
            if "compressed" in after:
                past = torch.cat([after["compressed"][:, i], past], 1)
            keys, values = layer.attention.keys_values(past)
            after[f"keys_{i}"], after[f"values_{i}"] = keys.contiguous(), values.contiguous()
        return after

    def _act(self, x: Tensor, state: State, resets: Tensor) -> MemoryOutput:
        return MemoryOutput(step(self, x, state, resets), state)


class TransformerXL(CompressiveTransformer):
    """Transformer-XL (Dai et al. 2019): the same core without compressed memory."""

    def __init__(
        self,
        d_model: int = 128,
        n_layers: int = 3,
        n_heads: int = 4,
        d_ff: int | None = None,
        window: int = 16,
        memory: int = 64,
        gate: str = "residual",
    ):
        super().__init__(
            d_model, n_layers, n_heads, d_ff, window, memory, compressed=0, rate=1, gate=gate
        )


class GTrXL(TransformerXL):
    """Gated Transformer-XL (Parisotto et al. 2019, arXiv 1910.06764): GRU gates in place of residual sums."""

    def __init__(
        self,
        d_model: int = 128,
        n_layers: int = 3,
        n_heads: int = 4,
        d_ff: int | None = None,
        window: int = 16,
        memory: int = 64,
    ):
        super().__init__(d_model, n_layers, n_heads, d_ff, window, memory, gate="gru")
