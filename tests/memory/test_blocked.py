"""The way that a CPU's cache likes and its twin, the way of every other device, are one computation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ct_rl.memory import build_memory
from ct_rl.memory.compressive.core import CompressiveTransformer

OPTIONS = {
    "default": {},
    "long window": {"window": 16},
    "no memory": {"memory": 0},
    "no slots": {"compressed": 0, "rate": 1},
    "dilated": {"compression": "dilated"},
    "pyramid": {"overflow": "merge", "rate": 2},
    "by time": {"slot_positions": "time"},
    "as the authors count": {"slot_positions": "authors"},
    "auto-encoding": {"compression_loss": "auto_encoding"},
    "gated": {"gated_reads": True},
    "task's gradient": {"compression_loss": "none"},
}


@pytest.mark.parametrize("in_step", [True, False], ids=["in step", "each at its own phase"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_both_ways_give_the_same_outputs_losses_states_and_gradients(
    options: dict[str, object], in_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    sizes = {"window": 4, "memory": 8, "compressed": 8, "rate": 4}
    core = build_memory("compressive", d_model=16, n_layers=2, n_heads=2, **{**sizes, **options})
    core.double()
    for p in core.parameters():
        torch.nn.init.normal_(p, std=0.3)
    # More steps than a pass takes, so that one pass hands queries and gradients to the next.
    x = torch.randn(3, 150, 16, dtype=torch.float64)
    resets = torch.zeros(3, 150, dtype=torch.bool)
    state = core.initial_state(3)
    if not in_step:
        resets = torch.rand(3, 150) < 0.05
        state = core(x[:, :61], state, resets[:, :61]).state

    def both() -> list[Tensor]:
        core.zero_grad()
        inputs = x.clone().requires_grad_()
        out = core(inputs, state, resets)
        (out.y.square().mean() + sum(out.losses.values())).backward()
        gradients = [p.grad for p in core.parameters() if p.grad is not None]
        losses = [loss.detach() for loss in out.losses.values()]
        return [out.y.detach(), *losses, *out.state.values(), inputs.grad, *gradients]

    used = []

    def watched(*arguments: object) -> bool:
        used.append(in_blocks(*arguments))
        return used[-1]

    in_blocks = CompressiveTransformer._in_blocks
    monkeypatch.setattr(CompressiveTransformer, "_in_blocks", watched)
    fast = both()
    assert used and all(used)
    monkeypatch.setattr(CompressiveTransformer, "_in_blocks", lambda *_: False)
    slow = both()
    assert len(fast) == len(slow) > 10
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
