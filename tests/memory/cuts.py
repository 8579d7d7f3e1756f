"""The law of cuts and resets in its smallest form, for a memory that a page or an example defines."""

import torch


def assert_steps_are_one_call(core):
    """Nine single steps of two rows, with resets, give the outputs and the state of one call; `core` is small."""
    core = core.double()
    torch.manual_seed(0)
    x, resets = torch.randn(2, 9, core.d_model).double(), torch.rand(2, 9) < 0.3
    whole = core(x, core.initial_state(2), resets)
    state = core.initial_state(2)
    steps = [core.step(x[:, t], state, resets[:, t]) for t in range(9)]
    torch.testing.assert_close(torch.stack(steps, 1), whole.y.detach())
    torch.testing.assert_close(state, whole.state)
