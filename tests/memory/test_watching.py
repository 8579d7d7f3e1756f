"""`watched_step`: the weights that a step acted with, and which steps of the episode stand behind them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ct_rl.memory import build_memory, memory_names
from ct_rl.memory.compressive.authors import AuthorsCore
from ct_rl.memory.compressive.places import places
from tests.memory import naive
from tests.memory.test_compressive import SIZES as SOME_SIZES
from tests.memory.test_laws import OPTIONS, SIZES, D, core_of, core_with, fresh, inputs, same_state

ATTENDING = ("compressive", "transformer_xl", "gtrxl")


def watched(core, x, resets):
    """Every step's state before it and attention, and the outputs and the last state."""
    state, before, seen, y = fresh(core), [], [], []
    for t in range(x.shape[1]):
        before.append({key: value.clone() for key, value in state.items()})
        out, attention = core.watched_step(x[:, t], state, resets[:, t])
        seen.append(attention)
        y.append(out)
    return before, seen, torch.stack(y, 1), state


@settings(max_examples=15, deadline=None)
@given(SIZES, OPTIONS, st.integers(0, 99))
def test_watching_changes_nothing_and_a_heads_weights_sum_to_one(sizes, chosen, seed):
    core = core_with(sizes, chosen).eval()
    x, resets = inputs(seed)
    x, resets = x[:, :25], resets[:, :25]
    _, seen, y, state = watched(core, x, resets)
    acted = fresh(core)
    for t in range(25):
        assert torch.equal(core.step(x[:, t], acted, resets[:, t]), y[:, t])
    same_state(acted, state)
    for attention in seen:
        total = attention.weights.sum(3) + attention.empty
        torch.testing.assert_close(total, torch.ones_like(total))
        shares = attention.compressed + attention.memory + attention.window + attention.empty
        torch.testing.assert_close(shares, total)
        assert (attention.weights >= 0).all() and (attention.empty >= 0).all()
        assert not attention.weights.mul(~attention.there[:, None, None]).any()
        assert attention.empty.any() <= (not core.sizes.mask_empty)


@pytest.mark.parametrize(
    ("sizes", "more"),
    [
        *((sizes, {}) for sizes in SOME_SIZES),
        ((4, 8, 5, 2), {"compression": "dilated", "slot_positions": "time", "norm": "post"}),
        ((4, 8, 5, 2), {"compression": "most_used"}),
        ((2, 4, 9, 2), {"overflow": "merge", "gate": "gru"}),
        ((3, 3, 4, 3), {"overflow": "merge", "slot_positions": "time"}),
        ((4, 3, 3, 2), {"mask_empty": False}),
    ],
)
def test_weights_and_spans_are_those_of_the_naive_twin(sizes, more):
    core = core_of("compressive", sizes, **more).eval()
    x, resets = inputs(3)
    resets[:] = False  # the twin keeps what the last episode's steps have seen
    x, resets = x[:2, :25], resets[:2, :25]
    state = {key: value[:2] for key, value in fresh(core).items()}
    twin = naive.forward(core, x, resets)
    for t in range(25):
        _, attention = core.watched_step(x[:, t], state, resets[:, t])
        for b, memories in enumerate(twin.memories):
            for i, memory in enumerate(memories):
                ours = {}
                for n in range(attention.first.shape[1]):
                    if attention.there[b, n]:
                        slot = n < core.sizes.compressed
                        span = (slot, int(attention.first[b, n]), int(attention.last[b, n]))
                        ours.setdefault(span, []).append(attention.weights[b, i, :, n])
                its = {}
                filled = [item for item in memory.looked[t] if item[2] >= 0]
                for slot, first, last, weight in filled:
                    if slot and core.by_usage:  # which of the block's steps, only the twin knows
                        first, last = block(core.sizes, first)
                    its.setdefault((slot, first, last), []).append(weight)
                assert ours.keys() == its.keys()
                for span, weights in its.items():
                    torch.testing.assert_close(sum(ours[span]), sum(weights))
                unfilled = [item[3] for item in memory.looked[t] if item[2] < 0]
                total = sum(unfilled, torch.zeros_like(attention.empty[b, i]))
                torch.testing.assert_close(attention.empty[b, i], total)


def block(sizes, step):
    """The steps that left the memory together with `step`, by counting."""
    bound = -sizes.memory
    while not bound <= step < bound + sizes.window:
        bound += sizes.window
    return max(bound, 0), bound + sizes.window - 1


@settings(max_examples=25, deadline=None)
@given(
    SIZES, st.sampled_from(["max", "most_used"]), st.booleans(), st.booleans(), st.integers(0, 99)
)
def test_a_place_holds_what_its_span_says_across_compressions_and_resets(
    sizes, compression, merge, masked, seed
):
    """The maximum of maxima is the maximum of all steps that a slot covers, however often it was merged."""
    chosen = {"compression": compression, "mask_empty": masked}
    core = core_with(sizes, {**chosen, "overflow": "merge" if merge else "drop"}).eval()
    x, resets = inputs(seed)
    inside = core.layers[0].attended(x)  # what the first layer remembers of each step
    before, seen, _, _ = watched(core, x, resets)
    checked = 0
    for b in range(len(x)):
        start = 0
        for t in range(x.shape[1]):
            if resets[b, t]:
                start = t
            where = places(core.sizes, torch.tensor([t - start]), core.by_usage)
            assert torch.equal(where.first[0], seen[t].first[b])
            assert torch.equal(where.last[0], seen[t].last[b])
            assert int(seen[t].step[b]) == t - start
            spans = zip(
                where.ring[0].tolist(), where.first[0].tolist(), where.last[0].tolist(), strict=True
            )
            for place, (ring, first, last) in enumerate(spans):
                assert (ring < 0) == (first < 0) == (last < 0)
                if ring < 0 or first == last == t - start:
                    continue
                assert 0 <= first <= last < t - start
                held = before[t]["past"][b, 0, ring]
                steps = inside[b, start + first : start + last + 1]
                if place >= core.sizes.compressed or not core.by_usage:
                    if not masked and first == 0 and place < core.sizes.compressed:
                        steps = padded(core.sizes, steps)
                    assert torch.equal(held, steps.amax(0))
                else:
                    assert (held == steps).all(1).any()
                checked += 1
    assert checked > 100


def padded(sizes, steps):
    """An unmasked memory's first slot is made of zeros too, where memory is no multiple of the rate."""
    if not sizes.padding:
        return steps
    return torch.cat([steps, torch.zeros_like(steps[:1])])


@pytest.mark.parametrize("name", ATTENDING)
def test_a_steps_attention_is_that_of_a_call_of_length_one(name):
    core = core_of(name, (4, 6, 3, 2)).eval()
    x, resets = inputs(5)
    before, seen, _, _ = watched(core, x, resets)
    for t, attention in enumerate(seen):
        report = core(x[:, t : t + 1], before[t], resets[:, t : t + 1], attention=True).attention
        both = torch.cat([report.by_slot, report.by_step], 2)
        torch.testing.assert_close(attention.weights.mean(0), both)


@pytest.mark.parametrize("name", ATTENDING)
def test_a_masked_place_gets_no_weight_and_the_rest_all_of_it(name):
    core = core_of(name).eval()
    x, resets = inputs(7, resets=False)
    before, seen, y, _ = watched(core, x, resets)
    t = 40
    there = seen[t].there
    masked = there.clone()
    masked[:, 1::2] = False
    masked[:, -core.sizes.window :] = False  # its own step stays
    out, attention = core.watched_step(x[:, t], before[t], resets[:, t], masked)
    assert not attention.weights.mul(masked[:, None, None]).any()
    total = attention.weights.sum(3)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert (out != y[:, t]).any()
    rest = seen[t].weights[:, 0] * ~masked[:, None]  # in the first layer nothing else changes
    torch.testing.assert_close(attention.weights[:, 0], rest / rest.sum(2, keepdim=True))


def test_a_step_always_reads_itself_and_a_mask_of_another_shape_is_refused():
    core = core_of("compressive").eval()
    x, resets = inputs(7, resets=False)
    before, seen, _, _ = watched(core, x, resets)
    state = before[30]
    everything = torch.ones_like(seen[30].there)
    with pytest.raises(
        ValueError, match=r"masked is torch.bool \[3, 16\], expected bool \[3, 17\]"
    ):
        core.watched_step(x[:, 30], state, resets[:, 30], everything[:, 1:])
    _, attention = core.watched_step(x[:, 30], state, resets[:, 30], everything)
    own = attention.first == 30
    assert own.sum() == 3
    weights = attention.weights.sum((1, 2))
    assert not weights[~own].any() and (weights[own] == 4).all()  # 2 layers of 2 heads


def test_a_core_of_the_authors_is_watched_too():
    core = AuthorsCore(core_of("compressive"), d_in=5, d_out=3, loss=False).double().eval()
    x = torch.randn(12, 2, 5, dtype=torch.float64)
    acted, state = core.initial_state(2), core.initial_state(2)
    for x_t in x:
        y, attention = core.watched_step(x_t, state)
        assert torch.equal(y, core.step(x_t, acted)) and attention.weights.shape == (2, 2, 2, 17)


@pytest.mark.parametrize("name", sorted({*memory_names()} - {*ATTENDING}))
def test_a_memory_without_attention_steps_and_says_so(name):
    core = build_memory(name, d_model=D).double().eval()
    x, resets = inputs(1)
    state, acted = fresh(core), fresh(core)
    y, attention = core.watched_step(x[:, 0], state, resets[:, 0])
    assert attention is None and torch.equal(y, core.step(x[:, 0], acted, resets[:, 0]))
    with pytest.raises(ValueError, match="does not attend: there is no place to mask"):
        core.watched_step(x[:, 1], state, resets[:, 1], torch.zeros(3, 1, dtype=torch.bool))
