"""Saliency of memory: which past steps changed this decision.

Saliency of pixels (POPGym Arcade's, for one) says where in the frames a gradient is large; this masks what is
remembered, one place at a time, and names the steps behind the place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agents.actor_critic import ActorCritic, Observation, State, Watched
from ct_rl.memory.contract import state_bytes

_MOST_BYTES = 2**28  # of copies of the state in one pass


@dataclass
class Saliency:
    """How far the policy of one step moves when a place of its memory is not read.

    Places are those of `ct_rl.memory.StepAttention`: N, ordered; nothing is 0, and so is the step's own place.

    Attributes:
        kl: [B, N], KL(policy || policy without the place) [nats].
        logit: [B, N], the largest change of a number among the policy's parameters, of a logit where actions are
            discrete.
        watched: the step as it is, nothing masked; state: the memory after it.
    """

    kl: Tensor
    logit: Tensor
    watched: Watched
    state: State


@torch.no_grad()
def memory_saliency(
    net: ActorCritic, observation: Observation, state: State, resets: Tensor | None = None
) -> Saliency:
    """Masks each place of the memory in turn, in all layers at once, and compares the policies.

    All places of all rows are rows of one batched pass (of several, where the copies of the state would take more than
    256 MiB). What later steps wrote of a masked one stays: a place that others stand in for changes little.

    Args:
        observation: tensors [B, ...], what is acted on.
        state: of the step before; stays as it is.
        resets: bool [B], True where the observation is a new episode's first.

    Raises:
        ValueError: where the memory does not attend.
    """
    after = {key: value.clone() for key, value in state.items()}
    watched = net.watched_step(observation, after, resets)
    seen = watched.attention
    if seen is None:
        raise ValueError(
            f"{type(net.core).__name__} does not attend: saliency is of compressive, transformer_xl "
            "and gtrxl memories, and of yours that overrides run_watched_step"
        )
    past = seen.there & (seen.last < seen.step[:, None])  # (B, N)
    kl = torch.zeros_like(past, dtype=watched.policy.dtype)
    logit = torch.zeros_like(kl)
    at_once = max(1, _MOST_BYTES // max(1, state_bytes(after)))
    columns_there = torch.nonzero(past.any(0))[:, 0]
    for columns in columns_there.split(at_once) if len(columns_there) else ():
        cases = torch.zeros(len(columns), past.shape[1], dtype=torch.bool, device=past.device)
        cases[torch.arange(len(columns)), columns] = True
        masked = cases & past[:, None]  # (B, R, N)
        policies = net.masked_policies(observation, state, masked, resets)  # (B, R, P)
        plain = watched.policy[:, None].expand_as(policies)
        change = net.distribution(plain).kl(net.distribution(policies))  # type: ignore[arg-type]
        asked = past[:, columns]
        kl[:, columns] = change.clamp(min=0) * asked
        logit[:, columns] = (policies - plain).abs().amax(-1) * asked
    return Saliency(kl, logit, watched, after)
