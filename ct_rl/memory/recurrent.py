"""LSTM and GRU under the memory contract: the baselines of memory-RL."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ct_rl.memory.contract import MemoryCore, MemoryOutput, State
from ct_rl.memory.options import check_options

Carried = tuple[Tensor, ...]


@dataclass(frozen=True)
class RecurrentOptions:
    """Options of `lstm` and `gru`."""

    d_model: Annotated[int, Ge(1), Le(65_536)] = 128
    """Width of the core's input [units]."""
    hidden: Annotated[int, Ge(1), Le(65_536)] = 256
    """State, and width of the output [units]."""


class _Recurrent(MemoryCore):
    small: ClassVar[dict[str, Any]] = {"hidden": 6}
    names: tuple[str, ...]

    def __init__(self, d_model: int, hidden: int, cell: Callable[..., nn.RNNBase]):
        super().__init__()
        given = {"d_model": d_model, "hidden": hidden}
        check_options(type(self).__name__, RecurrentOptions, given)
        self.d_model, self.d_out = d_model, hidden
        self.cell = cell(d_model, hidden, batch_first=True)

    @property
    def context_length(self) -> None:
        return None

    def initial_state(self, batch_size: int) -> State:
        return {name: self.like.new_zeros(batch_size, self.d_out) for name in self.names}

    def run(self, x: Tensor, state: State, resets: Tensor, attention: bool) -> MemoryOutput:
        carried = tuple(state[name] for name in self.names)
        # One call of torch's kernel for each stretch in which no row resets; where episodes are so short that
        # these are more calls than the longest episode has steps, all episodes side by side.
        cuts = [0, *(torch.nonzero(resets.any(0)).flatten().tolist()), x.shape[1]]
        if len(cuts) > 3:
            starts, lengths = _episodes(resets)
            if len(cuts) - 1 > int(lengths[0]):
                return self._side_by_side(x, carried, resets, starts, lengths)
        pieces = []
        for start, end in itertools.pairwise(cuts):
            if start == end:
                continue
            y, carried = self._call(x[:, start:end], carried, ~resets[:, start])
            pieces.append(y)
        return self._output(torch.cat(pieces, 1), carried)

    def run_step(self, x: Tensor, state: State, resets: Tensor) -> Tensor:
        carried = tuple(state[name] for name in self.names)
        y, after = self._call(x[:, None], carried, ~resets)
        state.update(zip(self.names, after, strict=True))
        return y[:, 0]

    def _side_by_side(
        self, x: Tensor, carried: Carried, resets: Tensor, starts: Tensor, lengths: Tensor
    ) -> MemoryOutput:
        """Every episode as a row of its own, the longest first, packed so that no step is computed twice."""
        rows, steps = resets.shape
        clock = torch.arange(int(lengths[0]), device=x.device)
        running = (lengths > clock[:, None]).sum(1)  # episodes that have a step at each tick
        ticks = clock.repeat_interleave(running)
        episodes = torch.arange(rows * steps, device=x.device)
        episodes = episodes - (running.cumsum(0) - running).repeat_interleave(running)
        order = starts[episodes] + ticks  # of the steps (row by row), as they are packed
        row = starts // steps
        first = (starts % steps == 0) & ~resets.flatten()[starts]
        packed = PackedSequence(x.flatten(0, 1)[order], running.cpu())
        y, after = self._call(packed, tuple(part[row] for part in carried), first)
        last = torch.nonzero((starts + lengths) % steps == 0).flatten()
        last = last[row[last].argsort()]
        y = y.data[order.argsort()].view(rows, steps, -1)
        return self._output(y, tuple(part[last] for part in after))

    def _call(self, x: Any, carried: Carried, keep: Tensor) -> tuple[Any, Carried]:
        """torch's kernel from the carried state of the rows that `keep` it, and from zeros in others."""
        hidden = tuple(part.masked_fill(~keep[:, None], 0)[None].contiguous() for part in carried)
        y, after = self.cell(x, hidden if len(hidden) > 1 else hidden[0])
        after = after if isinstance(after, tuple) else (after,)
        return y, tuple(part[0].to(self.like.dtype) for part in after)  # autocast's are halves

    def _output(self, y: Tensor, carried: Carried) -> MemoryOutput:
        state = {name: part.detach() for name, part in zip(self.names, carried, strict=True)}
        return MemoryOutput(y, state)


def _episodes(resets: Tensor) -> tuple[Tensor, Tensor]:
    """Where episodes start among the steps of all rows, row by row, and their lengths; the longest first."""
    begins = resets.clone()
    begins[:, 0] = True
    starts = torch.nonzero(begins.flatten()).flatten()
    lengths = torch.diff(starts, append=starts.new_tensor([resets.numel()]))
    lengths, order = lengths.sort(descending=True, stable=True)
    return starts[order], lengths


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
