"""The Compressive Transformer (Rae et al. 2019, arXiv 1911.05507), exact for any cut, phase and reset.

Glossary: B batch (rows), T time, L layers, D width, H heads, C compressed slots, K kept steps (memory + window).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ct_rl.memory.acting import step
from ct_rl.memory.compression import COMPRESSION_LOSSES, COMPRESSIONS
from ct_rl.memory.contract import MemoryCore, MemoryOutput, State, choose
from ct_rl.memory.gating import GATES
from ct_rl.memory.geometry import Sizes, ends, view
from ct_rl.memory.layer import Layer, LayerOptions, LayerOutput, Past, in_blocks, look
from ct_rl.memory.queues import levels, ring_number
from ct_rl.memory.report import AttentionReport, place_weights

NORMS = ("pre", "post")
ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class CompressiveTransformer(MemoryCore):
    """A transformer with a memory of past steps and a compressed memory of older ones.

    State: "memory" [B, L, K, D] (inputs of the layers' attention, ring by step), "compressed" [B, L, C, D] (ring by
    slot), "steps" int64 [B] (of the running episode); with "most_used" also "usage" [B, L, K] (attention that each
    kept step has received). K is memory + window, and 7 steps more for "dilated". `cached` has slots and
    steps in one, "past" [B, L, C + K, D], and per layer "distances_i", the keys of distances, one copy for all rows.

    Args:
        d_model, n_layers, n_heads, d_ff: the transformer; d_ff defaults to 4 d_model.
        window: steps after which the memory moves on together (n_s).
        memory: remembered steps beyond the window (n_m).
        compressed: compressed slots (n_cm).
        rate: steps in one slot (c).
        compression: "conv", "dilated", "max", "mean" or "most_used" (section 3.1).
        compression_loss: "attention", "auto_encoding", or "none" (the task's gradient trains the compressor).
        gate: "residual" or "gru" (GTrXL, Parisotto et al. 2019).
        norm: "pre", on the input of each block, or "post", on its output.
        activation: of the MLP, "gelu" or "relu".
        dropout: rate on attention weights, in the MLP and on each block's output; in training mode.
        mask_empty: False lets queries see places never filled as zeros, as the authors' code does.
        overflow: "drop" the oldest slot when compressed memory is full, or "merge" the oldest c into one, a pyramid
            of rates in the same space that never forgets (ours, not the paper's).
        slot_positions: "order", the paper's: slots one apart before the memory; "time" (ours): steps since the
            newest step in the slot; "authors": as their code counts, slots just before the window.
        window_gradient: whether gradients flow through the memory from window to window inside a call (ours), or
            stop where a window ends, as in the paper.

    Raises:
        ValueError: for sizes and options that do not fit together, saying which would.
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
        norm: str = "pre",
        activation: str = "gelu",
        dropout: float = 0.0,
        mask_empty: bool = True,
        overflow: str = "drop",
        slot_positions: str = "order",
        window_gradient: bool = True,
    ):
        super().__init__()
        if n_layers < 1 or n_heads < 1:
            raise ValueError(f"n_layers={n_layers} and n_heads={n_heads} must be at least 1")
        if d_model % n_heads or d_model % 2:
            raise ValueError(f"d_model={d_model} must be even and a multiple of n_heads={n_heads}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be at least 0 and below 1")
        choose("compression", compression, COMPRESSIONS)
        choose("compression_loss", compression_loss, COMPRESSION_LOSSES)
        choose("gate", gate, GATES)
        choose("norm", norm, NORMS)
        choose("activation", activation, ACTIVATIONS)
        function = COMPRESSIONS[compression]
        if function.by_usage and (overflow == "merge" or not mask_empty):
            raise ValueError(
                f"compression={compression!r} ranks steps that exist, once: "
                "use overflow='drop' and mask_empty=True"
            )
        self.d_model = self.d_out = d_model
        self.n_heads = n_heads
        self.sizes = Sizes(
            window,
            memory,
            compressed,
            rate,
            lookback=function.lookback if compressed else 0,
            overflow=overflow,
            slot_positions=slot_positions,
            mask_empty=mask_empty,
        )
        self.options = options = LayerOptions(
            self.sizes,
            d_model,
            n_heads,
            d_ff or 4 * d_model,
            gate=gate,
            norm=norm,
            dropout=dropout,
            activation=ACTIVATIONS[activation],
            compression=compression,
            compression_loss=compression_loss,
            window_gradient=window_gradient,
        )
        self.layers = nn.ModuleList(Layer(options) for _ in range(n_layers))
        self.learns_compression = bool(compressed) and compression_loss != "none"
        self.by_usage = bool(compressed) and function.by_usage

    @property
    def context_length(self) -> int | None:
        """Steps one layer can reach, this one included: window + memory + rate * compressed, and lookback.

        "most_used" may keep the first of a block's steps, and older inputs can still tip which it keeps. A pyramid
        has no bound: None.
        """
        sizes = self.sizes
        if not sizes.compressed:
            return sizes.reach
        if sizes.overflow == "merge":
            return None
        if not self.by_usage:
            return sizes.reach + sizes.rate * sizes.compressed + sizes.lookback
        whole, rest = divmod(sizes.compressed, sizes.block)
        return sizes.reach + whole * sizes.window + (sizes.window - sizes.block + rest) * bool(rest)

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
        if self.by_usage:
            state["usage"] = like.new_zeros(*shape, self.sizes.kept)
        return state

    def run(self, x: Tensor, state: State, resets: Tensor, attention: bool) -> MemoryOutput:
        cached = self.is_cached(state)
        if cached and x.shape[1] == 1 and not torch.is_grad_enabled() and not attention:
            return MemoryOutput(step(self, x, state, resets), state)
        steps = state["steps"]
        pasts = [
            Past(*(None if name not in state else state[name][:, i] for name in _PAST))
            for i in range(len(self.layers))
        ]
        losses: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.layers]
        ys, placed = [], []
        for start, end in self._passes(steps, resets):
            plan = view(self.sizes, steps, resets[:, start:end], min(start, self.sizes.window - 1))
            y, steps = x[:, start:end], plan.steps
            blocked = not attention and in_blocks(self, plan, y)
            where = look(self.options, plan, y, self.by_usage, blocked)
            weights = []
            for i, layer in enumerate(self.layers):
                out: LayerOutput = layer(y, pasts[i], plan, where, attention)
                y, pasts[i] = out.x, out.past
                if out.loss is not None:
                    losses[i].append(out.loss)
                if attention and out.weights is not None:
                    weights.append(place_weights(self.sizes, plan, *out.weights))
            ys.append(y)
            placed.append(weights)
        after: State = {"steps": steps}
        for name, field in _PAST.items():
            if name in state:
                after[name] = torch.stack([getattr(past, field) for past in pasts], 1).detach()
        if cached:
            after = self.cached(after)
        by_layer = None
        if losses[0]:
            by_layer = torch.stack([_mean_loss(parts) for parts in losses])
        named = {} if by_layer is None else {"compression": by_layer.mean()}
        report = self._report(placed, resets.numel(), by_layer) if attention else None
        return MemoryOutput(torch.cat(ys, 1), after, named, report)

    def _passes(self, steps: Tensor, resets: Tensor) -> Iterator[tuple[int, int]]:
        """The stretches of a call that are one parallel pass: all of it, if it is short.

        "most_used" must know a window's attention before the next window sees what is kept of its block.
        """
        length = resets.shape[1]
        count = -(-length // pass_length(self.sizes))
        cuts = [length * i // count for i in range(count + 1)]
        if self.by_usage:
            new = torch.arange(length, device=resets.device)
            began = torch.where(resets, new, -1).cummax(1).values
            age = new - torch.where(began < 0, -steps[:, None], began)
            at = torch.nonzero(ends(self.sizes, age).any(0)).flatten() + 1
            cuts = sorted({*cuts, *at.tolist()})
        yield from itertools.pairwise(cuts)

    def _report(
        self, placed: list[list[tuple[Tensor, Tensor]]], count: int, loss: Tensor | None
    ) -> AttentionReport:
        slots, steps = (
            torch.stack(
                [
                    torch.stack([part[i][k] for part in placed]).sum(0)
                    for i in range(len(self.layers))
                ]
            )
            / count
            for k in (0, 1)
        )
        return AttentionReport(
            slots, steps, self.sizes.memory, None if loss is None else loss.detach()
        )

    def is_cached(self, state: State) -> bool:
        return "past" in state

    def form(self, state: State) -> State:
        form = self.initial_state(1)
        if self.is_cached(state):
            form["past"] = _past(form)
        return form

    def compact(self, state: State) -> State:
        if not self.is_cached(state):
            return dict(state)
        steps, sizes = state["steps"], self.sizes
        # Acting leaves old entries where nothing newer has come yet: they are not the state's.
        there = (ring_number(steps, sizes.kept) >= 0)[:, None]
        memory = state["past"][:, :, sizes.compressed :]
        after = {"memory": memory * there[..., None], "steps": steps.clone()}
        if "usage" in state:
            after["usage"] = state["usage"] * there
        if sizes.compressed:
            there = torch.cat(
                [
                    ring_number(made, queue.size) >= first[:, None]
                    for queue, first, made in levels(sizes.queues, sizes.made(steps))
                ],
                1,
            )
            slots = state["past"][:, :, : sizes.compressed]
            after["compressed"] = slots * there[:, None, :, None]
        return after

    @torch.no_grad()
    def cached(self, state: State) -> State:
        """A copy of `state` in the form for acting; one-step calls without gradient update it in place."""
        state = self.compact(state)
        after = {"past": _past(state), "steps": state["steps"].clone()}
        if "usage" in state:
            after["usage"] = state["usage"].clone()
        return after | self._distances(len(after["steps"]))

    @torch.no_grad()
    def refresh(self, state: State) -> State:
        # What is remembered is the layers' inputs: of a state in the form for acting only these are of the weights.
        if not self.is_cached(state):
            return self.cached(state)
        return state | self._distances(len(state["steps"]))

    def _distances(self, rows: int) -> State:
        return {
            f"distances_{i}": layer.attention.both_distance_keys().expand(rows, -1, -1, -1)
            for i, layer in enumerate(self.layers)
        }


def _past(state: State) -> Tensor:
    """Slots and steps in one, [B, L, C + K, D], removed from `state`."""
    parts = [state.pop(name) for name in ("compressed", "memory") if name in state]
    return torch.cat(parts, 2)


def pass_length(sizes: Sizes) -> int:
    """Steps in one pass at most: a longer one does more masked work than two, and its space grows with the square."""
    return max(64, sizes.kept)


_PAST = {"memory": "kept", "compressed": "slots", "usage": "usage"}


def _mean_loss(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """One mean of the passes' sums; 0 where nothing was compressed."""
    sums, counts = zip(*parts, strict=True)
    return torch.stack(sums).sum() / torch.stack(counts).sum().clamp(min=1)


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
        norm: str = "pre",
        activation: str = "gelu",
        dropout: float = 0.0,
        mask_empty: bool = True,
        window_gradient: bool = True,
    ):
        super().__init__(
            d_model,
            n_layers,
            n_heads,
            d_ff,
            window,
            memory,
            compressed=0,
            rate=1,
            gate=gate,
            norm=norm,
            activation=activation,
            dropout=dropout,
            mask_empty=mask_empty,
            window_gradient=window_gradient,
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
        dropout: float = 0.0,
        window_gradient: bool = True,
    ):
        super().__init__(
            d_model,
            n_layers,
            n_heads,
            d_ff,
            window,
            memory,
            gate="gru",
            dropout=dropout,
            window_gradient=window_gradient,
        )
