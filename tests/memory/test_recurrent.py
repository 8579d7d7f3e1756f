"""LSTM and GRU take an input in stretches, or episode by episode: both are the cell's single steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ct_rl.memory import build_memory, recurrent
from ct_rl.memory.contract import MemoryCore

ROWS, STEPS = 5, 40


def step_by_step(core: MemoryCore, x: Tensor, carried: dict[str, Tensor], resets: Tensor) -> Tensor:
    """The naive twin: one call of the cell a step; every output and the last state, one after the other."""
    hidden, outputs = tuple(carried.values()), []
    for t in range(x.shape[1]):
        keep = (~resets[:, t]).to(x.dtype)[:, None]
        hidden = tuple(part * keep for part in hidden)
        y, after = core.cell(
            x[:, t : t + 1],
            tuple(part[None] for part in hidden) if len(hidden) > 1 else hidden[0][None],
        )
        hidden = tuple(part[0] for part in (after if isinstance(after, tuple) else (after,)))
        outputs.append(y[:, 0])
    return torch.cat([torch.stack(outputs, 1).flatten(), *(part.flatten() for part in hidden)])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("packed", [False, True], ids=["as it chooses", "side by side"])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_outputs_states_and_gradients_are_those_of_single_steps(
    name: str, packed: bool, share: float
) -> None:
    torch.manual_seed(0)
    core = build_memory(name, d_model=6, hidden=8).double()
    x = torch.randn(ROWS, STEPS, 6, dtype=torch.float64, requires_grad=True)
    resets = torch.rand(ROWS, STEPS) < share
    state = {key: torch.randn_like(value) for key, value in core.initial_state(ROWS).items()}
    if packed:
        starts, lengths = recurrent._episodes(resets)
        carried = tuple(state.values())
        out = core._side_by_side(x, carried, resets, starts, lengths)
    else:
        out = core(x, state, resets)
    found = torch.cat([out.y.flatten(), *(part.flatten() for part in out.state.values())])
    expected = step_by_step(core, x, state, resets)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(out.y.numel(), dtype=torch.float64)
    given = (x, *core.parameters())
    ours = torch.autograd.grad(out.y.flatten() @ weight, given)
    twins = torch.autograd.grad(expected[: out.y.numel()] @ weight, given)
    for one, other in zip(ours, twins, strict=True):
        torch.testing.assert_close(one, other)
