"""Compression functions: c memories become one slot (Rae et al. 2019, section 3.1), and what trains them (3.2).

Shapes: [..., lookback + N, D] in, [..., N / c, D] out; the first `lookback` steps only lend context. Steps before an
episode's first are zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CompressionFunction(nn.Module):
    """N steps become N / c slots.

    Attributes:
        lookback: steps before the first that it reads.
        by_usage: whether it must know how much attention each step received in its life.
    """

    lookback = 0
    by_usage = False

    def __init__(self, d_model: int, rate: int):
        super().__init__()
        self.rate = rate

    def forward(self, steps: Tensor, usage: Tensor | None = None) -> Tensor:
        """Slots [..., N / c, D] of steps [..., lookback + N, D]; `usage` [..., N], -inf where there is no step."""
        raise NotImplementedError

    def groups(self, steps: Tensor) -> Tensor:
        """[..., N, D] as [..., N / c, c, D]."""
        return steps.unflatten(-2, (-1, self.rate))


class MaxPool(CompressionFunction):
    """The largest of each feature."""

    def forward(self, steps: Tensor, usage: Tensor | None = None) -> Tensor:
        return self.groups(steps).amax(-2)


class MeanPool(CompressionFunction):
    """The mean of each feature."""

    def forward(self, steps: Tensor, usage: Tensor | None = None) -> Tensor:
        return self.groups(steps).mean(-2)


class Convolution(CompressionFunction):
    """A convolution whose kernel and stride are the rate, without bias; it starts as the mean."""

    def __init__(self, d_model: int, rate: int):
        super().__init__(d_model, rate)
        self.linear = nn.Linear(rate * d_model, d_model, bias=False)
        weight = nn.init.normal_(self.linear.weight, std=0.02 / rate**0.5)
        with torch.no_grad():
            weight.view(d_model, rate, d_model).diagonal(dim1=0, dim2=2).add_(1 / rate)

    def forward(self, steps: Tensor, usage: Tensor | None = None) -> Tensor:
        return self.linear(self.groups(steps).flatten(-2))


class DilatedConvolution(Convolution):
    """Convolutions of kernel 2 over ever longer distances with ReLU, looking back only, then `Convolution`."""

    dilations = (1, 2, 4)
    lookback = sum(dilations)

    def __init__(self, d_model: int, rate: int):
        super().__init__(d_model, rate)
        layers = [nn.Linear(2 * d_model, d_model, bias=False) for _ in self.dilations]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.stack = nn.ModuleList(layers)

    def forward(self, steps: Tensor, usage: Tensor | None = None) -> Tensor:
        for dilation, layer in zip(self.dilations, self.stack, strict=True):
            pairs = torch.cat([steps[..., :-dilation, :], steps[..., dilation:, :]], -1)
            steps = layer(pairs).relu()
        return super().forward(steps)


class MostUsed(CompressionFunction):
    """Of the steps that leave together, the 1 / c that received most attention in their lives, in their order."""

    by_usage = True

    def forward(self, steps: Tensor, usage: Tensor | None = None) -> Tensor:
        if usage is None:
            raise ValueError("most_used ranks by usage: none was given")
        count = steps.shape[-2]
        there = usage > -torch.inf
        rank = usage.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        keep = there & (rank < (there.sum(-1, keepdim=True) // self.rate))
        place = torch.arange(count, device=steps.device)
        # Kept ones last and in order: where steps are missing, the first slots are empty.
        chosen = torch.where(keep, place, -1).sort(-1).values[..., count - count // self.rate :]
        index = chosen.clamp(min=0)[..., None].expand(*chosen.shape, steps.shape[-1])
        return steps.gather(-2, index)


COMPRESSIONS: dict[str, type[CompressionFunction]] = {
    "conv": Convolution,
    "dilated": DilatedConvolution,
    "max": MaxPool,
    "mean": MeanPool,
    "most_used": MostUsed,
}


def attention_reconstruction(
    queries: Tensor,
    old: tuple[Tensor, Tensor],
    new: tuple[Tensor, Tensor],
    old_there: Tensor | None = None,
    new_there: Tensor | None = None,
) -> Tensor:
    """Squared difference between what content-only attention reads from memories and from their slots.

    Section 3.2, algorithm 2: no positions, no output projection, per head.

    Args:
        queries: [B, H, ..., W, Dh], scaled.
        old: keys and values [B, H, ..., N, Dh] of the memories that leave.
        new: keys and values [B, H, ..., N / c, Dh] of the slots made of them.
        old_there: bool [B, ..., N]; new_there: bool [B, ..., N / c]: which of them exist; None for all.

    Returns:
        [B, ..., W]: the mean over heads and features for each query.
    """

    def read(keys: Tensor, values: Tensor, there: Tensor | None) -> Tensor:
        logits = queries @ keys.transpose(-1, -2)
        if there is not None:
            hidden = ~there[:, None, ..., None, :]
            logits = logits.masked_fill(hidden, torch.finfo(logits.dtype).min)
        return logits.softmax(-1) @ values

    return F.mse_loss(read(*new, new_there), read(*old, old_there), reduction="none").mean((1, -1))
