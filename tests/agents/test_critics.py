"""A value as a number or as a distribution: what its errors are, and that every learner uses them."""

import itertools
import math
import re

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents import ActorCritic
from agents.critics import Number, TwoHot
from agents.rllib.module import MemoryRLModule
from agents.rllib.old_stack import MemoryModelV2
from tests.agents.conftest import CONFIGS
from tests.agents.test_impala import train_until
from tests.agents.test_stock import refusal, stock_config

TARGETS = [0.0, 1.0, -1.0, 0.3, -7.25, 66.0, 1e4, -3e6, 1e9, -1e9]


def two_hot(places, target):
    """A target's weights over the places, one at a time."""
    weights = [0.0] * len(places)
    target = min(max(target, places[0]), places[-1])
    for k, (low, high) in enumerate(itertools.pairwise(places)):
        if low <= target <= high:
            weights[k] = (high - target) / (high - low)
            weights[k + 1] = (target - low) / (high - low)
            break
    return weights


def test_a_number_has_squared_errors():
    critic, targets = Number(), torch.tensor([[1.0, -2.0]])
    estimate = torch.tensor([[[0.5], [2.0]]])
    torch.testing.assert_close(critic.value(estimate), estimate[..., 0])
    torch.testing.assert_close(critic.errors(estimate, targets), torch.tensor([[0.25, 16.0]]))


@pytest.mark.parametrize("bins", [3, 11, 255])
def test_errors_are_cross_entropies_to_the_two_places_around_a_target(bins):
    critic = TwoHot(bins).double()
    places = critic.places.tolist()
    assert places[bins // 2] == 0 and places[-1] == -places[0] == pytest.approx(
        math.expm1(20.0), rel=1e-5
    )
    torch.manual_seed(0)
    estimate = torch.randn(len(TARGETS), bins, dtype=torch.float64, requires_grad=True)
    errors = critic.errors(estimate, torch.tensor(TARGETS))
    log_p = torch.log_softmax(estimate, -1)
    naive = [
        -sum(w * log_p[row, k] for k, w in enumerate(two_hot(places, target)))
        for row, target in enumerate(TARGETS)
    ]
    torch.testing.assert_close(errors, torch.stack(naive))
    # The gradient leads to the target's own weights, and those have the target as their mean.
    (gradient,) = torch.autograd.grad(errors.sum(), estimate)
    weights = torch.tensor([two_hot(places, t) for t in TARGETS], dtype=torch.float64)
    torch.testing.assert_close(gradient, log_p.exp().detach() - weights)
    within = torch.tensor(TARGETS, dtype=torch.float64).clamp(places[0], places[-1])
    torch.testing.assert_close(critic.value(weights.log()), within)


def test_a_network_starts_at_zero_values_to_the_last_bit():
    space, actions = gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Discrete(5)
    net = ActorCritic(space, actions, memory="gru", memory_options={"d_model": 16}, value_bins=255)
    out = net(torch.randn(2, 4, 3), net.initial_state(2))
    assert out.estimate.shape == (2, 4, 255) and out.value.shape == (2, 4) and not out.value.any()
    torch.nn.init.normal_(net.double().value.weight)  # values of 1e8: float32 would hide the rest
    state = net.initial_state(2)
    sight = torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(
        net.step(sight, net.initial_state(2))[1], net(sight[:, None], state).value[:, 0]
    )
    assert not any("critic" in key for key in net.state_dict())


@pytest.mark.parametrize("bins", [-1, 1, 2, 10])
def test_an_even_number_of_places_is_refused(bins):
    with pytest.raises(ValueError, match=rf"value_bins={bins}: give 0 .* odd number from 3"):
        ActorCritic(
            gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2), memory="gru", value_bins=bins
        )


@pytest.mark.parametrize("algorithm", CONFIGS)
def test_every_algorithm_learns_the_distribution(build, algorithm):
    """A uniform distribution over n places is log(n) away from every target."""
    algo = build(algorithm=algorithm, lr=0.0, runners=0, network={"value_bins": 11})
    report = train_until(algo, lambda r: "value_loss" in r)
    half = 1.0 if algorithm == "ppo" else 0.5
    assert report["value_loss"] == pytest.approx(half * math.log(11), rel=1e-5)


@pytest.mark.parametrize(
    ("setting", "said"),
    [({"value_bins": 11}, "value_bins=11"), ({"reward_clip": "unit"}, "reward_clip='unit'")],
    ids=str,
)
def test_rllibs_own_learners_refuse_what_they_would_ignore(setting, said):
    said = re.escape(said) + " needs a learner of agents"
    assert re.search(said, refusal(stock_config("impala", "lstm", **setting)))
    box, two = gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Discrete(2)
    with pytest.raises(ValueError, match=said):
        MemoryModelV2(box, two, 2, {}, "model", memory="gru", **setting)
    settings = {"memory": "gru", "memory_options": {"d_model": 8}, **setting}
    module = MemoryRLModule(observation_space=box, action_space=two, model_config=settings)
    state = module.net.initial_state(1)
    with pytest.raises(ValueError, match=said):
        module.forward_train({"obs": torch.zeros(1, 1, 3), "state_in": state})
