"""What an evaluation says of a memory: shares of attention sum to one, losses only where something was compressed."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents import ActorCritic
from ct_rl.memory_attention import BUCKETS, attention_of_episode


class Falling:
    """One world whose episodes have `length` steps."""

    num_envs, metadata = 1, {}

    def __init__(self, length):
        self.length, self.t, self.seeds = length, 0, None

    def reset(self, seed):
        self.seeds = seed
        return np.zeros((1, 1), np.float32), {}

    def step(self, actions):
        self.t += 1
        over = np.array([self.t == self.length])
        return np.full((1, 1), self.t, np.float32), np.ones(1), over, np.zeros(1, bool), {}


def network(kind, **options):
    torch.manual_seed(0)
    space = gym.spaces.Box(-1000, 1000, (1,), np.float32)
    return ActorCritic(space, gym.spaces.Discrete(2), memory=kind, width=4,
                       memory_options=options).eval()  # fmt: skip


SMALL = {"d_model": 8, "n_layers": 2, "n_heads": 2, "window": 4, "memory": 6, "compressed": 6,
         "rate": 2, "dropout": 0.5}  # fmt: skip


def test_an_episode_tells_where_each_layer_looked_and_what_it_lost():
    net, env = network("compressive", **SMALL), Falling(300)
    seen = attention_of_episode(net, env, seed=3, greedy=True)
    assert env.t == 300 and len(env.seeds) == 1
    assert np.shape(seen["buckets"]) == (2, 3 * BUCKETS)
    assert np.sum(seen["shares"], 1) == pytest.approx([1, 1], abs=1e-5)
    assert np.min(seen["shares"]) > 0
    assert len(seen["compression_loss"]) == 2 and min(seen["compression_loss"]) > 0
    again = attention_of_episode(net, Falling(300), seed=3, greedy=True)
    assert again == seen  # dropout is off though the loss is of training mode
    assert not net.training and not net.core.training and not net.inlet._forward_hooks


def test_an_episode_in_which_nothing_was_compressed_has_no_loss():
    seen = attention_of_episode(network("compressive", **SMALL), Falling(5), seed=0, greedy=False)
    assert "compression_loss" not in seen
    assert np.array(seen["shares"])[:, 0] == pytest.approx([0, 0])


def test_a_memory_without_attention_has_nothing_to_show():
    assert (
        attention_of_episode(network("gru", d_model=4, hidden=4), None, seed=0, greedy=True) == {}
    )
