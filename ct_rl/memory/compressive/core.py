"""The Compressive Transformer (Rae et al. 2019, arXiv 1911.05507), exact for any cut, phase and reset.

Glossary: B batch (rows), T time, L layers, D width, H heads, C compressed slots, K kept steps (memory + window).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ct_rl.memory.compressive.acting import step
from ct_rl.memory.compressive.compression import COMPRESSIONS
from ct_rl.memory.compressive.layer import Layer, LayerOptions, LayerOutput, Past
from ct_rl.memory.compressive.options import CompressiveOptions
from ct_rl.memory.compressive.plan import Plan, Sizes, ends, plan_pass
from ct_rl.memory.compressive.report import place_weights, watched_step
from ct_rl.memory.compressive.visible import (
    Visible,
    VisibleInBlocks,
    visible,
    visible_in_blocks,
)
from ct_rl.memory.contract import MemoryCore, MemoryOutput, State, beyond
from ct_rl.memory.options import check_options
from ct_rl.memory.report import AttentionReport, StepAttention

_OPTIONS = {field.name for field in dataclasses.fields(CompressiveOptions)}


class CompressiveTransformer(MemoryCore):
    """A transformer with a memory of past steps and a compressed memory of older ones.

    State: "past" [B, L, C + K, D], compressed slots (ring by slot) and then the inputs of the layers' attention (ring
    by step); "steps" int64 [B], of the running episode; with "most_used" also "usage" [B, L, K], attention that each
    kept step has received. K is memory + window, and 7 steps more for "dilated".

    Args: those of `CompressiveOptions`, which has them with types, bounds and defaults.

    Raises:
        ValueError: for sizes and options that do not fit together, saying which would.
    """

    small: ClassVar[dict[str, Any]] = {
        "n_layers": 2,
        "n_heads": 2,
        "window": 4,
        "memory": 6,
        "compressed": 4,
        "rate": 2,
    }

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
        gated_reads: bool = False,
        near_first: bool = False,
    ):
        given = {key: value for key, value in locals().items() if key in _OPTIONS}
        super().__init__()
        check_options(type(self).__name__, CompressiveOptions, given)
        if d_model % n_heads or d_model % 2:
            raise ValueError(f"d_model={d_model} must be even and a multiple of n_heads={n_heads}")
        if compression not in COMPRESSIONS:
            known = ", ".join(sorted(COMPRESSIONS))
            raise ValueError(f"unknown compression {compression!r}: choose one of {known}")
        function = COMPRESSIONS[compression]
        if function.by_usage and (overflow == "merge" or not mask_empty):
            raise ValueError(
                f"compression={compression!r} ranks steps that exist, once: "
                "use overflow='drop' and mask_empty=True"
            )
        if near_first and n_heads == 1:
            raise ValueError(
                f"near_first=True needs n_heads of 2 or more, got {n_heads}: "
                "one head looks everywhere alike, the others near first"
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
            d_ff,
            gate=gate,
            norm=norm,
            dropout=dropout,
            activation=activation,
            compression=compression,
            compression_loss=compression_loss,
            window_gradient=window_gradient,
            gated_reads=gated_reads,
            near_first=near_first,
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

    @property
    def stack(self) -> list[Layer]:
        """The layers, first to last."""
        return [cast(Layer, layer) for layer in self.layers]

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
        sizes = self.sizes
        shape = (batch_size, len(self.layers))
        state = {
            "past": self.like.new_zeros(*shape, sizes.compressed + sizes.kept, self.d_model),
            "steps": torch.zeros(batch_size, dtype=torch.long, device=self.like.device),
        }
        if self.by_usage:
            state["usage"] = self.like.new_zeros(*shape, sizes.kept)
        return state

    def run_step(self, x: Tensor, state: State, resets: Tensor) -> Tensor:
        return step(self.stack, self.sizes, x, state, resets)

    def pure_step(self, x: Tensor, state: State, resets: Tensor) -> tuple[Tensor, State]:
        out = self.run(x[:, None], state, resets[:, None], False)
        return out.y[:, 0], out.state

    def run_watched_step(
        self, x: Tensor, state: State, resets: Tensor, masked: Tensor | None
    ) -> tuple[Tensor, StepAttention]:
        return watched_step(self.stack, self.sizes, x, state, resets, masked)

    def run(self, x: Tensor, state: State, resets: Tensor, attention: bool) -> MemoryOutput:
        steps, pasts = state["steps"], self._pasts(state)
        losses: list[list[tuple[Tensor, Tensor]]] = [[] for _ in pasts]
        ys, placed = [], []
        for start, end in self._passes(steps, resets):
            plan = plan_pass(
                self.sizes, steps, resets[:, start:end], min(start, self.sizes.window - 1)
            )
            y, steps = x[:, start:end], plan.steps
            seen = self._visible(plan, y, blocked=not attention and self._in_blocks(plan, y))
            weights = []
            for i, layer in enumerate(self.layers):
                out: LayerOutput = layer(y, pasts[i], plan, seen, attention)
                y, pasts[i] = out.x, out.past
                if out.loss is not None:
                    losses[i].append(out.loss)
                if attention and out.weights is not None:
                    weights.append(place_weights(self.sizes, plan, *out.weights))
            ys.append(y)
            placed.append(weights)
        by_layer, named, counts = None, {}, {}
        if losses[0]:
            by_layer, count = _mean_losses(losses)
            named, counts = {"compression": by_layer.mean()}, {"compression": count}
        report = self._report(placed, resets.numel(), by_layer) if attention else None
        return MemoryOutput(torch.cat(ys, 1), self._state(steps, pasts), named, report, counts)

    def run_filled(self, x: Tensor, state: State, lengths: Tensor) -> MemoryOutput:
        # An episode of one step ends no window of two: nothing of what fills a row up is compressed.
        if self.sizes.window == 1:
            return super().run_filled(x, state, lengths)
        return self.run(x, state, beyond(lengths, x.shape[1]), False)

    def _pasts(self, state: State) -> list[Past]:
        """A state layer by layer."""
        slots, kept = state["past"].split([self.sizes.compressed, self.sizes.kept], 2)
        return [
            Past(
                kept[:, i],
                slots[:, i] if self.sizes.compressed else None,
                state["usage"][:, i] if self.by_usage else None,
            )
            for i in range(len(self.layers))
        ]

    def _state(self, steps: Tensor, pasts: list[Past]) -> State:
        """The layers' pasts as a state."""
        parts = [
            past.kept if past.slots is None else torch.cat([past.slots, past.kept], 1)
            for past in pasts
        ]
        state = {"past": torch.stack(parts, 1).detach(), "steps": steps}
        if self.by_usage:
            usage = [past.usage for past in pasts if past.usage is not None]
            state["usage"] = torch.stack(usage, 1).detach()
        return state

    def _visible(self, plan: Plan, x: Tensor, blocked: bool) -> Visible | VisibleInBlocks:
        """What a pass over x [B, T, D] may see, for one of the two ways."""
        if blocked:
            return visible_in_blocks(self.sizes, plan, x)
        gradient = self.options.window_gradient
        return visible(self.sizes, plan, x, by_usage=self.by_usage, window_gradient=gradient)

    def _in_blocks(self, plan: Plan, x: Tensor) -> bool:
        """Whether the way that a CPU's cache likes computes all that a pass needs."""
        plain = self.options.window_gradient and not self.by_usage and plan.absent is None
        dropping = self.training and self.options.dropout > 0
        eager = not (torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"))
        return plain and not dropping and eager and x.device.type == "cpu"

    def _passes(self, steps: Tensor, resets: Tensor) -> Iterator[tuple[int, int]]:
        """The stretches of a call that are one parallel pass: all of it, if it is short.

        "most_used" must know a window's attention before the next window sees what is kept of its block.
        """
        length = resets.shape[1]
        count = -(-length // pass_length(self.sizes))
        cuts = [length * i // count for i in range(count + 1)]
        if self.by_usage and length > 1:
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


def pass_length(sizes: Sizes) -> int:
    """Steps in one pass at most: a longer one does more masked work than two, and its space grows with the square."""
    return max(64, sizes.kept)


def _mean_losses(losses: list[list[tuple[Tensor, Tensor]]]) -> tuple[Tensor, Tensor]:
    """Each layer's mean of its passes' sums [L], 0 where nothing was compressed, and the number of its terms.

    What is compressed is the same in all layers: they have as many terms.
    """
    sums = torch.stack([torch.stack([total for total, _ in parts]).sum() for parts in losses])
    count = torch.stack([terms for _, terms in losses[0]]).sum()
    return sums / count.clamp(min=1), count


class TransformerXL(CompressiveTransformer):
    """Transformer-XL (Dai et al. 2019): the same core without compressed memory."""

    small: ClassVar[dict[str, Any]] = {"n_layers": 2, "n_heads": 2, "window": 4, "memory": 6}

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
        gated_reads: bool = False,
        near_first: bool = False,
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
            gated_reads=gated_reads,
            near_first=near_first,
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
