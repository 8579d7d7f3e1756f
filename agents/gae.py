"""Generalised advantage estimation over rows that run on across episode ends.

Shapes: N rows, T steps.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def gae(
    *,
    rewards: Tensor,
    values: Tensor,
    terminateds: Tensor,
    ignored: Tensor,
    gamma: float,
    lambda_: float,
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets (arXiv 1506.02438, equation 16).

    A terminated step bootstraps nothing. A truncated one bootstraps the value of the observation it
    ended on, which is the next step of the row: an ignored step, whose own advantage is 0.

    Args:
        rewards: [N, T], as the learner sees them.
        values: [N, T + 1], of every observation; the last bootstraps the row.
        terminateds, ignored: bool [N, T].
        gamma, lambda_: discount per step, and the estimator's mixture.

    Returns:
        advantages and targets, [N, T].
    """
    goes_on = (~terminateds).to(values.dtype)
    taken = (~ignored).to(values.dtype)
    errors = rewards + gamma * goes_on * values[:, 1:] - values[:, :-1]
    advantages = torch.zeros_like(errors)
    after = torch.zeros_like(errors[:, 0])
    for t in reversed(range(rewards.shape[1])):
        after = taken[:, t] * (errors[:, t] + gamma * lambda_ * goes_on[:, t] * after)
        advantages[:, t] = after
    return advantages, advantages + values[:, :-1]
