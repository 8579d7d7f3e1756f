"""The actor-critic around a memory: where memory and sight meet, and where learning starts from."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents import ActorCritic

OBS, ACTIONS = gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Discrete(5)


def network(**settings):
    torch.manual_seed(0)
    return ActorCritic(OBS, ACTIONS, memory="gru", memory_options={"d_model": 16}, **settings)


@pytest.mark.parametrize("bilinear", [0, 8])
@pytest.mark.parametrize("head", [0, 24])
@pytest.mark.parametrize("around", [False, True])
def test_learning_starts_from_a_uniform_policy_and_zero_values(head, around, bilinear):
    net = network(head=head, around=around, bilinear=bilinear)
    out = net(torch.randn(2, 4, 3), net.initial_state(2))
    assert out.policy.shape == (2, 4, 5) and out.value.shape == (2, 4)
    assert not out.policy.any() and not out.value.any()


def together(**settings):
    """What memory and sight do to a value together beyond what each does alone."""
    net = network(**settings)
    torch.nn.init.normal_(net.value.weight)
    memory, sight = torch.randn(2, net.core.d_out), torch.randn(2, 256)
    value = {
        (i, j): net._heads(memory[i : i + 1], sight[j : j + 1], sight)[1]
        for i in (0, 1)
        for j in (0, 1)
    }
    return (value[0, 0] - value[0, 1] - value[1, 0] + value[1, 1]).abs().max().item()


@pytest.mark.parametrize("multiplied", [{"head": 24}, {"bilinear": 8}, {"bilinear": 8, "head": 24}])
def test_a_hidden_head_or_products_multiply_what_a_linear_head_adds(multiplied):
    assert together() < 1e-5 < 1e-2 < together(**multiplied)


def test_products_are_those_of_memory_and_sight_around_the_memory_or_not():
    net = network(bilinear=8, around=False)
    torch.nn.init.normal_(net.value.weight)
    y, sight = torch.randn(3, net.core.d_out), torch.randn(3, 256)
    held = net.norm(y)
    naive = torch.cat([held, net.held(held) * net.seen(sight)], -1)
    torch.testing.assert_close(net._heads(y, sight, sight)[1], net.value(naive).squeeze(-1))


def test_a_step_under_autocast_takes_halves_for_the_encoder_alone():
    net, obs = network(), torch.randn(4, 3)
    torch.nn.init.normal_(net.policy.weight)
    state, plain = net.initial_state(4), net.initial_state(4)
    with torch.autocast("cpu", torch.bfloat16):
        policy, value = net.step(obs, state)
        features = net.encoder(obs)
    assert features.dtype == torch.bfloat16
    with torch.no_grad():
        y = net.core.step(net.inlet(features.float()), plain)
        expected = net._heads(y, features, obs)
    for made, right in zip(
        (policy, value, *state.values()), (*expected, *plain.values()), strict=True
    ):
        assert made.dtype == right.dtype and torch.equal(made, right)


def test_a_step_runs_on_a_device_without_autocast():
    net = network().to("meta")
    policy, value = net.step(torch.zeros(4, 3, device="meta"), net.initial_state(4))
    assert policy.shape == (4, 5) and value.shape == (4,)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"width": 0}, "width=0: expected a whole number of at least 1"),
        ({"head": -1}, "head=-1: expected"),
        ({"bilinear": 1.5}, "bilinear=1.5: expected"),
        ({"crop": 3}, "crop 3: give rows and columns"),
    ],
)
def test_sizes_and_parts_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        ActorCritic(gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2), memory="gru", **wrong)
