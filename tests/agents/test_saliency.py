"""Saliency of memory against a loop over single places, and watching an actor-critic act."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents import ActorCritic, memory_saliency, saliency
from agents.actor_critic import as_tensors

SPACE = gym.spaces.Box(-3, 3, (5,), np.float32)
ACTIONS = {
    "discrete": gym.spaces.Discrete(4),
    "several": gym.spaces.MultiDiscrete([2, 3]),
    "continuous": gym.spaces.Box(-1, 1, (2,), np.float32),
}
MEMORIES = {
    "compressive": {"window": 4, "memory": 4, "compressed": 3, "rate": 2, "n_layers": 2},
    "transformer_xl": {"window": 4, "memory": 4, "n_layers": 2},
    "gtrxl": {"window": 3, "memory": 5, "n_layers": 1},
}


def network(memory="compressive", actions="discrete", observations=SPACE, **more):
    torch.manual_seed(0)
    options = {"d_model": 8, "n_heads": 2, **MEMORIES.get(memory, {}), **more}
    if memory == "gru":
        options = {"d_model": 8, "hidden": 8}
    net = ActorCritic(
        observations, ACTIONS[actions], memory=memory, memory_options=options, width=8
    ).eval()
    with torch.no_grad():  # the first policy is uniform whatever is remembered
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return net


def observations(count, rows=3):
    return torch.randn(count, rows, 5, generator=torch.Generator().manual_seed(1))


def played(net, steps):
    """The state after some steps of 3 rows, the last of which began a new episode 2 steps ago."""
    state = net.initial_state(3)
    for t, x in enumerate(observations(steps)):
        net.step(x, state, torch.tensor([False, False, t == steps - 2]))
    return state


@pytest.mark.parametrize(
    ("memory", "actions", "passes"),
    [("compressive", actions, 1) for actions in ACTIONS]
    + [
        ("compressive", "discrete", 100),
        ("transformer_xl", "several", 1),
        ("gtrxl", "discrete", 1),
    ],
)
def test_saliency_is_that_of_a_loop_over_rows_and_places(memory, actions, passes, monkeypatch):
    net = network(memory, actions)
    state, x = played(net, 19), observations(20)[-1]
    if passes > 1:
        monkeypatch.setattr(saliency, "_MOST_BYTES", 1)
    kept = {key: value.clone() for key, value in state.items()}
    found = memory_saliency(net, x, state)
    assert all(torch.equal(kept[key], state[key]) for key in kept)
    count = found.kl.shape[1]
    seen = 0
    for b in range(3):
        row = {key: value[b : b + 1] for key, value in state.items()}
        one = {key: value.clone() for key, value in row.items()}
        plain, attention = net.watched_step(x[b : b + 1], one), found.watched.attention
        for n in range(count):
            own = attention.first[b, n] == attention.step[b]
            if not attention.there[b, n] or own:
                assert found.kl[b, n] == found.logit[b, n] == 0
                continue
            masked = torch.zeros(1, count, dtype=torch.bool)
            masked[0, n] = True
            one = {key: value.clone() for key, value in row.items()}
            features = net.encoder(x[b : b + 1])
            y, _ = net.core.watched_step(net.inlet(features), one, None, masked)
            read = torch.cat([net.norm(y), features], -1)
            policy = net.policy(net.head(read))
            change = net.distribution(plain.policy).kl(net.distribution(policy))
            torch.testing.assert_close(found.kl[b, n], change[0], atol=1e-5, rtol=1e-3)
            largest = (policy - plain.policy).abs().max()
            torch.testing.assert_close(found.logit[b, n], largest, atol=1e-5, rtol=1e-3)
            seen += 1
    assert seen > 12 and found.kl.max() > 1e-4 and (found.kl >= 0).all()


@pytest.mark.parametrize("memory", [*MEMORIES, "gru"])
def test_watched_acting_is_acting(memory):
    net = network(memory)
    acted, watched = net.initial_state(3), net.initial_state(3)
    for t, x in enumerate(observations(15)):
        resets = torch.tensor([t == 7, False, t == 11])
        policy, value = net.step(x, acted, resets)
        seen = net.watched_step(x, watched, resets)
        assert torch.equal(policy, seen.policy) and torch.equal(value, seen.value)
        assert all(torch.equal(acted[key], watched[key]) for key in acted)
        assert (seen.attention is None) == (memory == "gru")


def test_what_an_agent_ignores_has_no_saliency():
    """Only the step that a hand-made policy depends on changes it."""
    net = network("transformer_xl", n_layers=1)
    with torch.no_grad():
        net.policy.weight[:, : net.core.d_out] = 0  # what memory gives does not count
    found = memory_saliency(net, observations(10)[-1], played(net, 9))
    assert found.kl.max() < 1e-9 and found.logit.max() < 1e-6
    assert found.watched.attention.by_place.sum() > 0  # though it looked


def test_forbidden_actions_stay_forbidden_and_finite():
    space = gym.spaces.Dict({"x": SPACE, "action_mask": gym.spaces.MultiBinary(4)})
    net = network(observations=space)
    state = net.initial_state(2)
    mask = np.array([[1, 1, 0, 0], [0, 1, 1, 1]], np.int8)
    for x in observations(9, rows=2):
        batch = as_tensors({"x": x.numpy(), "action_mask": mask})
        found = memory_saliency(net, batch, state)
        net.step(batch, state)
    assert found.kl.isfinite().all() and found.kl.max() > 0 and found.logit.max() < 100


def test_a_memory_without_attention_is_refused_in_a_line():
    net = network("gru")
    with pytest.raises(ValueError, match="GRUMemory does not attend: saliency is of"):
        memory_saliency(net, observations(1)[0], net.initial_state(3))
