"""Means of unlike numbers of terms as one mean: each weighs as many terms as it has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The mean of the terms of all parts, and their number.

    Args:
        parts: of each the mean of its terms, any finite numbers where there is none, and their number, a scalar.

    Returns:
        The mean, 0 where no part has a term, and the number.
    """
    means, counts = zip(*parts, strict=True)
    count = torch.stack(counts).sum()
    shares = (torch.stack(counts).double() / count.clamp(min=1)).unbind()
    mean = torch.stack([each * share for each, share in zip(means, shares, strict=True)]).sum(0)
    return mean.to(means[0].dtype), count
