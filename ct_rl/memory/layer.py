"""One layer of a compressive transformer over T steps, in one pass.

Glossary: B batch (rows), T time, D width, H heads, K kept steps, R steps that a query can see (window + memory),
C compressed slots, N blocks that leave the memory in the call, W window, c rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ct_rl.memory.attention import RelativeAttention, skew
from ct_rl.memory.compression import COMPRESSIONS, attention_reconstruction
from ct_rl.memory.gating import build_gate
from ct_rl.memory.geometry import Sizes, View


def take(x: Tensor, index: Tensor) -> Tensor:
    """Items by index: x [B, N, ...], index [B, M] -> [B, M, ...]."""
    wide = index.reshape(*index.shape, *[1] * (x.dim() - 2))
    return torch.gather(x, 1, wide.expand(*index.shape, *x.shape[2:]))


@dataclass(frozen=True)
class LayerOptions:
    """What a layer is made of; see `CompressiveTransformer`."""

    sizes: Sizes
    d_model: int
    n_heads: int
    d_ff: int
    gate: str = "residual"
    norm: str = "pre"
    dropout: float = 0.0
    activation: type[nn.Module] = nn.GELU
    compression: str = "conv"
    compression_loss: str = "attention"
    window_gradient: bool = True


@dataclass
class Past:
    """What a layer carries, in rings.

    Attributes:
        kept: [B, K, D], the inputs of its attention, of the steps before.
        slots: [B, C, D], compressed memory; None without.
        usage: [B, K], attention that each kept step has received; None unless slots are chosen by it.
        queries: [B, H, W - 1, Dh] or fewer, of the steps before that belong to the same call; None for none.
    """

    kept: Tensor
    slots: Tensor | None = None
    usage: Tensor | None = None
    queries: Tensor | None = None


@dataclass
class Columns:
    """The keys of a pass, part by part: slots, steps, and the zero that stands for empty places."""

    keys: list[Tensor] = field(default_factory=list)  # (B, H, n, Dh) each
    values: list[Tensor] = field(default_factory=list)
    bias: list[Tensor] = field(default_factory=list)  # (B, H, T, n) each

    def add(self, keys: Tensor, values: Tensor, bias: Tensor) -> None:
        self.keys.append(keys)
        self.values.append(values)
        self.bias.append(bias)

    def joined(self) -> tuple[Tensor, Tensor, Tensor]:
        return torch.cat(self.keys, 2), torch.cat(self.values, 2), torch.cat(self.bias, 3)


@dataclass
class LayerOutput:
    """What a pass of a layer gives.

    Attributes:
        x: [B, T, D].
        past: what the next call needs.
        loss: the compression loss's sum and the number of terms in it; None where there is none.
        weights: attention [B, H, T, S] on all slots, old and new (S of them), and on steps [B, H, T, R + T - 1];
            None unless asked for.
    """

    x: Tensor
    past: Past
    loss: tuple[Tensor, Tensor] | None = None
    weights: tuple[Tensor, Tensor] | None = None


class Layer(nn.Module):
    """Relative attention over [compressed | memory | window], then an MLP, each behind a gate and a norm."""

    def __init__(self, options: LayerOptions):
        super().__init__()
        self.options = options
        self.sizes = sizes = options.sizes
        width = options.d_model
        self.norm, self.norm_ff = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = RelativeAttention(
            width, options.n_heads, sizes.reach, sizes.slot_reach, options.dropout
        )
        self.ff = nn.Sequential(
            nn.Linear(width, options.d_ff),
            options.activation(),
            nn.Dropout(options.dropout),
            nn.Linear(options.d_ff, width),
        )
        self.drop = nn.Dropout(options.dropout)
        self.gate, self.gate_ff = build_gate(options.gate, width), build_gate(options.gate, width)
        self.by_usage = False
        if sizes.compressed:
            self.compress = COMPRESSIONS[options.compression](width, sizes.rate)
            self.by_usage = self.compress.by_usage
            if options.compression_loss == "auto_encoding":
                self.decode = nn.Linear(width, sizes.rate * width, bias=False)
        # Blocks start as the identity, so that an agent can act before its memory has learned.
        for last in (self.attention.out, self.ff[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def attended(self, x: Tensor) -> Tensor:
        """The attention's input, which is also what memory keeps."""
        return self.norm(x) if self.options.norm == "pre" else x

    def after(self, x: Tensor, read: Tensor) -> Tensor:
        """The layer's output, from its input and what attention has read."""
        x = self.gate(x, self.drop(read))
        if self.options.norm == "pre":
            return self.gate_ff(x, self.drop(self.ff(self.norm_ff(x))))
        x = self.norm(x)
        return self.norm_ff(self.gate_ff(x, self.drop(self.ff(x))))

    def forward(self, x: Tensor, past: Past, plan: View, report: bool = False) -> LayerOutput:
        """One pass over x [B, T, D]; `plan` says what each step may see."""
        attention, sizes = self.attention, self.sizes
        u = self.attended(x)
        timeline = torch.cat([take(past.kept, plan.gather_kept), u], 1)  # (B, K + T, D)
        queries = attention.queries(u)
        stored = timeline if self.options.window_gradient else timeline.detach()
        keys, values = attention.keys_values(stored)  # (B, H, K + T, Dh)
        by_slot = attention.slot_by_distance(queries) if sizes.compressed else None
        by_step = attention.by_distance(queries)

        columns, made = Columns(), None
        if past.slots is not None and by_slot is not None:
            if not self.by_usage:
                made = self.make_slots(self._leaving(timeline, plan), None, past.slots, plan)
            self._add_slots(columns, past.slots, made, by_slot, plan)
        self._add_steps(columns, timeline, keys, values, by_step, plan)
        if plan.absent is not None:
            empty = attention.absent_logit(by_step, by_slot, plan.absent)
            nothing = torch.zeros_like(keys[:, :, :1])
            columns.add(nothing, nothing, empty)
        every = columns.joined()
        read = attention.read(queries, *every)
        weights = None
        if report or self.by_usage:
            weights = self._weights(queries, *every, columns)
        usage = None
        if past.usage is not None and weights is not None and past.slots is not None:
            usage = F.pad(take(past.usage, plan.gather_kept), (0, x.shape[1]))
            usage[:, -weights[1].shape[3] :] += weights[1].mean(1).sum(1)
            made = self.make_slots(self._leaving(timeline, plan), usage, past.slots, plan)
        loss, after = None, self._next(timeline, past, made, usage, plan)
        if self.training and made is not None and self.options.compression_loss != "none":
            asking = queries.detach()
            if past.queries is not None:
                asking = torch.cat([past.queries, asking], 2)
            after.queries = asking[:, :, max(asking.shape[2] - sizes.window + 1, 0) :]
            loss = self._loss(asking, timeline, made, past.slots, plan)
        return LayerOutput(self.after(x, read), after, loss, weights)

    def _leaving(self, timeline: Tensor, plan: View) -> Tensor:
        """The steps that leave the memory [B, N, lookback + W, D], zeros where there is none."""
        assert plan.blocks is not None
        where = plan.blocks.steps
        steps = take(timeline, where.flatten(1)).unflatten(1, where.shape[1:])
        if self.options.compression_loss != "none" or not self.options.window_gradient:
            steps = steps.detach()  # the compressor's loss trains nothing before it
        return steps * plan.blocks.there[..., None]

    def make_slots(
        self, leaving: Tensor, usage: Tensor | None, slots: Tensor, plan: View
    ) -> list[Tensor]:
        """The new slots [B, G, D] of each queue.

        Args:
            leaving: [B, N, lookback + W, D]; usage: [B, K + T], of the timeline.
            slots: [B, C, D], the rings of all queues.
        """
        assert plan.blocks is not None
        if usage is not None:
            where = plan.blocks.steps[..., self.compress.lookback :]
            usage = usage.gather(1, where.flatten(1)).view_as(where)
            usage = usage.masked_fill(~plan.blocks.there, -torch.inf)
        made = [self.compress(leaving, usage).flatten(1, 2)]
        rings = slots.split([q.size for q in self.sizes.queues], 1)
        for queue, ring, below, view in zip(
            self.sizes.queues[1:], rings[1:], rings, plan.queues[1:], strict=False
        ):
            assert view.source is not None
            pool = torch.cat([below, self._apart(made[-1]), *([ring] if queue.running else [])], 1)
            if not queue.running:
                made.append(self._merge(take(pool, view.source.flatten(1)), view.source.shape))
                continue
            folds = []
            for source in view.source.unbind(1):  # each is made of the one before
                folds.append(self._merge(take(pool, source), (len(source), 1, source.shape[1])))
                pool = torch.cat([pool, self._apart(folds[-1])], 1)
            made.append(torch.cat(folds, 1))
        return made

    def _merge(self, parts: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Slots [B, G, D] of the slots that they are made of."""
        grouped = parts.unflatten(1, shape[1:])  # (B, G, c, D)
        return self.compress(F.pad(grouped, (0, 0, self.compress.lookback, 0))).squeeze(2)

    def _apart(self, made: Tensor) -> Tensor:
        """New slots as everything but their own loss sees them: the task trains the compressor only without one."""
        return made if self.options.compression_loss == "none" else made.detach()

    def _slot_pool(self, slots: Tensor, made: list[Tensor] | None) -> Tensor:
        """All slots, queue by queue, ring first."""
        rings = slots.split([q.size for q in self.sizes.queues], 1)
        if made is None:
            return torch.cat(rings, 1)
        return torch.cat([x for pair in zip(rings, made, strict=True) for x in pair], 1)

    def _add_slots(
        self,
        columns: Columns,
        slots: Tensor,
        made: list[Tensor] | None,
        by_slot: Tensor,
        plan: View,
    ) -> None:
        if made is not None:
            made = [self._apart(new) for new in made]
        every = self._slot_pool(slots, made)
        sizes = [q.size if made is None else None for q in self.sizes.queues]
        hidden = torch.cat([q.hidden[..., :n] for q, n in zip(plan.queues, sizes, strict=True)], 2)
        far = torch.cat([q.distance[..., :n] for q, n in zip(plan.queues, sizes, strict=True)], 2)
        index = far[:, None].expand(-1, by_slot.shape[1], -1, -1)
        bias = by_slot.gather(3, index).masked_fill(hidden[:, None], -torch.inf)
        columns.add(*self.attention.keys_values(every), bias)

    def _add_steps(
        self,
        columns: Columns,
        timeline: Tensor,
        keys: Tensor,
        values: Tensor,
        by_step: Tensor,
        plan: View,
    ) -> None:
        reach, window = self.sizes.reach, self.sizes.window
        seen = reach + by_step.shape[2] - 1
        bias, hidden = skew(by_step), plan.hidden
        steps = (keys[:, :, -seen:], values[:, :, -seen:])
        if self.options.window_gradient:
            columns.add(*steps, bias.masked_fill(hidden[:, None], -torch.inf))
            return
        # The same steps twice: constants for later windows, differentiable for their own.
        back = torch.arange(by_step.shape[2], device=bias.device)[:, None] + (reach - 1)
        back = back - torch.arange(seen, device=bias.device)  # (T, R + T - 1): steps ago
        own = back <= (plan.age % window)[..., None]
        columns.add(*steps, bias.masked_fill((hidden | own)[:, None], -torch.inf))
        live = bias.masked_fill((hidden | ~own)[:, None], -torch.inf)[..., reach - window :]
        columns.add(*self.attention.keys_values(timeline[:, -live.shape[3] :]), live)

    @torch.no_grad()
    def _weights(
        self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, columns: Columns
    ) -> tuple[Tensor, Tensor]:
        weights = self.attention.weights(queries, keys, bias)
        parts = list(weights.split([part.shape[2] for part in columns.keys], 3))
        slots = parts.pop(0) if self.sizes.compressed else weights[..., :0]
        steps = parts[0]
        if not self.options.window_gradient:
            steps[..., -parts[1].shape[3] :] += parts[1]
        return slots, steps

    def _loss(
        self,
        queries: Tensor,
        timeline: Tensor,
        made: list[Tensor],
        slots: Tensor | None,
        plan: View,
    ) -> tuple[Tensor, Tensor]:
        """Sum and number of terms: blocks and queries for attention, slots for auto-encoding."""
        assert plan.blocks is not None and slots is not None
        masked = self.sizes.mask_empty
        rings = slots.split([q.size for q in self.sizes.queues], 1)
        leaving = self._leaving(timeline, plan)[:, :, self.compress.lookback :].detach()
        blocks, n = leaving.shape[1], self.sizes.block
        total = count = timeline.new_zeros(())
        for level, (new, view) in enumerate(zip(made, plan.queues, strict=True)):
            there = view.new.there
            if level == 0:
                old = leaving  # (B, N, W, D)
                old_there = plan.blocks.there[..., self.compress.lookback :]
                shape, block = (blocks, n), None
            else:
                assert view.source is not None
                pool = [rings[level - 1], made[level - 1]]
                pool += [rings[level], new] if self.sizes.queues[level].running else []
                old = take(torch.cat(pool, 1), view.source.flatten(1)).detach()
                old = old.unflatten(1, view.source.shape[1:])  # (B, G, c, D)
                old_there = there[..., None].expand(view.source.shape)
                shape, block = (new.shape[1], 1), view.new.block
            if self.options.compression_loss == "auto_encoding":
                rebuilt = self.decode(new).unflatten(-1, (self.sizes.rate, -1))
                error = (rebuilt - old.reshape_as(rebuilt)).square().mean((2, 3))  # (B, G)
                weight = there
                if not masked:  # what ends a window counts, also where its block is nothing
                    weight = plan.blocks.asked[..., -1].repeat_interleave(n, 1)
            else:
                asked = plan.blocks.asked
                error = self._reconstruction(
                    queries, old, new.unflatten(1, shape), old_there, there, block, plan
                )
                if block is not None:
                    asked = take(asked, block)
                weight = asked & there.unflatten(1, shape).any(2)[..., None] if masked else asked
            total = total + torch.where(weight, error, 0).sum()
            count = count + weight.sum()
        return total, count

    def _reconstruction(
        self,
        queries: Tensor,
        old: Tensor,
        new: Tensor,
        old_there: Tensor,
        new_there: Tensor,
        block: Tensor | None,
        plan: View,
    ) -> Tensor:
        """The attention reconstruction's errors [B, N, W] (or [B, G, W] of merges made with `block`)."""
        assert plan.blocks is not None
        attention = self.attention
        asking = plan.blocks.queries if block is None else take(plan.blocks.queries, block)
        q = take(queries.transpose(1, 2).flatten(2), asking.flatten(1))
        q = q.unflatten(1, asking.shape[1:]).unflatten(-1, (attention.n_heads, -1))
        weight = attention.kv.weight.detach()  # only the compressor may learn from this loss

        def project(x: Tensor) -> tuple[Tensor, Tensor]:
            keys, values = (
                F.linear(x, weight)
                .unflatten(-1, (2 * attention.n_heads, -1))
                .movedim(-2, 1)
                .chunk(2, 1)
            )
            return keys, values

        masks = (old_there, new_there.unflatten(1, new.shape[1:3])) if self.sizes.mask_empty else ()
        return attention_reconstruction(q.movedim(-2, 1), project(old), project(new), *masks)

    def _next(
        self,
        timeline: Tensor,
        past: Past,
        made: list[Tensor] | None,
        usage: Tensor | None,
        plan: View,
    ) -> Past:
        kept = take(timeline, plan.next_source) * plan.next_there[..., None]
        after = Past(kept)
        if usage is not None:
            after.usage = take(usage, plan.next_source) * plan.next_there
        if made is not None and past.slots is not None:
            made = [self._apart(new) for new in made]
            rings = past.slots.split([q.size for q in self.sizes.queues], 1)
            after.slots = torch.cat(
                [
                    take(torch.cat([ring, new], 1), view.next_source) * view.next_there[..., None]
                    for ring, new, view in zip(rings, made, plan.queues, strict=True)
                ],
                1,
            )
        return after
