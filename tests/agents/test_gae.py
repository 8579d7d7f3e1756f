"""Generalised advantages against a twin written episode by episode."""

import pytest
import torch

from agents.gae import gae


def naive(rewards, values, ends, terminated, gamma, lambda_):
    """The sum of discounted errors of one row, episode by episode; `ends` are steps that end one."""
    steps = len(rewards)
    advantages = [0.0] * steps
    s = 0
    while s < steps:
        end = next((t for t in range(s, steps) if ends[t]), steps - 1)
        for start in range(s, end + 1):
            for t in range(start, end + 1):
                future = 0.0 if terminated[t] else gamma * float(values[t + 1])
                error = float(rewards[t]) + future - float(values[t])
                advantages[start] += (gamma * lambda_) ** (t - start) * error
        s = end + 2 if ends[end] else end + 1  # the step after an end only resets
    return torch.tensor(advantages)


@pytest.mark.parametrize("kind", ["terminated", "truncated", "none"])
@pytest.mark.parametrize("where", [0, 4, 9])
def test_advantages_equal_the_sum_over_each_episode(kind, where):
    generator = torch.Generator().manual_seed(where)
    steps = 10
    rewards = torch.randn(1, steps, generator=generator)
    values = torch.randn(1, steps + 1, generator=generator)
    ends = torch.zeros(1, steps, dtype=torch.bool)
    ends[0, where] = kind != "none"
    terminated = ends & (kind == "terminated")
    ignored = torch.zeros_like(ends)
    if kind != "none" and where + 1 < steps:
        ignored[0, where + 1] = True
    advantages, targets = gae(
        rewards=rewards,
        values=values,
        terminateds=terminated,
        ignored=ignored,
        gamma=0.9,
        lambda_=0.8,
    )
    expected = naive(rewards[0], values[0], ends[0], terminated[0], 0.9, 0.8)
    torch.testing.assert_close(advantages[0], expected)
    torch.testing.assert_close(targets, advantages + values[:, :-1])


def test_termination_hides_the_next_value_and_truncation_shows_it():
    flags = torch.tensor([[True]]), torch.tensor([[False]])
    found = [
        gae(
            rewards=torch.tensor([[1.0]]),
            values=torch.tensor([[0.0, 100.0]]),
            terminateds=flag,
            ignored=torch.tensor([[False]]),
            gamma=0.5,
            lambda_=1.0,
        )[1].item()
        for flag in flags
    ]
    assert found == [1.0, 51.0]
