"""A small WaveNet as a memory core: the baseline of raw audio (van den Oord et al. 2016, arXiv 1609.03499)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ct_rl.memory import MemoryCore, MemoryOutput, State

_ALWAYS = -(1 << 40)  # where the episode of a row without reset began: before all that is kept


class WaveNet(MemoryCore):
    """Gated causal convolutions of two taps with doubling dilations, residual and skip connections (section 2).

    State: "past_i" [B, dilation of layer i, d_model], each layer's last inputs, zeros where none were.

    Args:
        d_model: channels.
        n_layers: in one stack, with dilations 1, 2, 4, ...
        stacks: how often the stack is repeated.
    """

    def __init__(self, d_model: int = 64, n_layers: int = 8, stacks: int = 2):
        super().__init__()
        if d_model < 1 or n_layers < 1 or stacks < 1:
            raise ValueError(
                f"d_model={d_model}, n_layers={n_layers} and stacks={stacks} must be at least 1"
            )
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
