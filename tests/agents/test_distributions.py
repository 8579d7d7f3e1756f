"""Distributions of actions, with masks and without, against torch's own and by counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.distributions import distribution, for_env, has_mask, masked, parameter_count

SPACES = {
    "discrete": (spaces.Discrete(5, start=2), [5]),
    "multi-discrete": (spaces.MultiDiscrete([2, 3, 4]), [2, 3, 4]),
}


def logits_and_masks(sizes, seed, rows=6):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, sum(sizes), generator=rng, dtype=torch.float64) * 5
    mask = torch.rand(rows, sum(sizes), generator=rng) < 0.5
    for part in mask.split(sizes, -1):
        part[:, 0] |= ~part.any(-1)  # something is allowed
    return logits, mask


def reference(logits, mask, sizes):
    """torch's Categoricals over the allowed actions alone, with their indices: [row][choice]."""
    return [
        [
            (part_mask[i].nonzero()[:, 0], torch.distributions.Categorical(logits=part[i][part_mask[i]]))
            for part, part_mask in zip(logits.split(sizes, -1), mask.split(sizes, -1), strict=True)
        ]
        for i in range(len(logits))
    ]  # fmt: skip


@pytest.mark.parametrize(("space", "sizes"), SPACES.values(), ids=SPACES)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_masked_policy_is_the_policy_over_what_is_allowed(space, sizes, seed):
    logits, mask = logits_and_masks(sizes, seed)
    other, _ = logits_and_masks(sizes, seed + 1)
    one, two = distribution(space, logits, mask), distribution(space, other, mask.int())
    true, true_two = reference(logits, mask, sizes), reference(other, mask, sizes)
    entropy = torch.stack([sum(part.entropy() for _, part in row) for row in true])
    torch.testing.assert_close(one.entropy(), entropy)
    kl = torch.stack(
        [
            sum(
                torch.distributions.kl_divergence(a, b)
                for (_, a), (_, b) in zip(row, row_two, strict=True)
            )
            for row, row_two in zip(true, true_two, strict=True)
        ]
    )
    torch.testing.assert_close(one.kl(two), kl)
    action = one.sample(torch.Generator().manual_seed(seed))
    actions = action.reshape(len(action), -1)
    for i, row in enumerate(true):
        for j, (index, part) in enumerate(row):
            assert (
                actions[i, j] in index
                and one.mode().reshape(len(action), -1)[i, j] == index[part.probs.argmax()]
            )
    expected = torch.stack(
        [
            sum(
                part.log_prob((index == actions[i, j]).nonzero()[0, 0])
                for j, (index, part) in enumerate(row)
            )
            for i, row in enumerate(true)
        ]
    )
    torch.testing.assert_close(one.log_prob(action), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_forbidden_actions_are_never_drawn_and_everything_stays_finite(dtype):
    space = spaces.MultiDiscrete([3, 2])
    logits = torch.tensor([100.0, -100.0, 0.0, 50.0, -50.0]).to(dtype).expand(4000, 5)
    logits = logits.clone().requires_grad_()
    mask = torch.tensor([0, 1, 1, 0, 1], dtype=torch.int8).expand(4000, 5)
    policy = distribution(space, logits, mask)
    drawn = policy.sample(torch.Generator().manual_seed(0))
    assert (drawn[:, 0] > 0).all() and (drawn[:, 1] == 1).all()
    forbidden = policy.log_prob(torch.zeros(4000, 2, dtype=torch.int64))
    assert (forbidden < -1e8).all() and forbidden.isfinite().all() and (forbidden.exp() == 0).all()
    (policy.entropy() + policy.log_prob(drawn) + policy.kl(policy)).sum().backward()
    assert logits.grad.isfinite().all() and not logits.grad[:, [0, 3]].any()


def test_where_nothing_is_allowed_everything_is():
    space = spaces.MultiDiscrete([2, 3])
    logits = torch.randn(2, 5)
    mask = torch.tensor([[0, 0, 0, 1, 0], [0, 0, 0, 0, 0]])
    seen = masked(space, logits, mask)
    assert torch.equal(seen[:, :2], logits[:, :2]) and torch.equal(seen[1], logits[1])
    assert (seen[0, 2:] > -1e8).tolist() == [False, True, False]


def test_a_mask_of_another_size_or_of_a_box_is_refused_in_a_line():
    with pytest.raises(ValueError, match=r"a mask of shape \[1, 3\] for parameters \[1, 4\]"):
        masked(spaces.Discrete(4), torch.zeros(1, 4), torch.ones(1, 3))
    with pytest.raises(ValueError, match="only Discrete and MultiDiscrete"):
        masked(spaces.Box(0, 1, (2,)), torch.zeros(1, 4), torch.ones(1, 4))


def test_everything_allowed_changes_nothing():
    for space, sizes in SPACES.values():
        logits, _ = logits_and_masks(sizes, 3)
        assert torch.equal(masked(space, logits, torch.ones_like(logits)), logits)


def test_a_learner_learns_among_what_is_allowed():
    """The best action is forbidden: the second one is taken, with all probability."""
    space, logits = spaces.Discrete(4), torch.zeros(1, 4, requires_grad=True)
    mask, worth = torch.tensor([[0, 1, 1, 1]]), torch.tensor([10.0, 1.0, 2.0, 0.0])
    optimiser = torch.optim.Adam([logits], 0.1)
    for _ in range(150):
        policy = distribution(space, logits, mask)
        optimiser.zero_grad()
        (-(policy.log_p.exp() * worth).sum() - 0.01 * policy.entropy().sum()).backward()
        optimiser.step()
    policy = distribution(space, logits, mask)
    assert policy.mode().item() == 2 and policy.log_p.exp()[0, 2] > 0.95
    assert logits[0, 0] == 0


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (spaces.Box(0, 1000, (2,)), [-1, 0.5], [0, 750]),
        (spaces.Box(-2, 4, (2,)), [9, -9], [4, -2]),
        (spaces.Box(0, 5, (2,), np.int32), [0.1, 0.9], [3, 5]),
        (spaces.Box(-1e308, 1e308, (2,), np.float64), [1, 0], [1e308, 0]),
        (spaces.Box(0, np.inf, (2,)), [-3, 3], [0, 3]),
        (spaces.Discrete(3, start=-1), 2, 1),
        (spaces.MultiDiscrete([2, 2], start=[4, 0]), [1, 1], [5, 1]),
    ],
    ids=str,
)
def test_a_policys_action_reaches_the_environment_in_its_units(space, action, expected):
    action = np.asarray(action)
    given = for_env(space, action)
    assert given == pytest.approx(expected) and space.contains(np.asarray(given, space.dtype))
    batch = for_env(space, np.stack([action, action]))
    assert np.array_equal(batch[0], given) and np.array_equal(batch[1], given)


@pytest.mark.parametrize(
    "space", [spaces.MultiBinary(3), spaces.MultiDiscrete([[2, 3], [4, 2]])], ids=str
)
def test_a_space_that_no_policy_has_is_refused(space):
    with pytest.raises(ValueError, match="no policy for actions of"):
        parameter_count(space)


@pytest.mark.parametrize(
    ("mask", "action", "expected"),
    [
        (spaces.MultiBinary(3), spaces.Discrete(3), True),
        (spaces.Box(0, 1, (5,), np.int8), spaces.MultiDiscrete([2, 3]), True),
        (spaces.MultiBinary(4), spaces.Discrete(3), False),
        (spaces.MultiBinary(2), spaces.Box(-1, 1, (1,)), False),
    ],
)
def test_a_mask_is_known_by_its_name_and_size(mask, action, expected):
    assert has_mask(spaces.Dict(action_mask=mask), action) is expected
    assert not has_mask(mask, action) and not has_mask(spaces.Dict(mask=mask), action)
