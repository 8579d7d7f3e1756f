"""The Compressive Transformer as a loop over single steps of single rows, written from its definition.

No ring, no gather, no plan, no shared compression code: lists of what a step may see, and what becomes of them when
a window ends. An unmasked memory is what the authors' is: it starts full of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Slot:
    vector: Tensor
    newest: int  # the newest step that it covers
    number: int  # in its queue
    oldest: int = 0  # the oldest step that it covers


@dataclass
class Memory:
    """One row's memory in one layer."""

    inputs: list[Tensor] = field(default_factory=list)  # attention inputs of the whole episode
    queries: list[Tensor] = field(default_factory=list)
    usage: list[float] = field(default_factory=list)
    queues: list[list[Slot]] = field(default_factory=list)
    made: list[int] = field(default_factory=list)
    running: Slot | None = None
    looked: list[list[tuple[bool, int, int, Tensor]]] = field(default_factory=list)  # see `_attend`


@dataclass
class Result:
    y: Tensor
    memories: list[list[Memory]]  # per row, per layer
    losses: list[Tensor]  # of every layer, each a mean


def forward(core, x: Tensor, resets: Tensor) -> Result:
    """The whole from an empty memory; gradients flow as in one call of the core."""
    rows, ends = [], []
    terms: list[list[Tensor]] = [[] for _ in core.layers]
    for b in range(x.shape[0]):
        memories, outputs, step = [_empty(layer) for layer in core.layers], [], 0
        for t in range(x.shape[1]):
            if resets[b, t]:
                memories, step = [_empty(layer) for layer in core.layers], 0
            h = x[b, t]
            for i, (layer, memory) in enumerate(zip(core.layers, memories, strict=True)):
                h = _layer(layer, memory, h, step)
                if (step + 1) % core.sizes.window == 0 and core.sizes.compressed:
                    terms[i] += _end_of_window(layer, memory, step)
            outputs.append(h)
            step += 1
        rows.append(torch.stack(outputs))
        ends.append(memories)
    losses = [torch.stack(part).mean() if part else torch.zeros(()) for part in terms]
    return Result(torch.stack(rows), ends, losses)


def _empty(layer) -> Memory:
    sizes = layer.sizes
    memory = Memory(queues=[[] for _ in sizes.queues], made=[0 for _ in sizes.queues])
    if sizes.compressed and not sizes.mask_empty:
        zero = torch.zeros(layer.options.d_model, dtype=torch.float64)
        for k in range(-sizes.compressed, 0):
            newest = (k + 1) * sizes.rate - 1 - sizes.memory % sizes.rate
            memory.queues[0].append(Slot(zero, newest, k))
    return memory


def _layer(layer, memory: Memory, x: Tensor, step: int) -> Tensor:
    sizes = layer.sizes
    boundary = step // sizes.window * sizes.window - sizes.memory
    pre = layer.options.norm == "pre"
    u = layer.norm(x) if pre else x
    memory.inputs.append(u)
    memory.usage.append(0.0)
    seen = []  # (vector, distance, whether a slot, whether a constant, step or slot)
    for s in range(boundary if not sizes.mask_empty else max(boundary, 0), step + 1):
        vector = memory.inputs[s] if s >= 0 else torch.zeros_like(u)
        past = s < step // sizes.window * sizes.window
        seen.append((vector, step - s, False, past and not layer.options.window_gradient, s))
    slots = [slot for queue in memory.queues for slot in reversed(queue)]
    if memory.running is not None:
        slots.append(memory.running)
    # In an episode that has been running for ever the newest slot ends where the steps that are seen begin.
    empty = min(boundary + sizes.memory % sizes.rate, 0) if sizes.compressed else 0
    for rank, slot in enumerate(slots, 1):
        newest = slot.newest + (empty if slot.number < 0 else 0)
        distance = {
            "order": step - boundary + rank,
            "authors": step % sizes.window + rank,
            "time": step - newest,
        }[sizes.slot_positions]
        seen.append((slot.vector, min(distance, sizes.slot_reach - 1), True, False, slot))
    x_after = layer.gate(x, _attend(layer.attention, memory, u, seen))
    if pre:
        return layer.gate_ff(x_after, layer.ff(layer.norm_ff(x_after)))
    x_after = layer.norm(x_after)
    return layer.norm_ff(layer.gate_ff(x_after, layer.ff(x_after)))


def _attend(attention, memory: Memory, u: Tensor, seen: list) -> Tensor:
    heads, size = attention.n_heads, attention.d_head
    query = attention.q(u).view(heads, size) / size**0.5
    memory.queries.append(query.detach())
    items = torch.stack([item.detach() if constant else item for item, _, _, constant, _ in seen])
    keys, values = (part.view(-1, heads, size) for part in attention.kv(items).chunk(2, -1))
    # Steps come first in `seen`, slots after them.
    steps = [distance for _, distance, is_slot, *_ in seen if not is_slot]
    slots = [distance - attention.slots[0] for _, distance, is_slot, *_ in seen if is_slot]
    position = attention.position(attention.codes[steps]).view(-1, heads, size)
    relative = ((query + attention.position_bias[:, 0]) * position).sum(-1)
    if slots:
        position = attention.slot_position(attention.slot_codes[slots]).view(-1, heads, size)
        of_slots = ((query + attention.slot_position_bias[:, 0]) * position).sum(-1)
        relative = torch.cat([relative, of_slots])
    content = ((query + attention.content_bias[:, 0]) * keys).sum(-1)
    weights = (content + relative).softmax(0)  # (seen, H)
    for (_, _, is_slot, _, step), weight in zip(seen, weights.mean(1).tolist(), strict=True):
        if not is_slot and step >= 0:
            memory.usage[step] += weight
    memory.looked.append(  # whether a slot, first and last step, weight of each head
        [
            (is_slot, *((what.oldest, what.newest) if is_slot else (what, what)), weight.detach())
            for (_, _, is_slot, _, what), weight in zip(seen, weights, strict=True)
        ]
    )
    mixed = (weights[..., None] * values).sum(0).flatten()
    if attention.read_gate is not None:
        gate = attention.read_gate(u)
        mixed = mixed * gate / (1 + torch.exp(-gate))
    return attention.out(mixed)


def _end_of_window(layer, memory: Memory, step: int) -> list[Tensor]:
    """Compresses the block that the boundary passes; gives its terms of the compression loss."""
    sizes, loss = layer.sizes, layer.options.compression_loss
    c, window = sizes.rate, sizes.window
    bound = step + 1 - sizes.memory
    block = list(range(bound - window, bound))
    there = [s for s in block if s >= 0]
    if sizes.mask_empty and not there:
        return []
    inputs = {s: memory.inputs[s] if s >= 0 else torch.zeros_like(memory.inputs[0]) for s in block}
    if loss != "none" or not layer.options.window_gradient:
        inputs = {s: value.detach() for s, value in inputs.items()}
    if layer.options.compression == "most_used":
        best = sorted(there, key=lambda s: -memory.usage[s])[: len(there) // c]
        made = [(inputs[s], None) for s in sorted(best)]
        covered = [list(range(there[0] + i * c, there[0] + i * c + c)) for i in range(len(made))]
    else:
        covered = [block[i : i + c] for i in range(0, window, c)]
        if sizes.mask_empty:
            covered = [group for group in covered if group[0] >= 0]
        made = [
            (_compress(layer, [_input(memory, layer, s) for s in group], group, memory), group)
            for group in covered
        ]
    slots = [vector for vector, _ in made]
    ahead = max(window - sizes.memory, 0) if sizes.memory else 0
    queries = memory.queries[-window:][ahead:]
    old = [inputs[s] for s in (there if sizes.mask_empty else block)]
    terms = _terms(layer, queries, old, slots, covered, inputs)
    for vector, group in zip(slots, covered, strict=True):
        if group[-1] < 0:
            continue  # a slot of nothing: the memory is full of such already
        if loss != "none":
            vector = vector.detach()
        memory.queues[0].append(Slot(vector, group[-1], memory.made[0], max(group[0], 0)))
        memory.made[0] += 1
        terms += _overflow(layer, memory, 0, queries)
    return terms


def _input(memory: Memory, layer, step: int) -> Tensor:
    if step < 0:
        return torch.zeros_like(memory.inputs[0])
    value = memory.inputs[step]
    if layer.options.compression_loss != "none" or not layer.options.window_gradient:
        return value.detach()
    return value


def _compress(layer, items: list[Tensor], group: list[int] | None, memory: Memory) -> Tensor:
    """One slot of c items; `group` names their steps where they are steps."""
    kind, function = layer.options.compression, layer.compress
    if kind == "max":
        return torch.stack(items).max(0).values
    if kind == "mean":
        return sum(items) / len(items)
    if kind == "dilated":

        def depth(level: int, i: int) -> Tensor:
            """The input at item i after `level` dilated convolutions."""
            if level == 0:
                if i >= 0:
                    return items[i]
                if group is None:
                    return torch.zeros_like(items[0])
                return _input(memory, layer, group[0] + i)
            earlier = depth(level - 1, i - function.dilations[level - 1])
            weight = function.stack[level - 1].weight  # (D, 2 D): the earlier one first
            return (weight @ torch.cat([earlier, depth(level - 1, i)])).clamp(min=0)

        items = [depth(len(function.dilations), i) for i in range(len(items))]
    size = len(items[0])
    weight = function.linear.weight
    return sum(weight[:, j * size : (j + 1) * size] @ item for j, item in enumerate(items))


def _terms(layer, queries, old, slots, covered, inputs) -> list[Tensor]:
    """The loss of one block: a term a query for attention, one a slot for auto-encoding."""
    loss, attention = layer.options.compression_loss, layer.attention
    if loss == "auto_encoding":
        size = len(old[0])
        terms = []
        for slot, group in zip(slots, covered, strict=True):
            rebuilt = layer.decode.weight @ slot
            errors = [
                (rebuilt[j * size : (j + 1) * size] - inputs[s].detach()).square().mean()
                for j, s in enumerate(group)
            ]
            terms.append(torch.stack(errors).mean())
        return terms
    if loss != "attention":
        return []
    weight = attention.kv.weight.detach()

    def read(query: Tensor, items: list[Tensor]) -> Tensor:
        keys, values = zip(*((weight @ item).chunk(2) for item in items), strict=True)
        shape = (attention.n_heads, attention.d_head)
        logits = torch.stack([(query * key.view(shape)).sum(-1) for key in keys])
        mixed = logits.softmax(0)[..., None] * torch.stack([v.view(shape) for v in values])
        return mixed.sum(0)

    fixed = [item.detach() for item in old]
    return [(read(q, slots) - read(q, fixed)).square().mean() for q in queries]


def _overflow(layer, memory: Memory, level: int, queries: list[Tensor]) -> list[Tensor]:
    """Makes room in a full queue; the terms of the loss of what is merged."""
    queue, c = layer.sizes.queues[level], layer.sizes.rate
    slots = memory.queues[level]
    if len(slots) <= queue.size:
        return []
    if not queue.merge:
        del slots[0]
        return []
    oldest = [] if not queue.folds or memory.running is None else [memory.running]
    while len(oldest) < c:
        oldest.append(slots.pop(0))
    parts = [slot.vector for slot in oldest]
    if layer.options.compression_loss != "none":
        parts = [part.detach() for part in parts]
    vector = _compress(layer, parts, None, memory)
    named = list(range(c))
    terms = _terms(layer, queries, parts, [vector], [named], dict(zip(named, parts, strict=True)))
    if layer.options.compression_loss != "none":
        vector = vector.detach()
    slot = Slot(vector, oldest[-1].newest, memory.made[level + 1], oldest[0].oldest)
    memory.made[level + 1] += 1
    if queue.folds:
        memory.running = slot
        return terms
    memory.queues[level + 1].append(slot)
    return terms + _overflow(layer, memory, level + 1, queries)


def state(core, result: Result) -> dict[str, Tensor]:
    """The final memories as the core's state lays them out."""
    sizes = core.sizes
    rows, layers = len(result.memories), len(core.layers)
    out = {key: value.double() for key, value in core.initial_state(rows).items()}
    out["steps"] = torch.tensor([len(row[0].inputs) for row in result.memories])
    for b in range(rows):
        for i in range(layers):
            memory = result.memories[b][i]
            for s in range(max(0, len(memory.inputs) - sizes.kept), len(memory.inputs)):
                out["past"][b, i, sizes.compressed + s % sizes.kept] = memory.inputs[s].detach()
                if "usage" in out:
                    out["usage"][b, i, s % sizes.kept] = memory.usage[s]
            offset = 0
            for queue, slots in zip(sizes.queues, memory.queues, strict=True):
                if queue.running:
                    slots = [memory.running] if memory.running else []
                for slot in slots:
                    place = 0 if queue.running else slot.number % queue.size
                    if slot.number >= 0:
                        out["past"][b, i, offset + place] = slot.vector.detach()
                offset += queue.size
    return out
