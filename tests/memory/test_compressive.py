"""The Compressive Transformer against its naive twin, its gradients, its losses and its horizon."""

import copy

import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ct_rl.memory import build_memory, memory_options, state_bytes
from ct_rl.memory.compressive.attention import sinusoids
from ct_rl.memory.compressive.compression import (
    COMPRESSIONS,
    Convolution,
    DilatedConvolution,
    MaxPool,
    MeanPool,
    MostUsed,
    attention_reconstruction,
)
from ct_rl.memory.options import idle_options
from tests.memory import naive
from tests.memory.test_laws import B, core_of, fresh, in_pieces, in_steps, inputs, same_state

LOSSES = ("attention", "auto_encoding", "none")
SIZES = [(4, 8, 5, 2), (4, 6, 3, 2), (1, 3, 4, 1), (8, 0, 3, 4)]


VARIANTS = {  # what is beside compression function and loss; the last entries cover what remains
    "plain": {},
    "gru": {"gate": "gru"},
    "post": {"norm": "post"},
    "stopped": {"window_gradient": False},
    "time": {"slot_positions": "time"},
    "authors": {"slot_positions": "authors", "mask_empty": False},
    "gated": {"gated_reads": True, "near_first": True, "activation": "swiglu"},
    "merge": {"overflow": "merge"},
    "merge, time": {"overflow": "merge", "slot_positions": "time"},
    "unmasked": {"mask_empty": False, "window_gradient": False, "norm": "post"},
    "unmasked, time": {"mask_empty": False, "slot_positions": "time"},
    "all ours": {"overflow": "merge", "slot_positions": "time", "gate": "gru", "window_gradient": False,
                 "gated_reads": True},
}  # fmt: skip


def possible(compression, variant):
    options = VARIANTS[variant]
    ranked = compression == "most_used"
    return not ranked or ("overflow" not in options and options.get("mask_empty", True))


COMBINATIONS = [
    (compression, loss, variant)
    for compression in COMPRESSIONS
    for loss in LOSSES
    for variant in VARIANTS
    if possible(compression, variant)
]


def sizes_for(compression, loss, variant):
    """Each combination on one of the sizes in turn; a pyramid needs some."""
    if "merge" in VARIANTS[variant].values():
        choices = [(4, 4, 5, 2), (2, 2, 2, 2), (3, 3, 4, 3), (2, 4, 9, 2)]
    else:
        choices = [*SIZES, (4, 8, 4, 2)]
        if not VARIANTS[variant].get("mask_empty", True):
            choices += [(4, 3, 3, 2), (6, 7, 2, 3)]
    return choices[hash_of(compression, loss, variant) % len(choices)]


def hash_of(*words):
    return sum(ord(letter) * (i + 1) for i, letter in enumerate("".join(words)))


@pytest.mark.parametrize(("compression", "loss", "variant"), COMBINATIONS)
def test_everything_equals_the_naive_twins(compression, loss, variant):
    """Outputs, gradients of the task and of the compression loss, losses and final state."""
    sizes = sizes_for(compression, loss, variant)
    core = core_of(
        "compressive", sizes, compression=compression, loss=loss, **VARIANTS[variant]
    ).train()
    x, resets = inputs(sum(sizes))
    x, resets = x[:2, :25].clone().requires_grad_(True), resets[:2, :25]
    weight = torch.randn(
        2, 25, x.shape[-1], dtype=x.dtype, generator=torch.Generator().manual_seed(1)
    )
    parameters = [x, *core.parameters()]

    def gradients(y):
        if not y.requires_grad:
            return [torch.zeros_like(p) for p in parameters]
        given = torch.autograd.grad(y, parameters, allow_unused=True, retain_graph=True)
        return [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, given, strict=True)
        ]

    state = {key: value[:2] for key, value in fresh(core).items()}
    ours, twin = core(x, state, resets), naive.forward(core, x, resets)
    torch.testing.assert_close(ours.y, twin.y)
    same_state(ours.state, naive.state(core, twin))
    pairs = [((ours.y * weight).sum(), (twin.y * weight).sum())]
    if loss != "none":
        pairs.append((ours.losses["compression"], torch.stack(twin.losses).mean()))
        torch.testing.assert_close(*pairs[-1])
    for mine, its in pairs:
        for a, b in zip(gradients(mine), gradients(its), strict=True):
            torch.testing.assert_close(a, b)


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
    steps = torch.tensor([[1.0, -2.0], [3.0, 0.0], [5.0, 5.0], [7.0, 1.0]])
    assert MaxPool(2, 2)(steps).tolist() == [[3.0, 0.0], [7.0, 5.0]]
    assert MeanPool(2, 2)(steps).tolist() == [[2.0, -1.0], [6.0, 3.0]]
    conv = Convolution(2, 2)
    with torch.no_grad():  # rows: outputs; columns: step 0 features, step 1 features
        conv.linear.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 10.0, 1.0]]))
    assert conv(steps).tolist() == [[1.0, 30.0], [5.0, 71.0]]


def test_dilated_convolution_by_hand():
    """With every kernel 1 and one feature: after dilations 1, 2 and 4 a step holds the sum of itself and 7 before."""
    dilated = DilatedConvolution(1, 2)
    with torch.no_grad():
        for parameter in dilated.parameters():
            parameter.fill_(1.0)
    steps = torch.arange(1.0, 12.0)[:, None]  # 7 to look back on, then 2 groups
    sums = [sum(range(first, first + 8)) for first in range(1, 5)]
    assert dilated(steps).tolist() == [[sums[0] + sums[1]], [sums[2] + sums[3]]]
    assert dilated(-steps).tolist() == [[0.0], [0.0]], "the ReLU of the first layer"


def test_most_used_by_hand():
    steps = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    ranked = MostUsed(1, 2)
    assert ranked(steps, torch.tensor([0.1, 0.9, 0.2, 0.5])).tolist() == [[2.0], [4.0]]
    assert ranked(steps, torch.tensor([0.9, 0.1, 0.8, 0.5])).tolist() == [[1.0], [3.0]]
    # The first two do not exist: of the others one is kept, as the newest slot.
    missing = torch.tensor([-torch.inf, -torch.inf, 0.8, 0.5])
    assert ranked(steps, missing)[-1].tolist() == [3.0]


def test_attention_reconstruction_by_hand():
    """One query over two equal keys reads the mean of their values; the slot reads its own value."""
    query = torch.zeros(1, 1, 1, 2)
    old_keys = torch.zeros(1, 1, 2, 2)
    old_values = torch.tensor([[[[2.0, 0.0], [4.0, 0.0]]]])
    slot_value = torch.tensor([[[[1.0, 2.0]]]])
    loss = attention_reconstruction(query, (old_keys, old_values), (old_keys[:, :, :1], slot_value))
    assert loss.item() == pytest.approx(((3 - 1) ** 2 + (0 - 2) ** 2) / 2)


def farthest_influence(core, steps, change=1e-3):
    """How many steps back a small change can still reach an output of the core."""
    x = torch.randn(1, steps, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # Row u is changed at step u, the last row nowhere: rows do not touch each other (tests/memory/test_laws.py).
    rows = x.repeat(steps + 1, 1, 1)
    at = torch.arange(steps)
    rows[at, at] += change * torch.arange(8.0)
    state = {
        k: v.double() if v.is_floating_point() else v
        for k, v in core.initial_state(steps + 1).items()
    }
    with torch.no_grad():
        y = core(rows, state, torch.zeros(steps + 1, steps, dtype=torch.bool)).y
    moved = (y[:-1] - y[-1]).abs().amax(-1) > 1e-14
    changed, reached = torch.nonzero(moved, as_tuple=True)
    return int((reached - changed).max())


def one_layer(name="compressive", **options):
    torch.manual_seed(0)
    core = build_memory(name, d_model=8, n_layers=1, n_heads=2, **options).double().eval()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return core


@pytest.mark.parametrize("compression", sorted(COMPRESSIONS))
@pytest.mark.parametrize("sizes", [(4, 8, 5, 2), (1, 3, 4, 1), (4, 4, 2, 4), (6, 6, 7, 2)])
@pytest.mark.parametrize("more", [{}, {"slot_positions": "time"}, {"norm": "post", "gate": "gru"}])
def test_the_horizon_is_context_length(sizes, compression, more):
    """In one layer a change context_length - 1 steps back can reach the output; one step older never does."""
    window, memory, compressed, rate = sizes
    core = one_layer(
        window=window, memory=memory, compressed=compressed, rate=rate, compression=compression, **more
    )  # fmt: skip
    if compression not in ("most_used", "dilated"):
        assert core.context_length == memory + rate * compressed + window
    # Until the first possible steps are kept, by a change that tips no ranking.
    windows, change = (20, 1e-6) if compression == "most_used" else (3, 1e-3)
    steps = core.context_length + windows * window
    assert farthest_influence(core, steps, change) == core.context_length - 1


def test_most_used_can_reach_a_whole_block_with_one_slot():
    """Blocks of 6 steps give 3 slots: the 7th slot of memory may be the first 4th step of its block."""
    core = one_layer(window=6, memory=6, compressed=7, rate=2, compression="most_used")
    assert core.context_length == 12 + 2 * 6 + (6 - 3 + 1)


@pytest.mark.parametrize("name", ["transformer_xl", "gtrxl"])
def test_the_horizon_without_compressed_memory(name):
    core = one_layer(name, window=4, memory=7)
    assert core.context_length == 11
    assert farthest_influence(core, 25) == 10


def test_a_pyramid_forgets_nothing():
    options = {"window": 2, "memory": 2, "compressed": 6, "rate": 2, "compression": "mean"}
    assert one_layer(**options).context_length == 16
    core = one_layer(**options, overflow="merge")
    assert core.context_length is None
    assert farthest_influence(core, 150) == 149, "the first step still reaches the last output"
    assert core.initial_state(1).keys() == one_layer(**options).initial_state(1).keys()
    assert state_bytes(core.initial_state(1)) == state_bytes(one_layer(**options).initial_state(1))


def test_dropout_acts_in_training_only():
    core = core_of("compressive", dropout=0.5)
    plain = core_of("compressive")
    x, resets = inputs(0)
    torch.testing.assert_close(
        core.eval()(x, fresh(core), resets).y, plain.eval()(x, fresh(core), resets).y
    )
    core.train()
    torch.manual_seed(1)
    first = core(x, fresh(core), resets).y
    assert (core(x, fresh(core), resets).y - first).abs().max() > 0.1
    torch.manual_seed(1)
    torch.testing.assert_close(core(x, fresh(core), resets).y, first)


@pytest.mark.parametrize("variant", ["plain", "stopped", "merge", "time", "gru"])
@pytest.mark.parametrize("compression", ["conv", "most_used"])
def test_the_attention_report_accounts_for_every_weight(compression, variant):
    if not possible(compression, variant):
        pytest.skip("a pyramid does not rank by usage")
    sizes = (4, 4, 6, 2)
    core = core_of("compressive", sizes, compression=compression, **VARIANTS[variant]).train()
    x, resets = inputs(0)
    out = core(x, fresh(core), resets, attention=True)
    torch.testing.assert_close(out.y, core(x, fresh(core), resets).y)
    report = out.attention
    assert report.by_slot.shape == (2, 2, 6) and report.by_step.shape == (2, 2, 8)
    whole = report.compressed + report.memory + report.window
    torch.testing.assert_close(whole, torch.ones_like(whole))
    assert report.compressed.min() > 0.01
    assert report.buckets(2).shape == (2, 2, 6)
    torch.testing.assert_close(report.buckets(2)[..., 0], report.by_slot[..., :3].mean(2))
    torch.testing.assert_close(report.compression_loss.mean(), out.losses["compression"].detach())
    assert core(x, fresh(core), resets).attention is None


def test_the_attention_report_by_hand():
    """With all logits equal a step spreads its weight evenly over what it sees."""
    core = build_memory(
        "compressive", d_model=8, n_layers=1, n_heads=2, window=2, memory=2, compressed=3, rate=2
    ).eval()
    with torch.no_grad():
        core.layers[0].attention.q.weight.zero_()
    steps = 7  # the last one sees itself, 2 of memory, and 2 of the 3 slots
    out = core(torch.randn(1, steps, 8), core.initial_state(1))
    last = core(torch.randn(1, 1, 8), core(torch.randn(1, 6, 8), core.initial_state(1)).state,
                attention=True).attention  # fmt: skip
    torch.testing.assert_close(last.by_slot[0, 0], torch.tensor([0.0, 0.2, 0.2]))
    torch.testing.assert_close(last.by_step[0, 0], torch.tensor([0.2, 0.2, 0.2, 0.0]))
    assert out.attention is None


def test_recurrent_cores_have_no_attention_to_report():
    core = build_memory("lstm", d_model=8)
    assert core(torch.randn(1, 2, 8), core.initial_state(1), attention=True).attention is None


def test_a_state_knows_its_size():
    core = build_memory(
        "compressive", d_model=8, n_layers=2, n_heads=2, window=4, memory=8, compressed=3
    )
    # 2 layers of (4 + 8 + 3) vectors of 8 float32, and one int64 a row
    assert state_bytes(core.initial_state(5)) == 5 * (2 * 15 * 8 * 4 + 8)


def test_acting_does_not_copy_the_memory():
    core = core_of("compressive").float().eval()
    state = core.initial_state(B)
    places = {key: value.data_ptr() for key, value in state.items()}
    for _ in range(20):
        core.step(torch.randn(B, 8), state)
    assert {key: value.data_ptr() for key, value in state.items()} == places


def test_new_weights_show_in_the_next_step():
    """What a core keeps of its weights for acting is made anew when they change, however they do."""
    core, x = core_of("compressive").eval(), torch.randn(B, 8, dtype=torch.float64)
    state = fresh(core)
    for _ in range(9):
        core.step(torch.randn(B, 8, dtype=torch.float64), state)
    other = core_of("compressive", seed=1)
    changes = {
        "in place": lambda: [p.mul_(1.3) for p in core.parameters()],
        "loaded": lambda: core.load_state_dict(other.state_dict()),
        "assigned": lambda: core.load_state_dict(core_of("compressive", seed=2).state_dict(), assign=True),
        "another dtype and back": lambda: core.float().double(),
    }  # fmt: skip
    for name, change in changes.items():
        with torch.no_grad():
            change()
            expected = core(x[:, None], state).y[:, 0]
        stepped = core.step(x, {key: value.clone() for key, value in state.items()})
        torch.testing.assert_close(stepped, expected, msg=name)


def next_step(core, x, state):
    """The next step's output by `step`, and by a call."""
    with torch.no_grad():
        called = core(x[:, None], state).y[:, 0]
    return core.step(x, {key: value.clone() for key, value in state.items()}), called


def test_weights_that_come_to_lie_where_others_lay_show_in_the_next_step():
    """As in a search by evolution: a candidate acts, the mean comes back, and the next may get the first's memory."""
    core = build_memory("compressive", d_model=128, n_layers=1, n_heads=2, window=4, memory=8)
    mean = parameters_to_vector(core.parameters()).detach()
    x, state = torch.randn(B, 128), core(torch.randn(B, 50, 128), core.initial_state(B)).state
    for _ in range(4):
        vector_to_parameters(mean + 0.1 * torch.randn_like(mean), core.parameters())
        torch.testing.assert_close(*next_step(core, x, state), rtol=1e-3, atol=1e-3)
        vector_to_parameters(mean, core.parameters())


def test_a_copy_keeps_nothing_of_its_originals_weights_for_acting():
    core, x = core_of("compressive").eval(), torch.randn(B, 8, dtype=torch.float64)
    state = core(inputs(0)[0], fresh(core)).state
    core.step(x, {key: value.clone() for key, value in state.items()})
    copied = copy.deepcopy(core)
    weights = [each.stack[0].attention.position.weight for each in (core, copied)]
    with torch.no_grad():
        while weights[1]._version < weights[0]._version:
            for parameter in copied.parameters():
                parameter.add_(torch.randn_like(parameter))
    torch.testing.assert_close(*next_step(copied, x, state))


def test_a_gradient_of_gradients_on_a_cpu_is_refused():
    """It would leave out what attention and the compression loss depend on."""
    core = core_of("compressive").train()
    x, resets = inputs(0)
    x.requires_grad_(True)
    out = core(x, fresh(core), resets)
    (weight, *_) = core.compressor_parameters()
    for value, of in ((out.y.sum(), x), (out.losses["compression"], weight)):
        with pytest.raises(
            RuntimeError, match=r"create_graph=True.*cannot be differentiated again"
        ):
            torch.autograd.grad(value, of, create_graph=True)


def test_the_training_path_compiles_without_graph_breaks():
    core = core_of("compressive").float().train()
    compiled = torch.compile(core, fullgraph=True, backend="aot_eager")
    x, resets = inputs(0)
    x = x.float()
    state = core.initial_state(B)
    torch.testing.assert_close(compiled(x, state, resets).y, core(x, state, resets).y)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("acting", [False, True])
def test_bfloat16_autocast_stays_close(norm, acting):
    core = core_of("compressive", norm=norm).float().eval()
    x, resets = inputs(0)
    x = x.float()
    begun = core.initial_state(B)
    with torch.no_grad():
        full, _ = in_pieces(core, x, resets, [7], begun)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        if acting:
            low, _ = in_steps(core, x, resets, begun)
        else:
            low, _ = in_pieces(core, x, resets, [7], begun)
    assert (low.float() - full).abs().mean() < 0.05 * full.abs().mean()


@pytest.mark.parametrize("name", ["compressive", "transformer_xl"])
def test_near_first_attention_falls_as_the_power_of_each_head(name):
    """Of the codes alone; so, too, far beyond the distances that there are, for a longer memory in evaluation."""
    sizes = {"window": 16, "memory": 16} | ({"compressed": 16} if name == "compressive" else {})
    core = build_memory(name, d_model=64, n_layers=1, n_heads=4, near_first=True, **sizes).double()
    attention = core.stack[0].attention
    parts = [(attention.position, attention.position_bias)]
    if name == "compressive":
        parts.append((attention.slot_position, attention.slot_position_bias))
    distance = torch.arange(8 * max(attention.reach, attention.slots[1])).double()
    for position, bias in parts:
        keys = attention.heads(position(sinusoids(len(distance), 64)))
        logits = (bias @ keys.transpose(-1, -2))[:, 0]
        for logit, power in zip(logits, (2.0, 1.0, 0.5, 0.0), strict=True):
            wanted = -power * distance.log1p()
            assert (logit - wanted).abs().max() <= 0.5 * power
            assert (logit[1:8] < logit[0]).all() or power == 0


def test_without_near_first_positions_start_without_a_bias():
    attention = build_memory("compressive", d_model=64, n_layers=1, n_heads=4).stack[0].attention
    assert not attention.position_bias.any() and not attention.slot_position_bias.any()


def test_the_options_said_to_be_idle_are_those_that_do_nothing_without_slots():
    others = {
        "rate": 2,
        "compression": "dilated",
        "compression_loss": "auto_encoding",
        "overflow": "merge",
        "slot_positions": "time",
    }
    options = memory_options("compressive")
    assert idle_options(options, {"compressed": 0}) == dict.fromkeys(others, "compressed")
    assert idle_options(options, {"compressed": 1}) == {}

    x = torch.randn(2, 30, 8)
    outputs = []
    for more in ({}, *({name: value} for name, value in others.items())):
        torch.manual_seed(0)
        core = build_memory("compressive", d_model=8, n_heads=2, compressed=0, **more)
        for weight in core.parameters():
            torch.nn.init.normal_(weight)
        outputs.append(core(x, core.initial_state(2)).y)
    assert all(torch.equal(outputs[0], other) for other in outputs)
