"""The laws that every registered core obeys, as properties over random sizes, cuts, phases and resets."""

import copy
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ct_rl.memory import (
    MemoryCore,
    MemoryOutput,
    build_memory,
    memory_class,
    memory_names,
    register_memory,
    registry,
)
from ct_rl.memory.compressive import core as compressive
from ct_rl.memory.compressive.compression import COMPRESSIONS
from ct_rl.memory.means import joined

B, T, D = 3, 45, 8


@dataclass(frozen=True)
class OwnOptions:
    d_model: int = 128
    """Width [units]."""


class OwnMemory(MemoryCore):
    """A stranger's core with nothing beyond the contract's three methods: a sum that decays, step after step.

    Its loss is the mean over all rows and steps, and it does not say so.
    """

    def __init__(self, d_model: int = 128):
        super().__init__()
        self.d_model = self.d_out = d_model
        self.inlet = torch.nn.Linear(d_model, d_model)

    @property
    def context_length(self):
        return None

    def initial_state(self, batch_size):
        return {"sum": self.like.new_zeros(batch_size, self.d_model)}

    def run(self, x, state, resets, attention):
        held, y = state["sum"], []
        for x_t, begins in zip(self.inlet(x).unbind(1), resets.unbind(1), strict=True):
            held = torch.where(begins[:, None], 0.0, 0.9 * held) + x_t
            y.append(held)
        made = torch.stack(y, 1)
        losses = {"size": made.square().mean()} if self.training else {}
        return MemoryOutput(made, {"sum": held.detach()}, losses)


NAMES = [*memory_names(), "own"]


@pytest.fixture(autouse=True, scope="module")
def _registered():
    """Known to this module alone: others list the names that the package has."""
    with mock.patch.dict(registry._CORES):
        register_memory("own", OwnMemory, OwnOptions)
        yield


SIZES = st.sampled_from(  # window, memory, compressed, rate
    [
        (4, 8, 5, 2),
        (4, 6, 3, 2),
        (1, 3, 4, 1),
        (6, 6, 2, 3),
        (8, 0, 3, 4),
        (4, 4, 1, 4),
        (3, 9, 7, 3),
        (2, 2, 6, 2),  # pyramids of two levels and more
        (2, 4, 9, 2),
        (1, 0, 3, 1),
    ]
)


def options(name, sizes, compression="conv", loss="attention", **more):
    window, memory, compressed, rate = sizes
    if name == "compressive":
        chosen = {"compression": compression, "compression_loss": loss}
        chosen |= {"window": window, "memory": memory, "compressed": compressed, "rate": rate}
        return {"n_layers": 2, "n_heads": 2, **chosen, **more}
    if name in ("transformer_xl", "gtrxl"):
        return {"n_layers": 2, "n_heads": 2, "window": window, "memory": memory}
    return memory_class(name).small


OPTIONS = st.fixed_dictionaries(  # of the compressive core
    {
        "compression": st.sampled_from(sorted(COMPRESSIONS)),
        "loss": st.sampled_from(["attention", "auto_encoding", "none"]),
        "gate": st.sampled_from(["residual", "gru"]),
        "norm": st.sampled_from(["pre", "post"]),
        "activation": st.sampled_from(["gelu", "relu", "swiglu"]),
        "mask_empty": st.booleans(),
        "overflow": st.sampled_from(["drop", "merge"]),
        "slot_positions": st.sampled_from(["order", "time", "authors"]),
        "window_gradient": st.booleans(),
        "gated_reads": st.booleans(),
        "near_first": st.booleans(),
    }
)


def core_with(sizes, chosen):
    """A compressive core with these options, those that do not fit together left out."""
    chosen = dict(chosen)
    if chosen["compression"] == "most_used" or chosen["overflow"] == "merge":
        chosen["mask_empty"] = True
    _, _, compressed, rate = sizes
    if chosen["compression"] == "most_used" or rate == 1 or compressed < rate:
        chosen["overflow"] = "drop"
    return core_of("compressive", sizes, **chosen)


def core_of(name, sizes=(4, 8, 5, 2), seed=0, **kwargs):
    torch.manual_seed(seed)
    core = build_memory(name, d_model=D, **options(name, sizes, **kwargs)).double()
    with torch.no_grad():  # blocks start as the identity, which would hide every mistake
        for parameter in core.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return core


def inputs(seed, resets=True):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, T, D, generator=generator, dtype=torch.float64)
    begins = torch.rand(B, T, generator=generator) < 0.08
    return x, begins if resets else torch.zeros_like(begins)


def fresh(core):
    return {
        key: value.double() if value.is_floating_point() else value
        for key, value in core.initial_state(B).items()
    }


def in_pieces(core, x, resets, cuts, state=None):
    state = fresh(core) if state is None else state
    pieces, start = [], 0
    for end in [*sorted(cuts), x.shape[1]]:
        if end > start:
            out = core(x[:, start:end], state, resets[:, start:end])
            state, start = out.state, end
            pieces.append(out.y)
    return torch.cat(pieces, 1), state


def in_steps(core, x, resets, state=None):
    """The same by `step`, which moves the state on in place."""
    state = {key: value.clone() for key, value in (state or fresh(core)).items()}
    y = [core.step(x[:, t], state, resets[:, t]) for t in range(x.shape[1])]
    return torch.stack(y, 1), state


def same_state(left, right):
    assert left.keys() == right.keys()
    for key in left:
        torch.testing.assert_close(left[key], right[key], msg=key)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(sizes=SIZES, cuts=st.sets(st.integers(1, T - 1), max_size=8), seed=st.integers(0, 99))
def test_any_cut_gives_the_same(name, sizes, cuts, seed):
    core = core_of(name, sizes).eval()
    x, resets = inputs(seed)
    with torch.no_grad():
        whole, state = in_pieces(core, x, resets, [])
        cut, cut_state = in_pieces(core, x, resets, cuts)
    torch.testing.assert_close(cut, whole)
    same_state(cut_state, state)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 99), start=st.integers(0, 30), back=st.integers(0, 14))
def test_single_steps_give_the_same(name, sizes, seed, start, back):
    """Acting, joined at any phase and left again for calls, is the training path's twin, its state included."""
    core = core_of(name, sizes).eval()
    x, resets = inputs(seed)
    with torch.no_grad():
        whole, state = in_pieces(core, x, resets, [])
        begun = core(x[:, :start], fresh(core), resets[:, :start]).state if start else fresh(core)
        until = T - back
        y, middle = in_steps(core, x[:, start:until], resets[:, start:until], begun)
        if back:
            rest, end = in_pieces(core, x[:, until:], resets[:, until:], [], middle)
            y, middle = torch.cat([y, rest], 1), end
    torch.testing.assert_close(y, whole[:, start:])
    same_state(middle, state)


@settings(max_examples=100, deadline=None)
@given(
    sizes=SIZES,
    chosen=OPTIONS,
    cuts=st.sets(st.integers(1, T - 1), max_size=6),
    start=st.integers(0, 30),
    seed=st.integers(0, 99),
)
def test_every_option_keeps_the_laws_of_cuts_and_resets(sizes, chosen, cuts, start, seed):
    """Any cut, and acting from any phase on, give outputs and final state of the whole; a reset row is fresh."""
    core = core_with(sizes, chosen).eval()
    x, resets = inputs(seed)
    resets[1, 20] = True
    with torch.no_grad():
        whole, state = in_pieces(core, x, resets, [])
        cut, cut_state = in_pieces(core, x, resets, cuts)
        begun = core(x[:, :start], fresh(core), resets[:, :start]).state if start else fresh(core)
        y, end = in_steps(core, x[:, start:], resets[:, start:], begun)
        alone, _ = in_pieces(core, x[:, 20:], resets[:, 20:], [])
    torch.testing.assert_close(cut, whole)
    same_state(cut_state, state)
    torch.testing.assert_close(y, whole[:, start:])
    same_state(end, state)
    torch.testing.assert_close(whole[1, 20:], alone[1])


@settings(max_examples=50, deadline=None)
@given(sizes=SIZES, chosen=OPTIONS, seed=st.integers(0, 99))
def test_a_long_call_is_its_passes(sizes, chosen, seed):
    """A call that is cut into passes gives the outputs, losses and gradients of one pass."""
    core = core_with(sizes, chosen).train()
    x, resets = inputs(seed)
    x.requires_grad_(True)
    results = []
    for length in (T, 7):
        with mock.patch.object(compressive, "pass_length", lambda _, most=length: most):
            out = core(x, fresh(core), resets)
        loss = out.y.square().sum() + sum(out.losses.values())
        results.append((out, torch.autograd.grad(loss, [x, *core.parameters()], allow_unused=True)))
    (one, gradients), (many, others) = results
    torch.testing.assert_close(many.y, one.y)
    same_state(many.state, one.state)
    for key in one.losses:
        torch.testing.assert_close(many.losses[key], one.losses[key])
    for a, b in zip(gradients, others, strict=True):
        torch.testing.assert_close(a, b)


def with_gradients(core, losses):
    """Losses by name, each with its gradient of all the core's parameters."""
    parameters = list(core.parameters())
    found = {}
    for name, loss in losses.items():
        given = [None] * len(parameters)
        if loss.requires_grad:
            given = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        pairs = zip(given, parameters, strict=True)
        found[name] = [loss.detach(), *(torch.zeros_like(p) if g is None else g for g, p in pairs)]
    return found


def row_by_row(core, x, resets, lengths):
    """Each row's outputs and all rows' losses as one mean, from calls on one row and its own steps."""
    outs = [
        core(x[b : b + 1, :n], {key: part[b : b + 1] for key, part in fresh(core).items()}, begins)
        for b, n in enumerate(lengths)
        for begins in [resets[b : b + 1, :n]]
    ]
    means = {
        name: joined([(out.losses[name], out.terms[name]) for out in outs])
        for name in outs[0].losses
    }
    counts = {name: int(count) for name, (_, count) in means.items()}
    return [out.y for out in outs], {name: mean for name, (mean, _) in means.items()}, counts


CORES = st.one_of(
    st.builds(core_with, SIZES, OPTIONS), st.builds(core_of, st.sampled_from(NAMES), SIZES)
)


@settings(max_examples=50, deadline=None)
@given(core=CORES, seed=st.integers(0, 99))
def test_a_batch_in_parts_has_one_mean(core, seed):
    """Parts' losses, each weighed by how much it is the mean of, are the whole batch's, and so are their gradients."""
    x, resets = inputs(seed)
    core.train()
    whole = core(x, fresh(core), resets)
    _, losses, counts = row_by_row(core, x, resets, [T] * B)
    assert {name: int(count) for name, count in whole.terms.items()} == counts
    torch.testing.assert_close(with_gradients(core, losses), with_gradients(core, whole.losses))


@settings(max_examples=50, deadline=None)
@given(
    core=CORES,
    lengths=st.lists(st.integers(1, T), min_size=B, max_size=B),
    seed=st.integers(0, 99),
)
def test_what_fills_a_row_up_counts_for_nothing(core, lengths, seed):
    """Rows of unlike lengths give the outputs, losses and gradients of their own steps alone."""
    x, resets = inputs(seed, resets=False)
    core.train()
    out = core.read_filled(x, fresh(core), torch.tensor(lengths))
    ys, losses, counts = row_by_row(core, x, resets, lengths)
    for b, y in enumerate(ys):
        torch.testing.assert_close(out.y[b : b + 1, : lengths[b]], y)
    assert {name: int(count) for name, count in out.terms.items()} == counts
    torch.testing.assert_close(with_gradients(core, out.losses), with_gradients(core, losses))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10, deadline=None)
@given(sizes=SIZES, at=st.integers(0, T - 1), seed=st.integers(0, 99))
def test_a_reset_row_is_a_fresh_row(name, sizes, at, seed):
    core = core_of(name, sizes).eval()
    x, resets = inputs(seed, resets=False)
    resets[1, at] = True
    with torch.no_grad():
        y, state = in_pieces(core, x, resets, [T // 3])
        alone, alone_state = in_pieces(core, x[:, at:], resets[:, at:], [])
    torch.testing.assert_close(y[1, at:], alone[1])
    for key in state:
        torch.testing.assert_close(state[key][1], alone_state[key][1], msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_a_reset_heals_a_row_that_is_not_finite(name):
    """A step looks at no values; what broke before an episode began has no part in it."""
    core, (x, _) = core_of(name).eval(), inputs(5)
    state, broken = fresh(core), fresh(core)
    for value in broken.values():
        if value.is_floating_point():
            value[1] = torch.nan
    resets = torch.tensor([False, True, False])
    y, z = core.step(x[:, 0], state, resets), core.step(x[:, 0], broken, resets)
    torch.testing.assert_close(y, z)
    same_state(state, broken)


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_crosses_a_reset(name):
    core = core_of(name)
    x, resets = inputs(0, resets=False)
    resets[:, 20] = True
    x.requires_grad_(True)
    core(x, fresh(core), resets).y[:, 20:].sum().backward()
    assert x.grad[:, :20].abs().max() == 0
    assert x.grad[:, 20:].abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_the_others(name):
    core = core_of(name).eval()
    x, resets = inputs(1)
    other = x.clone()
    other[0] += 1.0
    with torch.no_grad():
        y, _ = in_pieces(core, x, resets, [10])
        z, _ = in_pieces(core, other, resets, [10])
    torch.testing.assert_close(y[1:], z[1:], rtol=0, atol=0)
    assert (y[0] - z[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_state_is_detached_plain_and_empty_at_first(name):
    core = core_of(name)
    state = fresh(core)
    assert all(value.shape[0] == B and not value.any() for value in state.values())
    x, resets = inputs(2)
    out = core(x, state, resets)
    assert out.state.keys() == state.keys()
    assert not any(value.requires_grad for value in out.state.values())
    assert all(not value.any() for value in state.values()), "a call must not write its input state"


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_are_named(name):
    core = core_of(name)
    x, resets = inputs(3)
    state = fresh(core)
    for wrong, words in [
        ((x[..., :-1], state, resets), "expected floating point"),
        ((x, state, resets.long()), "expected bool"),
        ((x, state, resets[:, :-1]), "expected bool"),
        ((x[:-1], state, resets[:-1]), "use this core's initial_state"),
        ((x, {}, resets), "use this core's initial_state"),
        ((x[:, :0], state, resets[:, :0]), "no step: give at least one"),
        ((x.float(), state, resets), "x is torch.float32, this core torch.float64"),
        ((x, core.float().initial_state(B), resets), "convert"),
    ]:
        core.double()
        if words == "convert" and not any(x.is_floating_point() for x in state.values()):
            continue  # a state of counters has no other dtype
        with pytest.raises(ValueError, match=words):
            core(*wrong)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_lengths_of_rows_that_are_filled_up_are_named(name):
    core, (x, _) = core_of(name), inputs(3)
    whole = torch.full((B,), T)
    for lengths, words in [
        (whole.float(), "expected int32 or int64"),
        (whole[:-1], "expected int32 or int64"),
        ([T] * B, "expected int32 or int64"),
        (whole.to("meta"), "lengths is on meta and x on cpu"),
        (whole - T, f"go from 0 to 0, expected 1 to {T}"),
        (torch.cat([whole[1:], whole[:1] + 1]), f"go from {T} to {T + 1}, expected 1 to {T}"),
    ]:
        with pytest.raises(ValueError, match=words):
            core.read_filled(x, fresh(core), lengths)
    core.read_filled(x, fresh(core), whole.int())


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_of_a_step_are_named(name):
    core = core_of(name)
    x, state = inputs(3)[0][:, 0], fresh(core)
    before = {key: value.clone() for key, value in state.items()}
    for wrong, words in [
        ((x[:, :-1], state), "expected floating point"),
        ((x.float(), state), "x is torch.float32, this core torch.float64"),
        ((x, state, torch.zeros(B)), "expected bool"),
        ((x.to("meta"), state), "x is on meta and the core on cpu"),
        ((x[:1], state), rf"is of {B} rows.*initial_state\(1\)"),
        ((x, {}), f"is absent, expected one for {B} rows"),
    ]:
        with pytest.raises(ValueError, match=words):
            core.step(*wrong)
    torch.testing.assert_close(state, before, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_state_that_is_not_finite_is_named(name, bad):
    core = core_of(name)
    x, resets = inputs(3)
    for key, value in fresh(core).items():
        if value.is_floating_point():
            state = fresh(core)
            state[key].view(-1)[1] = bad
            with pytest.raises(ValueError, match=f"state '{key}' holds NaN or infinity"):
                core(x, state, resets)
            with torch.no_grad(), pytest.raises(ValueError, match="NaN"):
                core(x[:, :1], state, resets[:, :1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("compiling", [False, True])
def test_a_row_that_begins_anew_may_hold_anything(monkeypatch, name, bad, compiling):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    core = core_of(name).eval()
    x = inputs(3)[0]
    resets = torch.zeros(x.shape[:2], dtype=torch.bool)
    resets[0, 0] = True
    wanted = core(x, fresh(core), resets)
    state = fresh(core)
    for value in state.values():
        if value.is_floating_point():
            value[0] = bad
    before = {key: value.clone() for key, value in state.items()}
    out = core(x, state, resets)
    torch.testing.assert_close(out.y, wanted.y, rtol=0, atol=0)
    torch.testing.assert_close(out.state, wanted.state, rtol=0, atol=0)
    torch.testing.assert_close(state, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_tensor_and_no_row_is_named(name):
    core = core_of(name)
    x, resets = inputs(3)
    for wrong, words in [
        ((x.numpy(), fresh(core), resets), "numpy.ndarray float64"),
        ((x, fresh(core), resets.numpy()), "numpy.ndarray bool"),
        ((x, {key: value.numpy() for key, value in fresh(core).items()}, resets), "a torch tensor"),
        ((x, None, resets), "the state is NoneType"),
        ((x[:0], core.initial_state(0), resets[:0]), "no row: give at least one"),
    ]:
        with pytest.raises(ValueError, match=words):
            core(*wrong)
        with pytest.raises(ValueError, match=words):
            one = [part[:, 0] if hasattr(part, "dtype") else part for part in wrong]
            core.step(*one)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_keeps_its_dtype_under_autocast(name):
    core = core_of(name).float()
    x = inputs(3)[0].float()
    with torch.autocast("cpu", torch.bfloat16):
        state = core(x, core.initial_state(B)).state
        core.step(x[:, 0], state)
        core(x, state)
    assert {k: v.dtype for k, v in state.items()} == {
        k: v.dtype for k, v in core.initial_state(B).items()
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_a_core_of_halves_is_near_that_of_the_same_numbers(name, dtype):
    cores = [core_of(name)]
    if name == "linear":
        cores.append(build_memory(name, d_model=D, cell="lru"))
    for core in cores:
        core.train().to(dtype)
        x, resets = inputs(0)
        x = x.to(dtype)
        out = core(x, core.initial_state(B), resets)
        wide = copy.deepcopy(core).float()
        wanted = wide(x.float(), wide.initial_state(B), resets)
        assert (out.y - wanted.y).abs().mean() < 0.05 * wanted.y.abs().mean()
        for key, loss in out.losses.items():
            assert loss.item() == pytest.approx(wanted.losses[key].item(), rel=0.05)
        assert core.step(x[:, 0], out.state).dtype == dtype
        assert all(part.dtype in (dtype, torch.long) for part in out.state.values())


def test_a_large_state_of_halves_is_finite():
    core = core_of("gru").half()
    state = {key: torch.full_like(value, 6e4) for key, value in core.initial_state(B).items()}
    core(inputs(3)[0].half(), state)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_on_other_devices_are_named(name):
    core = core_of(name)
    x, resets = inputs(3)
    with pytest.raises(ValueError, match="x is on meta and the core on cpu"):
        core(x.to("meta"), fresh(core), resets.to("meta"))
    with pytest.raises(ValueError, match="resets is on meta and x on cpu"):
        core(x, fresh(core), resets.to("meta"))
    with pytest.raises(ValueError, match="is on meta and the core on cpu"):
        core(x, {key: value.to("meta") for key, value in fresh(core).items()}, resets)


@pytest.mark.parametrize("steps", [2**20, 3 * 10**9])
def test_an_episode_of_billions_of_steps_is_like_any_other(steps):
    """Sizes divide `steps`, so the ring places and phases are those of an episode that much shorter."""
    core = core_of("compressive", (4, 8, 4, 2)).eval()
    steps -= steps % 48
    x, resets = inputs(0)
    with torch.no_grad():
        begun = core(x, fresh(core), torch.zeros_like(resets)).state
        later = {**begun, "steps": begun["steps"] + steps}
        y, end = in_pieces(core, x, resets, [7], begun)
        z, late = in_pieces(core, x, resets, [7], later)
    torch.testing.assert_close(z, y)
    torch.testing.assert_close(late["past"], end["past"])


@pytest.mark.parametrize("name", NAMES)
def test_float32_keeps_the_law_too(name):
    core = core_of(name).float().eval()
    x, resets = inputs(4)
    x = x.float()
    with torch.no_grad():
        whole = core(x, core.initial_state(B), resets).y
    y, _ = in_steps(core, x, resets, core.initial_state(B))
    # Of what float32 can tell apart in numbers of this size, through two layers and 45 steps.
    assert (y - whole).abs().max() < 1e-5 * whole.abs().max()


def test_bad_names_and_sizes_say_what_to_use():
    with pytest.raises(ValueError, match=r"unknown memory 'compresive': choose one of compressive"):
        build_memory("compresive")
    with pytest.raises(
        ValueError, match=r"'compressive' has no option 'rat' \(did you mean 'rate'"
    ):
        build_memory("compressive", rat=4)
    with pytest.raises(
        ValueError, match="'lstm' has no option 'rate': its options are d_model, hidden"
    ):
        build_memory("lstm", rate=4)
    with pytest.raises(ValueError, match="rate=0: expected a whole number of at least 1"):
        build_memory("compressive", rate=0)
    for odd in (True, 4.0, "4", 10**9, None):
        with pytest.raises(ValueError, match=r"rate=.*: expected a whole number"):
            build_memory("compressive", rate=odd)
    with pytest.raises(ValueError, match="memory=10 is no multiple of rate=4: use memory=8 or 12"):
        build_memory("compressive", memory=10, rate=4)
    with pytest.raises(ValueError, match="n_heads"):
        build_memory("compressive", d_model=10, n_heads=4)
    for options, words in [
        ({"norm": "both"}, "norm='both': expected one of pre, post"),
        ({"compression": "cnov"}, "unknown compression 'cnov': choose one of conv, dilated"),
        ({"dropout": 1.0}, "dropout=1.0: expected a number of at least 0 and below 1"),
        ({"dropout": float("nan")}, "dropout=nan: expected a number"),
        ({"overflow": "merge", "rate": 1}, "rate=1 frees no slot: use rate=2 or more"),
        ({"overflow": "merge", "compressed": 3}, "use compressed=4 or more"),
        ({"overflow": "keep"}, "overflow='keep': expected one of drop, merge"),
        ({"slot_positions": "clock"}, "slot_positions='clock': expected one of order"),
        ({"compression": "most_used", "overflow": "merge"}, "use overflow='drop'"),
        ({"overflow": "merge", "mask_empty": False}, "use mask_empty=True"),
    ]:
        with pytest.raises(ValueError, match=words):
            build_memory("compressive", **options)
