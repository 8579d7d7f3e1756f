"""How a block's output joins its input: a residual sum, or GTrXL's GRU gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """x + y."""

    def __init__(self, d_model: int):
        super().__init__()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class GRUGate(nn.Module):
    """GTrXL's gate (Parisotto et al. 2019, section 3.2), biased towards passing x on unchanged."""

    def __init__(self, d_model: int, bias: float = 2.0):
        super().__init__()
        self.from_y = nn.Linear(d_model, 3 * d_model, bias=False)
        self.from_x = nn.Linear(d_model, 2 * d_model, bias=False)
        self.candidate = nn.Linear(d_model, d_model, bias=False)
        self.bias = nn.Parameter(torch.full((d_model,), bias))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        reset_y, update_y, candidate_y = self.from_y(torch.relu(y)).chunk(3, -1)
        reset_x, update_x = self.from_x(x).chunk(2, -1)
        reset = torch.sigmoid(reset_y + reset_x)
        update = torch.sigmoid(update_y + update_x - self.bias)
        candidate = torch.tanh(candidate_y + self.candidate(reset * x))
        return (1 - update) * x + update * candidate


GATES: dict[str, type[nn.Module]] = {"gru": GRUGate, "residual": Residual}


def build_gate(name: str, d_model: int) -> nn.Module:
    """A gate by name.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in GATES:
        raise ValueError(f"unknown gate {name!r}: choose one of {', '.join(sorted(GATES))}")
    return GATES[name](d_model)
