"""V-trace over rows that run on across episode ends.

Shapes: N rows, T steps.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def vtrace(
    *,
    log_rho: Tensor,
    rewards: Tensor,
    values: Tensor,
    terminateds: Tensor,
    ignored: Tensor,
    gamma: float,
    clip_rho: float = 1.0,
    clip_pg_rho: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Value targets and policy-gradient advantages (arXiv 1802.01561, section 4.1, equation 1 and remark 1).

    A terminated step bootstraps nothing. A truncated one bootstraps the value of the observation it
    ended on, which is the next step of the row: an ignored step, whose target is its own value.

    Args:
        log_rho: [N, T], log of target over behaviour probability of the action taken.
        rewards: [N, T], as the learner sees them.
        values: [N, T + 1], of every observation; the last bootstraps the row.
        terminateds: bool [N, T].
        ignored: bool [N, T], True where no action was taken.
        gamma: discount per step.
        clip_rho, clip_pg_rho: the paper's rho-bar for the targets and for the policy gradient.

    Returns:
        targets [N, T] and advantages [N, T], without gradient.
    """
    values_t, values_tp1 = values[:, :-1], values[:, 1:]
    rho = torch.where(ignored, 0.0, log_rho.exp())
    discount = gamma * (~terminateds).to(values.dtype)
    clipped_rho, trace = rho.clamp(max=clip_rho), rho.clamp(max=1.0)
    delta = clipped_rho * (rewards + discount * values_tp1 - values_t)
    beyond = torch.zeros_like(delta)  # v_t - V(x_t)
    after = torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        after = delta[:, t] + discount[:, t] * trace[:, t] * after
        beyond[:, t] = after
    targets = values_t + beyond
    targets_tp1 = torch.cat([targets[:, 1:], values[:, -1:]], 1)
    advantages = rho.clamp(max=clip_pg_rho) * (rewards + discount * targets_tp1 - values_t)
    return targets, advantages
