"""Nothing is dead from the start: every weight of every core learns within a few steps."""

import pytest
import torch

from ct_rl.memory import build_memory, memory_class, memory_names
from ct_rl.memory.compressive.compression import COMPRESSIONS

SMALL = {"d_model": 16, "n_layers": 2, "n_heads": 2, "window": 4, "memory": 4}
CORES = {
    **{name: (name, {"d_model": 16, **memory_class(name).small}) for name in memory_names()},
    **{
        f"{compression}, {loss}, {gate}": (
            "compressive",
            {
                **SMALL,
                "compressed": 4,
                "rate": 2,
                "compression": compression,
                "compression_loss": loss,
                "gate": gate,
            },
        )
        for compression in COMPRESSIONS
        for loss in ("attention", "auto_encoding", "none")
        for gate in ("gru", "residual")
    },
}


@pytest.mark.parametrize("name", CORES)
def test_every_weight_moves(name):
    kind, options = CORES[name]
    torch.manual_seed(0)
    core = build_memory(kind, **options)
    before = {key: x.detach().clone() for key, x in core.named_parameters()}
    if not before:
        return  # a core without parameters has nothing to move
    optimiser = torch.optim.SGD(core.parameters(), 0.1)
    for _ in range(4):
        out = core(torch.randn(3, 40, 16), core.initial_state(3))
        loss = (out.y - torch.randn_like(out.y)).square().mean() + sum(out.losses.values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    still = [key for key, x in core.named_parameters() if torch.equal(x, before[key])]
    assert not still
