"""A small WaveNet as a memory core: the baseline of raw audio (van den Oord et al. 2016, arXiv 1609.03499)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn

from ct_rl.memory import MemoryCore, MemoryOutput, State
from ct_rl.memory.options import check_options

_ALWAYS = -(1 << 40)  # where the episode of a row without reset began: before all that is kept


@dataclass(frozen=True)
class WaveNetOptions:
    """Options of `wavenet`."""

    d_model: Annotated[int, Ge(1), Le(65_536)] = 64
    """Channels [count]."""
    n_layers: Annotated[int, Ge(1), Le(20)] = 8
    """Layers of a stack, with dilations 1, 2, 4, ... [count]."""
    stacks: Annotated[int, Ge(1), Le(64)] = 2
    """How often the stack is repeated [count]."""


class WaveNet(MemoryCore):
    """Gated causal convolutions of two taps with doubling dilations, residual and skip connections (section 2).

    State: "past_i" [B, dilation of layer i, d_model], each layer's last inputs, zeros where none were.

    Args: those of `WaveNetOptions`.
    """

    def __init__(self, d_model: int = 64, n_layers: int = 8, stacks: int = 2):
        super().__init__()
        given = {"d_model": d_model, "n_layers": n_layers, "stacks": stacks}
        check_options(type(self).__name__, WaveNetOptions, given)
        self.d_model = self.d_out = d_model
        self.dilations = [2**i for _ in range(stacks) for i in range(n_layers)]
        count = len(self.dilations)
        self.taps = nn.ModuleList(nn.Linear(2 * d_model, 2 * d_model) for _ in range(count))
        self.mixes = nn.ModuleList(nn.Linear(d_model, 2 * d_model) for _ in range(count))
        self.out = nn.Linear(d_model, d_model)

    @property
    def context_length(self) -> int:
        return sum(self.dilations) + 1

    def initial_state(self, batch_size: int) -> State:
        like = next(self.parameters())
        return {
            f"past_{i}": like.new_zeros(batch_size, dilation, self.d_model)
            for i, dilation in enumerate(self.dilations)
        }

    def run(self, x: Tensor, state: State, resets: Tensor, attention: bool) -> MemoryOutput:
        steps = x.shape[1]
        clock = torch.arange(steps, device=x.device)
        began = torch.where(resets, clock, _ALWAYS).cummax(1).values  # (B, T)
        after: State = {}
        skips = torch.zeros_like(x)
        for i, dilation in enumerate(self.dilations):
            name = f"past_{i}"
            line = torch.cat([state[name].to(x.dtype), x], 1)
            # What an episode has not seen is zero: the earlier tap reaches behind its beginning.
            there = clock - dilation >= began
            earlier = line[:, :steps] * there[..., None]
            a, b = self.taps[i](torch.cat([earlier, x], 2)).chunk(2, 2)
            residual, skip = self.mixes[i](torch.tanh(a) * torch.sigmoid(b)).chunk(2, 2)
            kept = torch.arange(steps - dilation, steps, device=x.device) >= began[:, -1:]
            after[name] = (line[:, -dilation:] * kept[..., None]).detach().to(state[name].dtype)
            x, skips = x + residual, skips + skip
        return MemoryOutput(self.out(F.relu(skips)), after)
