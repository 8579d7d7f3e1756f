"""V-trace over rows that run on across episode ends.

Shapes: N rows, T steps.
"""

from __future__ import annotations

import torch
from ray.rllib.algorithms.impala.torch.vtrace_torch_v2 import vtrace_torch
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
    """Value targets and policy-gradient advantages (arXiv 1802.01561, section 4.1).

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
    now = values[:, :-1]
    taken = (~ignored).to(values.dtype)
    targets, advantages = vtrace_torch(
        target_action_log_probs=(log_rho * taken).T,
        behaviour_action_log_probs=torch.zeros_like(log_rho.T),
        discounts=(gamma * taken * (~terminateds).to(values.dtype)).T,
        # Its own value as reward and no future: an ignored step only hands back V.
        rewards=torch.where(ignored, now, rewards).T,
        values=now.T,
        bootstrap_values=values[:, -1],
        clip_rho_threshold=clip_rho,
        clip_pg_rho_threshold=clip_pg_rho,
    )
    return targets.T, advantages.T
