"""What the last layer of a value head says, as a value, and how far that is from a target: a number, or a distribution.

A critic's `width` is how many numbers that layer gives a step, its "estimate" (float32 or more).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST = 20.0  # symlog of the last place, as in DreamerV3


class Number(nn.Module):
    """The estimate [..., 1] is the value; errors are squares."""

    width = 1

    def value(self, estimate: Tensor) -> Tensor:
        """[...], of estimates [..., 1]."""
        return estimate.squeeze(-1)

    def errors(self, estimate: Tensor, targets: Tensor) -> Tensor:
        """[...], of estimates [..., 1] and targets [...]."""
        return (self.value(estimate) - targets).square()


class TwoHot(nn.Module):
    """The estimate [..., n] are logits over n places, and the value is their mean (DreamerV3, arXiv 2301.04104).

    Places lie evenly on a symlog scale, sign(x) log(1 + |x|), from -20 to 20, so that rewards of any size fit. A target
    is the two places around it, weighted by nearness, and its error their cross-entropy in nats: a step's gradient is
    as large for a small return as for a large one.

    Args:
        places: n, odd, so that one of them is 0.

    Raises:
        ValueError: for an even number or less than 3.
    """

    places: Tensor

    def __init__(self, places: int):
        super().__init__()
        if places < 3 or places % 2 == 0:
            raise ValueError(
                f"value_bins={places}: give 0 for a value that is one number, or an odd number from 3 (DreamerV3: 255)"
            )
        self.width = places
        half = torch.linspace(0, LARGEST, places // 2 + 1)[1:].expm1()
        self.register_buffer(
            "places", torch.cat([-half.flip(0), torch.zeros(1), half]), persistent=False
        )

    def value(self, estimate: Tensor) -> Tensor:
        """[...], of estimates [..., n]."""
        p = torch.softmax(estimate, -1)
        half = self.width // 2
        # Opposite places first: where nothing is known yet, numbers of 5e8 cancel to the last bit.
        above, below = p[..., half + 1 :], p[..., :half].flip(-1)
        return ((above - below) * self.places[half + 1 :]).sum(-1)

    def errors(self, estimate: Tensor, targets: Tensor) -> Tensor:
        """[...], of estimates [..., n] and targets [...]."""
        log_p = torch.log_softmax(estimate, -1)
        places = self.places
        targets = targets.to(places.dtype).clamp(places[0], places[-1])
        upper = torch.searchsorted(places, targets.contiguous()).clamp(1, self.width - 1)
        low, high = places[upper - 1], places[upper]
        nearness = (targets - low) / (high - low)  # to the upper one
        below, above = (log_p.gather(-1, i[..., None]).squeeze(-1) for i in (upper - 1, upper))
        return -((1.0 - nearness) * below + nearness * above)


def build_critic(value_bins: int) -> Number | TwoHot:
    """A distribution over `value_bins` places, or a number for 0.

    Raises:
        ValueError: for 1, 2, an even or a negative number.
    """
    return TwoHot(value_bins) if value_bins else Number()
