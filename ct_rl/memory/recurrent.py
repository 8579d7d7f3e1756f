"""LSTM and GRU under the memory contract: the baselines of memory-RL."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from ct_rl.memory.contract import MemoryCore, MemoryOutput, State


class _Recurrent(MemoryCore):
    names: tuple[str, ...]

    def __init__(self, d_model: int, hidden: int, cell: type[nn.RNNBase]):
        super().__init__()
        if d_model < 1 or hidden < 1:
            raise ValueError(f"d_model={d_model} and hidden={hidden} must be at least 1")
        self.d_model, self.d_out = d_model, hidden
        self.cell = cell(d_model, hidden, batch_first=True)

    @property
    def context_length(self) -> None:
        return None

    def initial_state(self, batch_size: int) -> State:
        like = self.cell.weight_hh_l0
        return {name: like.new_zeros(batch_size, self.d_out) for name in self.names}

    def run(self, x: Tensor, state: State, resets: Tensor, attention: bool) -> MemoryOutput:
        carried = tuple(state[name] for name in self.names)
        # torch's kernel runs over each stretch in which no row resets.
        cuts = [0, *(torch.nonzero(resets.any(0)).flatten().tolist()), x.shape[1]]
        pieces = []
        for start, end in itertools.pairwise(cuts):
            if start == end:
                continue
            keep = (~resets[:, start]).to(x.dtype)[:, None]
            hidden = tuple((part * keep)[None].contiguous() for part in carried)
            y, after = self.cell(x[:, start:end], hidden if len(hidden) > 1 else hidden[0])
            carried = tuple(part[0] for part in (after if isinstance(after, tuple) else (after,)))
            pieces.append(y)
        after_all = {name: part.detach() for name, part in zip(self.names, carried, strict=True)}
        return MemoryOutput(torch.cat(pieces, 1), after_all)


class LSTMMemory(_Recurrent):
    """torch's LSTM with resets inside a call; state "h" and "c", each [B, hidden]."""

    names = ("h", "c")

    def __init__(self, d_model: int = 128, hidden: int = 256):
        super().__init__(d_model, hidden, nn.LSTM)


class GRUMemory(_Recurrent):
    """torch's GRU with resets inside a call; state "h" [B, hidden]."""

    names = ("h",)

    def __init__(self, d_model: int = 128, hidden: int = 256):
        super().__init__(d_model, hidden, nn.GRU)
