"""One layer of a compressive transformer over T steps, in one pass.

Glossary: B batch (rows), T time, D width, H heads, K kept steps, R steps that a query can see (window + memory),
C compressed slots, N blocks that leave the memory in the call, W window, c rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ct_rl.memory.activations import ACTIVATIONS, widths
from ct_rl.memory.compressive.attention import RelativeAttention, skew
from ct_rl.memory.compressive.compression import COMPRESSIONS
from ct_rl.memory.compressive.gather import take
from ct_rl.memory.compressive.gating import build_gate
from ct_rl.memory.compressive.kernels.blocked import project
from ct_rl.memory.compressive.losses import blocked_terms, compression_terms
from ct_rl.memory.compressive.plan import Plan, Sizes
from ct_rl.memory.compressive.visible import Visible, VisibleInBlocks


@dataclass(frozen=True)
class LayerOptions:
    """What a layer is made of; see `CompressiveTransformer`."""

    sizes: Sizes
    d_model: int
    n_heads: int
    d_ff: int | None
    gate: str = "residual"
    norm: str = "pre"
    dropout: float = 0.0
    activation: str = "gelu"
    compression: str = "conv"
    compression_loss: str = "attention"
    window_gradient: bool = True
    gated_reads: bool = False
    near_first: bool = False


@dataclass
class Past:
    """What a layer carries, in rings.

    Attributes:
        kept: [B, K, D], the inputs of its attention, of the steps before.
        slots: [B, C, D], compressed memory; None without.
        usage: [B, K], attention that each kept step has received; None unless slots are chosen by it.
        queries: [B, W - 1, D] or fewer, of the steps before that belong to the same call; None for none.
    """

    kept: Tensor
    slots: Tensor | None = None
    usage: Tensor | None = None
    queries: Tensor | None = None


@dataclass
class LayerOutput:
    """What a pass of a layer gives.

    Attributes:
        x: [B, T, D].
        past: what the next call needs.
        loss: the compression loss's sum and the number of terms in it; None where there is none.
        weights: attention on the rings' slots and the new ones [B, H, T, S], and on steps [B, H, T, R + T]; None
            unless asked for.
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
        self.compression_loss = options.compression_loss
        self.sizes = sizes = options.sizes
        width = options.d_model
        self.norm, self.norm_ff = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = RelativeAttention(
            width,
            options.n_heads,
            sizes.reach,
            sizes.slot_distances,
            options.dropout,
            options.gated_reads,
        )
        if options.near_first:
            self.attention.look_near_first()
        first, d_ff = widths(width, options.d_ff, options.activation)
        last_ff = nn.Linear(d_ff, width)
        self.ff = nn.Sequential(
            nn.Linear(width, first),
            ACTIVATIONS[options.activation](),
            nn.Dropout(options.dropout),
            last_ff,
        )
        self.drop = nn.Dropout(options.dropout)
        self.gate, self.gate_ff = build_gate(options.gate, width), build_gate(options.gate, width)
        self.by_usage = False
        if sizes.compressed:
            self.compress = COMPRESSIONS[options.compression](width, sizes.rate)
            self.by_usage = self.compress.by_usage
            if options.compression_loss == "auto_encoding":
                self.decode = nn.Linear(width, sizes.rate * width, bias=False)
        # Blocks start as the identity, so that an agent can act before its memory has learned. GRU gates are near
        # it by themselves, and would pass no gradient through the ReLU of a zero.
        for last in (self.attention.out, last_ff) if options.gate == "residual" else ():
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def attended(self, x: Tensor) -> Tensor:
        """The attention's input, which is also what memory keeps."""
        return self.norm(x) if self.options.norm == "pre" else x

    def after(self, x: Tensor, u: Tensor, read: Tensor) -> Tensor:
        """The layer's output, from its input, the attention's, and what the heads have read."""
        x = self.gate(x, self.drop(self.attention.output(read, u)))
        if self.options.norm == "pre":
            return self.gate_ff(x, self.drop(self.ff(self.norm_ff(x))))
        x = self.norm(x)
        return self.norm_ff(self.gate_ff(x, self.drop(self.ff(x))))

    def forward(
        self,
        x: Tensor,
        past: Past,
        plan: Plan,
        seen: Visible | VisibleInBlocks,
        report: bool = False,
    ) -> LayerOutput:
        """One pass over x [B, T, D]; `plan` and `seen` say what each step may see."""
        attention, sizes = self.attention, self.sizes
        u = self.attended(x)
        kept = take(past.kept, plan.gather_kept)
        timeline = torch.cat([kept, u], 1)  # (B, K + T, D)
        made = None
        if past.slots is not None and not self.by_usage:
            made = self._make_slots(timeline, None, past.slots, plan)
        queries = attention.queries(u)
        parts = None
        if isinstance(seen, VisibleInBlocks):
            keys_values = self._joined(kept, u, past.slots, made, seen.first)
            read = attention.read_blocked(queries, keys_values, seen.hidden, seen.slots)
        else:
            keys_values = self._keys_values(kept, u, past.slots, made, seen)
            asking = attention.heads(queries)
            keys, values = keys_values
            read, weights = attention.read(
                asking,
                keys,
                values,
                self._bias(asking, plan, seen),
                seen.hidden,
                report or self.by_usage,
            )
            parts = None if weights is None else self._parts(weights.detach(), seen)
        usage = None
        if past.usage is not None and past.slots is not None and parts is not None:
            usage = F.pad(take(past.usage, plan.gather_kept), (0, x.shape[1]))
            usage[:, -parts[1].shape[3] :] += parts[1].mean(1).sum(1)
            made = self._make_slots(timeline, usage, past.slots, plan)
        loss, after = None, self._next(timeline, past, made, usage, plan)
        if (
            self.training
            and made is not None
            and past.slots is not None
            and self.compression_loss != "none"
        ):
            asking = queries.detach()
            if past.queries is not None:
                asking = torch.cat([past.queries, asking], 1)
            after.queries = asking[:, max(asking.shape[1] - sizes.window + 1, 0) :]
            loss = self._loss(asking, timeline, keys_values.detach(), made, past.slots, plan, seen)
        return LayerOutput(self.after(x, u, read), after, loss, parts)

    def _loss(
        self,
        queries: Tensor,
        timeline: Tensor,
        keys_values: Tensor,
        made: list[Tensor],
        slots: Tensor,
        plan: Plan,
        seen: Visible | VisibleInBlocks,
    ) -> tuple[Tensor, Tensor]:
        """The compression loss's sum and the number of its terms."""
        first = self.sizes.kept - self.sizes.reach  # where the steps' keys begin
        if isinstance(seen, VisibleInBlocks):
            first += seen.first
            if self.compression_loss == "attention" and len(made) == 1:
                return blocked_terms(self, queries, keys_values, made[0], plan, first)
            keys_values = self.attention.apart(keys_values)
        else:
            keys_values = keys_values[:, :, :, seen.slot_count :]
        queries = self.attention.heads(queries)
        return compression_terms(self, queries, timeline, keys_values, made, slots, plan, first)

    def _joined(
        self, kept: Tensor, u: Tensor, slots: Tensor | None, made: list[Tensor] | None, first: int
    ) -> Tensor:
        """Keys and values [B, n, 2 D] in blocks, those of all new slots last."""
        after = u[:, :0]
        if slots is not None:
            after = torch.cat([slots, *(self._apart(new) for new in made or ())], 1)
        before = kept[:, kept.shape[1] - self.sizes.reach + first :]
        return project(before, u, after, self.attention.kv.weight)

    def _keys_values(
        self,
        kept: Tensor,
        u: Tensor,
        slots: Tensor | None,
        made: list[Tensor] | None,
        seen: Visible,
    ) -> Tensor:
        """Keys and values [2, B, H, n, Dh], in the order of `Visible`."""
        past = [kept[:, -self.sizes.reach :]]
        now = [u]
        if seen.live:
            past = [past[0].detach(), u.detach()]
            now.insert(0, kept[:, kept.shape[1] + u.shape[1] - seen.live :])
        if slots is not None:
            past = [slots, *(self._apart(new) for new in made or ()), *past]
        # The past is projected apart from what is new: in the first pass it needs no gradient.
        parts = [self.attention.keys_values(torch.cat(part, 1)) for part in (past, now)]
        if not self.sizes.mask_empty:
            parts.append(torch.zeros_like(parts[0][:, :, :, :1]))
        return torch.cat(parts, 3)

    def _bias(self, queries: Tensor, plan: Plan, seen: Visible) -> Tensor:
        """Relative logits [B, H, T, n], in the order of `Visible`."""
        attention = self.attention
        by_step, by_slot = attention.by_distance(queries), None
        steps = skew(by_step)
        parts = [steps]
        if seen.live:
            parts.append(steps[..., -seen.live :])
        if seen.slots is not None:
            by_slot = attention.slot_by_distance(queries)
            slots = by_slot.gather(3, seen.slots.expand(-1, attention.n_heads, -1, -1))
            parts.insert(0, slots)
        if plan.absent is not None:
            parts.append(attention.absent_logit(by_step, by_slot, plan.absent))
        return torch.cat(parts, 3)

    def _parts(self, weights: Tensor, seen: Visible) -> tuple[Tensor, Tensor]:
        """Attention weights [B, H, T, n] on slots and on steps."""
        end = seen.slot_count + self.sizes.reach + weights.shape[2]
        steps = weights[..., seen.slot_count : end].clone()
        if seen.live:
            steps[..., -seen.live :] += weights[..., end : end + seen.live]
        return weights[..., : seen.slot_count], steps

    def _make_slots(
        self, timeline: Tensor, usage: Tensor | None, slots: Tensor, plan: Plan
    ) -> list[Tensor]:
        """`make_slots` of the timeline [B, K + T, D]; `usage`: [B, K + T]."""
        assert plan.blocks is not None
        where, there = plan.blocks.steps, plan.blocks.there
        steps = take(timeline, where.flatten(1)).unflatten(1, where.shape[1:])
        if self.compression_loss != "none" or not self.options.window_gradient:
            steps = steps.detach()  # the compressor's loss trains nothing before it
        if usage is not None:
            usage = usage.gather(1, where.flatten(1)).view_as(where)
        sources = [queue.source for queue in plan.queues if queue.source is not None]
        return self.make_slots(steps, there, usage, slots, sources)

    def make_slots(
        self,
        leaving: Tensor,
        there: Tensor,
        usage: Tensor | None,
        slots: Tensor,
        sources: list[Tensor],
    ) -> list[Tensor]:
        """The new slots [B, G, D] of each queue.

        Args:
            leaving: [B, N, lookback + W, D], the steps that leave the memory; there: bool, which of them exist.
            usage: [B, N, lookback + W], where slots are chosen by it.
            slots: [B, C, D], the rings of all queues.
            sources: of each queue but the first, see `QueuePlan`.
        """
        leaving = leaving * there[..., None]
        if usage is not None:
            usage = usage.masked_fill(~there, -torch.inf)
        made = [self.compress(leaving, usage).flatten(1, 2)]
        rings = slots.split([q.size for q in self.sizes.queues], 1)
        for queue, ring, below, source in zip(
            self.sizes.queues[1:], rings[1:], rings, sources, strict=False
        ):
            pool = torch.cat([below, self._apart(made[-1]), *([ring] if queue.running else [])], 1)
            if not queue.running:
                made.append(self._merge(take(pool, source.flatten(1)), source.shape))
                continue
            folds = []
            for parts in source.unbind(1):  # each is made of the one before
                folds.append(self._merge(take(pool, parts), (parts.shape[0], 1, parts.shape[1])))
                pool = torch.cat([pool, self._apart(folds[-1])], 1)
            made.append(torch.cat(folds, 1))
        return made

    def _merge(self, parts: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Slots [B, G, D] of the slots that they are made of."""
        grouped = parts.unflatten(1, shape[1:])  # (B, G, c, D)
        return self.compress(F.pad(grouped, (0, 0, self.compress.lookback, 0))).squeeze(2)

    def _apart(self, made: Tensor) -> Tensor:
        """New slots as everything but their own loss sees them: the task trains the compressor only without one."""
        return made if self.compression_loss == "none" else made.detach()

    def _next(
        self,
        timeline: Tensor,
        past: Past,
        made: list[Tensor] | None,
        usage: Tensor | None,
        plan: Plan,
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
                    take(torch.cat([ring, new], 1), queue.next_source) * queue.next_there[..., None]
                    for ring, new, queue in zip(rings, made, plan.queues, strict=True)
                ],
                1,
            )
        return after
