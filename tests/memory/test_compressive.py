"""The Compressive Transformer against its naive twin, its gradients, its losses and its horizon."""

import pytest
import torch

from ct_rl.memory import build_memory, state_bytes
from ct_rl.memory.compression import Convolution, MaxPool, MeanPool, attention_reconstruction
from tests.memory import naive
from tests.memory.test_laws import B, core_of, fresh, in_pieces, inputs

LOSSES = ("attention", "auto_encoding", "none")
SIZES = [(4, 8, 5, 2), (4, 6, 3, 2), (1, 3, 4, 1), (8, 0, 3, 4)]


@pytest.mark.parametrize("compression", ["conv", "max", "mean"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sizes", SIZES)
def test_outputs_and_gradients_equal_the_naive_twins(sizes, loss, compression):
    core = core_of("compressive", sizes, compression=compression, loss=loss).eval()
    x, resets = inputs(sum(sizes))
    x, resets = x[:2, :30].clone().requires_grad_(True), resets[:2, :30]
    weight = torch.randn(
        2, 30, x.shape[-1], dtype=x.dtype, generator=torch.Generator().manual_seed(1)
    )

    def gradients(y):
        parameters = [x, *core.parameters()]
        given = torch.autograd.grad((y * weight).sum(), parameters, allow_unused=True)
        return [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, given, strict=True)
        ]

    state = {key: value[:2] for key, value in fresh(core).items()}
    ours, twin = core(x, state, resets).y, naive.forward(core, x, resets)
    torch.testing.assert_close(ours, twin)
    for mine, its in zip(gradients(ours), gradients(twin), strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("loss", LOSSES)
def test_task_and_compression_losses_train_apart(loss):
    core = core_of("compressive", loss=loss).train()
    x, resets = inputs(0)
    x.requires_grad_(True)
    out = core(x, fresh(core), resets)
    compressors = {
        p for layer in core.layers for n in ("compress", "decode") if hasattr(layer, n)
        for p in getattr(layer, n).parameters()
    }  # fmt: skip
    assert set(core.compressor_parameters()) == (compressors if loss != "none" else set())
    everything = [x, *core.parameters()]
    task = torch.autograd.grad(
        out.y.square().sum(), everything, allow_unused=True, retain_graph=True
    )
    for parameter, gradient in zip(everything, task, strict=True):
        reached = gradient is not None and bool(gradient.any())
        assert reached == (parameter not in compressors or loss == "none")
    if loss == "none":
        assert "compression" not in out.losses
        return
    own = torch.autograd.grad(out.losses["compression"], everything, allow_unused=True)
    for parameter, gradient in zip(everything, own, strict=True):
        reached = gradient is not None and bool(gradient.any())
        assert reached == (parameter in compressors)


def test_there_is_no_loss_in_evaluation_mode():
    core = core_of("compressive").eval()
    x, resets = inputs(0)
    assert core(x, fresh(core), resets).losses == {}


def test_compression_functions_by_hand():
    group = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    assert MaxPool(2, 2)(group).tolist() == [3.0, 0.0]
    assert MeanPool(2, 2)(group).tolist() == [2.0, -1.0]
    conv = Convolution(2, 2)
    with torch.no_grad():  # rows: outputs; columns: step 0 features, step 1 features
        conv.linear.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 10.0, 1.0]]))
    assert conv(group).tolist() == [1.0, 30.0]


def test_attention_reconstruction_by_hand():
    """One query over two equal keys reads the mean of their values; the slot reads its own value."""
    query = torch.zeros(1, 1, 1, 2)
    old_keys = torch.zeros(1, 1, 2, 2)
    old_values = torch.tensor([[[[2.0, 0.0], [4.0, 0.0]]]])
    slot_value = torch.tensor([[[[1.0, 2.0]]]])
    there = torch.ones(1, 2, dtype=torch.bool)
    loss = attention_reconstruction(
        query, old_keys, old_values, old_keys[:, :, :1], slot_value, there, there[:, :1]
    )
    assert loss.item() == pytest.approx(((3 - 1) ** 2 + (0 - 2) ** 2) / 2)


@pytest.mark.parametrize("sizes", [(4, 8, 5, 2), (1, 3, 4, 1), (4, 4, 2, 4)])
def test_the_horizon_is_context_length(sizes):
    """In one layer a change context_length - 1 steps back can reach the output; one step older never does."""
    torch.manual_seed(0)
    window, memory, compressed, rate = sizes
    core = build_memory(
        "compressive", d_model=8, n_layers=1, n_heads=2, window=window, memory=memory,
        compressed=compressed, rate=rate,
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    reach = core.context_length
    assert reach == memory + rate * compressed + window
    steps = reach + 3 * window
    x = torch.randn(1, steps, 8, dtype=torch.float64)
    none = torch.zeros(1, steps, dtype=torch.bool)
    state = {
        k: v.double() if v.is_floating_point() else v for k, v in core.initial_state(1).items()
    }
    with torch.no_grad():
        whole = core(x, state, none).y
        farthest = 0
        for u in range(steps):
            changed = x.clone()
            changed[0, u, 0] += 1.0
            moved = (core(changed, state, none).y - whole).abs().amax(-1)[0] > 1e-12
            farthest = max(farthest, int(torch.nonzero(moved).max()) - u)
    assert farthest == reach - 1


def test_a_state_knows_its_size():
    core = build_memory(
        "compressive", d_model=8, n_layers=2, n_heads=2, window=4, memory=8, compressed=3
    )
    # 2 layers of (4 + 8 + 3) vectors of 8 float32, and one int64 a row
    assert state_bytes(core.initial_state(5)) == 5 * (2 * 15 * 8 * 4 + 8)


def test_acting_does_not_copy_the_memory():
    core = core_of("compressive").float().eval()
    state = core.cached(core.initial_state(B))
    places = {key: value.data_ptr() for key, value in state.items()}
    with torch.no_grad():
        for _ in range(20):
            state = core(torch.randn(B, 1, 8), state).state
    assert {key: value.data_ptr() for key, value in state.items()} == places


def test_the_training_path_compiles_without_graph_breaks():
    core = core_of("compressive").float().train()
    compiled = torch.compile(core, fullgraph=True, backend="aot_eager")
    x, resets = inputs(0)
    x = x.float()
    state = core.initial_state(B)
    torch.testing.assert_close(compiled(x, state, resets).y, core(x, state, resets).y)


def test_bfloat16_autocast_stays_close():
    core = core_of("compressive").float().eval()
    x, resets = inputs(0)
    x = x.float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low, _ = in_pieces(core, x, resets, [7], core.initial_state(B))
    with torch.no_grad():
        full, _ = in_pieces(core, x, resets, [7], core.initial_state(B))
    assert (low.float() - full).abs().mean() < 0.05 * full.abs().mean()
