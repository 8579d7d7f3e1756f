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


@pytest.mark.parametrize("head", [0, 24])
@pytest.mark.parametrize("around", [False, True])
def test_learning_starts_from_a_uniform_policy_and_zero_values(head, around):
    net = network(head=head, around=around)
    out = net(torch.randn(2, 4, 3), net.initial_state(2))
    assert out.policy.shape == (2, 4, 5) and out.value.shape == (2, 4)
    assert not out.policy.any() and not out.value.any()


def test_a_hidden_head_multiplies_what_a_linear_one_adds():
    def mixed(head):
        """What memory and sight do together beyond what each does alone."""
        net = network(head=head)
        torch.nn.init.normal_(net.value.weight)
        memory, sight = torch.randn(2, 2, net.core.d_out), torch.randn(2, 2, 256)
        y = [torch.cat([memory[i], sight[j]], -1) for i in (0, 1) for j in (0, 1)]
        value = [net.value(net.head(x)) for x in y]
        return (value[0] - value[1] - value[2] + value[3]).abs().max().item()

    assert mixed(0) < 1e-4 < 1e-1 < mixed(24)
