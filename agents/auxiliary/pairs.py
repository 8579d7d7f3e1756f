"""Pairs of steps of one row and episode, told from those of other rows: what the contrastive losses share.

Shapes: P pairs, E width of the embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def projection(features: int, width: int, embedding: int) -> nn.Sequential:
    """From an encoder's features to the embedding that is compared."""
    return nn.Sequential(
        nn.LayerNorm(features), nn.Linear(features, width), nn.ReLU(), nn.Linear(width, embedding)
    )


def similarities(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """The cosine of each of `one` [P, E] with each of `other` [P, E], over the temperature: float32 [P, P]."""
    return (F.normalize(one, dim=-1) @ F.normalize(other, dim=-1).T).float() / temperature


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
    farthest = min(horizon, max(steps - 1, 1))  # no row has steps further apart
    later = here + torch.randint(1, farthest + 1, (rows, steps), device=episode.device)
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
