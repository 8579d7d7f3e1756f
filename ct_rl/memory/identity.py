"""No memory: the control that every comparison of memories needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from ct_rl.memory.contract import MemoryCore, MemoryOutput, State
from ct_rl.memory.options import check_options


@dataclass(frozen=True)
class IdentityOptions:
    """Options of `identity`."""

    d_model: Annotated[int, Ge(1), Le(65_536)] = 128
    """Width of the core [units]."""


class Identity(MemoryCore):
    """y = x, without parameters; state "steps" int64 [B], of the running episode, which nothing reads.

    The state is not empty because RLlib's stock connectors take an empty one for a network that is not recurrent.
    """

    small: ClassVar[dict[str, Any]] = {}

    def __init__(self, d_model: int = 128):
        super().__init__()
        check_options(type(self).__name__, IdentityOptions, {"d_model": d_model})
        self.d_model = self.d_out = d_model

    @property
    def context_length(self) -> int:
        return 1

    def initial_state(self, batch_size: int) -> State:
        return {"steps": torch.zeros(batch_size, dtype=torch.long, device=self.like.device)}

    def run(self, x: Tensor, state: State, resets: Tensor, attention: bool) -> MemoryOutput:
        length = resets.shape[1]
        place = torch.arange(length, device=resets.device)
        last = torch.where(resets, place, -1).amax(1)  # the last step that began an episode
        steps = torch.where(last < 0, state["steps"] + length, length - last)
        return MemoryOutput(x, {"steps": steps})
