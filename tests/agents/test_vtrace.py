"""V-trace against a twin written episode by episode."""

import pytest
import torch

from agents.vtrace import vtrace


def naive(log_rho, rewards, values, ends, terminated, gamma, clip):
    """Targets of one row by the paper's sum, episode by episode; `ends` are steps that end one."""
    steps = len(rewards)
    targets = [float(v) for v in values[:steps]]
    s = 0
    while s < steps:
        end = next((t for t in range(s, steps) if ends[t]), steps - 1)
        for start in range(s, end + 1):
            total, trace = float(values[start]), 1.0
            for t in range(start, end + 1):
                rho = min(clip, float(log_rho[t].exp()))
                future = 0.0 if terminated[t] else gamma * float(values[t + 1])
                delta = rho * (float(rewards[t]) + future - float(values[t]))
                total += gamma ** (t - start) * trace * delta
                trace *= min(1.0, float(log_rho[t].exp()))
            targets[start] = total
        s = end + 2 if ends[end] else end + 1  # the step after an end only resets
    return torch.tensor(targets)


@pytest.mark.parametrize("kind", ["terminated", "truncated", "none"])
@pytest.mark.parametrize("where", [0, 4, 9])
def test_targets_equal_the_papers_sum_over_each_episode(kind, where):
    generator = torch.Generator().manual_seed(where)
    steps = 10
    log_rho = torch.randn(1, steps, generator=generator) * 0.5
    rewards = torch.randn(1, steps, generator=generator)
    values = torch.randn(1, steps + 1, generator=generator)
    ends = torch.zeros(1, steps, dtype=torch.bool)
    ends[0, where] = kind != "none"
    terminated = ends & (kind == "terminated")
    ignored = torch.zeros_like(ends)
    if kind != "none" and where + 1 < steps:
        ignored[0, where + 1] = True
    targets, advantages = vtrace(
        log_rho=log_rho,
        rewards=rewards,
        values=values,
        terminateds=terminated,
        ignored=ignored,
        gamma=0.9,
        clip_rho=1.2,
        clip_pg_rho=1.0,
    )
    expected = naive(log_rho[0], rewards[0], values[0], ends[0], terminated[0], 0.9, 1.2)
    torch.testing.assert_close(targets[0], expected)
    # The advantage looks one step ahead through the next target (section 4.2).
    following = torch.cat([expected[1:], values[0, -1:]])
    future = 0.9 * following * (~terminated[0])
    wanted = log_rho[0].exp().clamp(max=1.0) * (rewards[0] + future - values[0, :-1])
    torch.testing.assert_close(advantages[0][~ignored[0]], wanted[~ignored[0]])


def test_an_ignored_step_asks_for_nothing():
    ignored = torch.tensor([[False, True, False]])
    values = torch.tensor([[1.0, 5.0, 2.0, 3.0]])
    targets, advantages = vtrace(
        log_rho=torch.ones(1, 3),
        rewards=torch.full((1, 3), 100.0),
        values=values,
        terminateds=torch.tensor([[False, False, False]]),
        ignored=ignored,
        gamma=0.9,
    )
    assert targets[0, 1] == 5.0
    assert advantages[0, 1] == 0.0
