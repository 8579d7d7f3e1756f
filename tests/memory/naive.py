"""The Compressive Transformer as a loop over single steps of single rows, written from its definition.

No ring, no gather, no plan: lists of what a step may see. Distances: a past step by the steps between; slot k by
the paper's concatenated order, as if slots stood one step apart before the oldest uncompressed step.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Row:
    """One row's memory in one layer."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []  # normed layer inputs of the whole episode
        self.slots: list[Tensor] = []  # every slot ever made


def forward(core, x: Tensor, resets: Tensor) -> Tensor:
    """Outputs [B, T, D] from an empty memory; gradients flow as in one call of the core."""
    rows = []
    for b in range(x.shape[0]):
        memories, outputs, step = [Row() for _ in core.layers], [], 0
        for t in range(x.shape[1]):
            if resets[b, t]:
                memories, step = [Row() for _ in core.layers], 0
            h = x[b, t]
            for layer, memory in zip(core.layers, memories, strict=True):
                h = _layer(layer, memory, h, step, core.sizes)
            outputs.append(h)
            step += 1
        rows.append(torch.stack(outputs))
    return torch.stack(rows)


def _layer(layer, memory: Row, x: Tensor, step: int, sizes) -> Tensor:
    boundary = step // sizes.window * sizes.window - sizes.memory
    u = layer.norm(x)
    memory.inputs.append(u)
    c = sizes.rate
    while sizes.compressed and (len(memory.slots) + 1) * c <= boundary:
        k = len(memory.slots)
        group = torch.stack(memory.inputs[k * c : (k + 1) * c])
        if layer.compression_loss != "none":
            memory.slots.append(layer.compress(group.detach()).detach())
        else:
            memory.slots.append(layer.compress(group))
    seen = [(memory.inputs[s], step - s, False) for s in range(max(boundary, 0), step + 1)]
    if sizes.compressed:
        upto = max(boundary, 0) // c
        for k in range(max(0, upto - sizes.compressed), upto):
            seen.append((memory.slots[k], step - boundary + boundary // c - k, True))
    x = layer.gate(x, _attend(layer.attention, u, seen))
    return layer.gate_ff(x, layer.ff(layer.norm_ff(x)))


def _attend(attention, u: Tensor, seen: list[tuple[Tensor, int, bool]]) -> Tensor:
    heads, size = attention.n_heads, attention.d_head
    query = attention.q(u).view(heads, size) / size**0.5
    logits, values = [], []
    for item, distance, is_slot in seen:
        key, value = attention.kv(item).chunk(2)
        if is_slot:
            position = attention.slot_position(attention.slot_codes[distance])
            bias = attention.slot_position_bias
        else:
            position = attention.position(attention.codes[distance])
            bias = attention.position_bias
        content = ((query + attention.content_bias[:, 0]) * key.view(heads, size)).sum(-1)
        relative = ((query + bias[:, 0]) * position.view(heads, size)).sum(-1)
        logits.append(content + relative)
        values.append(value.view(heads, size))
    weights = torch.stack(logits).softmax(0)  # (seen, H)
    mixed = (weights[..., None] * torch.stack(values)).sum(0)
    return attention.out(mixed.flatten())
