"""Several learners: torch takes the plain mean of their gradients, each of a mean of another number of terms."""

from __future__ import annotations

import torch
from torch import Tensor


def over_learners(x: Tensor) -> Tensor:
    """The sum of x over all learners, IN PLACE."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(x)
    return x


def shares(counts: Tensor) -> Tensor:
    """What this learner's means weigh, so that the learners' plain mean is the mean of all their terms.

    Args:
        counts: float [n], of how many terms each is the mean here.

    Returns:
        [n], the counts over their mean over learners: 1 for one learner alone.
    """
    totals = over_learners(torch.cat([counts, counts.new_ones(1)]))
    return torch.where(totals[:-1] > 0, counts * totals[-1] / totals[:-1], 1.0)
