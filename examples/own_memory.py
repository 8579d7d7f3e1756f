"""A memory of your own: a matrix of associations that every step writes into and reads from (fast weights).

    python examples/own_memory.py --steps 60000
    python -m ct_rl.train --import examples.own_memory --memory fast_weights --memory.keep 0.99 --env CartPole-v1

Schlag et al. 2021, arXiv 2102.11174, section 4.2, with a constant decay: M <- keep M + k v^T, and then y = W (q M).
"""

import argparse
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import nn

from ct_rl.memory import MemoryCore, MemoryOutput, register_memory


@dataclass(frozen=True)
class FastWeightsOptions:
    """What can be set; its flags, its help and its place in recipes follow from here."""

    d_model: Annotated[int, Ge(1), Le(65_536)] = 128
    """Width of the core [units]."""
    cells: Annotated[int, Ge(1), Le(4096)] = 16
    """Rows and columns of the matrix [units]."""
    keep: Annotated[float, Ge(0), Le(1)] = 0.99
    """Share of the matrix that a step leaves in place."""


class FastWeights(MemoryCore):
    """Each step stores a value under a key, and asks with a query for what was stored under keys like it."""

    small: ClassVar[dict] = {"cells": 3}  # the options with which the contract tests build it

    def __init__(self, d_model: int, cells: int, keep: float):
        super().__init__()
        self.d_model = self.d_out = d_model
        self.cells, self.keep = cells, keep
        self.project = nn.Linear(d_model, 3 * cells)
        self.outlet = nn.Linear(cells, d_model)

    @property
    def context_length(self):
        return None  # old associations fade, but there is no bound

    def initial_state(self, batch_size):
        return {"matrix": self.like.new_zeros(batch_size, self.cells, self.cells)}

    def run(self, x, state, resets, attention):
        query, key, value = self.project(x).chunk(3, -1)  # [B, T, cells] each
        query, key = query.softmax(-1), key.softmax(-1)  # bounded, so that the matrix is
        matrix, read = state["matrix"], []
        for t in range(x.shape[1]):
            matrix = torch.where(resets[:, t, None, None], 0.0, matrix)  # a new episode forgets
            matrix = self.keep * matrix + key[:, t, :, None] * value[:, t, None, :]
            read.append(torch.einsum("bk,bkv->bv", query[:, t], matrix))
        return MemoryOutput(self.outlet(torch.stack(read, 1)), {"matrix": matrix.detach()})


register_memory("fast_weights", FastWeights, FastWeightsOptions)


def main():
    from own_environment import small_config, train

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=float, default=0.99)
    parser.add_argument("--steps", type=int, default=60_000, help="agent steps of training")
    args = parser.parse_args()
    train(small_config("fast_weights", d_model=32, keep=args.keep), args.steps)


if __name__ == "__main__":
    main()
