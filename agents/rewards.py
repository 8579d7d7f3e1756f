"""How rewards are clipped for learning; reported returns are never clipped."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _optimistic_asymmetric(reward: Tensor) -> Tensor:
    # As released with IMPALA ("soft_asymmetric"); the paper's figure D.1 shows another scaling.
    squashed = 5.0 * torch.tanh(reward / 5.0)
    return torch.where(reward < 0, 0.3 * squashed, squashed)


REWARD_CLIPS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda reward: reward,
    "unit": lambda reward: reward.clamp(-1.0, 1.0),
    "optimistic_asymmetric": _optimistic_asymmetric,
}


def check_reward_clip(clip: str) -> None:
    """Raises ValueError unless `clip` is a key of `REWARD_CLIPS`."""
    if clip not in REWARD_CLIPS:
        raise ValueError(f"unknown reward_clip {clip!r}: choose one of {', '.join(REWARD_CLIPS)}")


def clip_reward(reward: Tensor, clip: str) -> Tensor:
    """The reward the learner sees (IMPALA, arXiv 1802.01561, appendix D.1).

    Args:
        reward: float tensor of any shape, in the environment's own units.
        clip: a key of `REWARD_CLIPS`.

    Raises:
        ValueError: for an unknown `clip`.
    """
    check_reward_clip(clip)
    return REWARD_CLIPS[clip](reward)


def reward_features(reward: Tensor) -> Tensor:
    """Last reward as network input: clipped as in IMPALA's agent, and squashed so that +1 and +10 differ.

    Args:
        reward: [..., 1], raw.

    Returns:
        [..., 2], both within [-1, 1].
    """
    return torch.cat([reward.clamp(-1.0, 1.0), torch.tanh(reward / 5.0)], -1)
