"""Contrast in time: what an encoder sees now is told from what it saw shortly after, in the same episode.

Shapes: P pairs, E width of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from agents.auxiliary.contract import AuxiliaryLoss, Experience, Sizes


class Contrast(AuxiliaryLoss):
    """Symmetrical InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) on the encoder's features.

    A step and one up to `horizon` steps later in its row and episode are a pair; steps of other rows are not. Other
    steps of its own row are neither, and left out. The gradient reaches the encoder, never the memory.
    """

    @dataclass(frozen=True)
    class Options:
        """Settings of `contrast`."""

        horizon: Annotated[int, Ge(1), Le(10_000)] = 8
        """Steps between the two of a pair, at most [steps]."""
        pairs: Annotated[int, Ge(2), Le(65_536)] = 256
        """Pairs drawn from a minibatch, at most [count]."""
        temperature: Annotated[float, Gt(0), Le(100)] = 0.1
        """What similarities are divided by."""
        width: Annotated[int, Ge(1), Le(65_536)] = 128
        """Width of the projection [units]."""
        embedding: Annotated[int, Ge(1), Le(65_536)] = 64
        """Width of the embedding that is compared [units]."""

    small: ClassVar[dict[str, Any]] = {"horizon": 3, "pairs": 16, "width": 8, "embedding": 4}

    def __init__(
        self, sizes: Sizes, horizon: int, pairs: int, temperature: float, width: int, embedding: int
    ):
        super().__init__(sizes)
        self.horizon, self.pairs, self.temperature = horizon, pairs, temperature
        self.projection = nn.Sequential(
            nn.LayerNorm(sizes.features),
            nn.Linear(sizes.features, width),
            nn.ReLU(),
            nn.Linear(width, embedding),
        )

    def forward(self, experience: Experience) -> Tensor:
        row, step, later, there = draw_pairs(
            experience.episode, experience.ignored, self.horizon, self.pairs
        )
        one, other = (
            F.normalize(self.projection(experience.features[row, at]), dim=-1)  # (P, E)
            for at in (step, later)
        )
        logits = (one @ other.T).float() / self.temperature  # (P, P)
        return info_nce(logits, row, there)


def draw_pairs(
    episode: Tensor, ignored: Tensor, horizon: int, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`count` pairs of steps of one row and episode, 1 to `horizon` apart, each step the first of at most one.

    Args:
        episode: int64 [N, T]; ignored: bool [N, T], steps that belong to no pair.

    Returns:
        int64 [P] each: the row, the earlier step, the later step; and bool [P], which of them are pairs: where there
        are fewer than `count`, the rest is not. No shape depends on what the tensors hold.
    """
    rows, steps = episode.shape
    here = torch.arange(steps, device=episode.device).expand(rows, -1)
    later = here + torch.randint(1, horizon + 1, (rows, steps), device=episode.device)
    end = later.clamp(max=steps - 1)
    fits = (later < steps) & (episode.gather(1, end) == episode)
    fits &= ~ignored & ~ignored.gather(1, end)
    # In a random order, what is no pair behind, so that the first `count` are drawn evenly.
    chance = torch.where(fits, torch.rand(rows, steps, device=episode.device), -1.0).flatten()
    best = chance.topk(min(count, chance.numel()))
    chosen = best.indices
    return chosen // steps, chosen % steps, end.flatten()[chosen], best.values >= 0


def info_nce(logits: Tensor, row: Tensor, there: Tensor) -> Tensor:
    """The symmetrical cross-entropy of telling each pair from those of other rows; 0 where there is no pair.

    Args:
        logits: [P, P], similarity of each first with each second; pairs on the diagonal.
        row: int64 [P], of each pair: other pairs of the same row are left out.
        there: bool [P], which of them are pairs.
    """
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    other = (row[:, None] != row) & there & there[:, None]
    logits = logits.masked_fill(~(own | other), torch.finfo(logits.dtype).min)
    target = torch.arange(len(logits), device=logits.device)
    both = sum(F.cross_entropy(x, target, reduction="none") for x in (logits, logits.T))
    return torch.where(there, both, 0.0).sum() / (2 * there.sum().clamp(min=1))
