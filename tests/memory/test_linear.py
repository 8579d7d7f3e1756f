"""The linear recurrences: the parallel scan is the loop, and cutting is exact."""

import pytest
import torch

from ct_rl.memory import build_memory
from ct_rl.memory.linear import CELLS, scan


@pytest.mark.parametrize("steps", [1, 2, 7, 64, 100])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_scan_is_the_loop_with_its_gradients(steps, dtype):
    torch.manual_seed(steps)
    decay = torch.randn(2, steps, 3, dtype=dtype)
    decay = (decay / (1.0 + decay.abs())).requires_grad_()
    given = torch.randn(2, steps, 3, dtype=dtype, requires_grad=True)
    start = torch.randn(2, 3, dtype=dtype, requires_grad=True)
    h, loop = start, []
    for t in range(steps):
        h = decay[:, t] * h + given[:, t]
        loop.append(h)
    twin, ours = torch.stack(loop, 1), scan(decay, given, start)
    torch.testing.assert_close(ours, twin)
    weight = torch.randn_like(twin)
    grads = [
        torch.autograd.grad((y * weight).sum().abs(), (decay, given, start)) for y in (ours, twin)
    ]
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("cell", CELLS)
def test_calls_steps_and_resets_agree_for_every_cell(cell):
    torch.manual_seed(0)
    core = build_memory("linear", d_model=8, n_layers=2, hidden=6, cell=cell).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    x, resets = torch.randn(3, 50, 8).double(), torch.rand(3, 50) < 0.1
    whole = core(x, core.initial_state(3), resets)
    state = core.initial_state(3)
    y = torch.stack([core.step(x[:, t], state, resets[:, t]) for t in range(50)], 1)
    torch.testing.assert_close(y, whole.y.detach())
    torch.testing.assert_close(state, whole.state)
    fresh = core(x[:1, 20:], core.initial_state(1)).y
    resets[0, 20] = True
    resets[0, 21:] = False
    torch.testing.assert_close(core(x, core.initial_state(3), resets).y[:1, 20:], fresh)


@pytest.mark.parametrize("cell", CELLS)
def test_nothing_blows_up_over_a_long_sequence(cell):
    core = build_memory("linear", d_model=8, n_layers=1, hidden=16, cell=cell, longest=100_000)
    with torch.no_grad():
        y = core(torch.randn(1, 20_000, 8), core.initial_state(1))
    assert y.y.isfinite().all() and y.state["state"].abs().max() < 1e3
