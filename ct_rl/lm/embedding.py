"""Embeddings and output layers: plain ones, and adaptive ones for large vocabularies sorted by frequency."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AdaptiveEmbedding(nn.Module):
    """Rare tokens in fewer dimensions (Baevski & Auli 2019, arXiv 1809.10853, section 3).

    Args:
        cutoffs: where a band of tokens ends and the next, `factor` times as narrow, begins; ascending.
    """

    def __init__(self, vocab_size: int, width: int, cutoffs: Sequence[int], factor: int = 4):
        super().__init__()
        self.width = width
        self.bounds = [0, *cutoffs, vocab_size]
        sizes = [max(width // factor**i, 1) for i in range(len(self.bounds) - 1)]
        tables = [
            nn.Embedding(end - start, size)
            for (start, end), size in zip(itertools.pairwise(self.bounds), sizes, strict=True)
        ]
        self.projections = nn.ModuleList(nn.Linear(size, width, bias=False) for size in sizes)
        for table, size in zip(tables, sizes, strict=True):
            nn.init.normal_(table.weight, std=size**-0.5)
        self.tables = nn.ModuleList(tables)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., width] of int64 [...]."""
        flat = tokens.flatten()
        parts, places = [], []
        for i, (table, project) in enumerate(zip(self.tables, self.projections, strict=True)):
            place = torch.nonzero((flat >= self.bounds[i]) & (flat < self.bounds[i + 1]))[:, 0]
            parts.append(project(table(flat[place] - self.bounds[i])))
            places.append(place)
        order = torch.cat(places).argsort()
        return torch.cat(parts)[order].unflatten(0, tokens.shape)


class PlainHead(nn.Linear):
    """Logits by one matrix."""

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-ln p of int64 targets [N], float32, from hidden [N, D]."""
        return F.cross_entropy(self(hidden).float(), targets, reduction="none")

    def log_probs(self, hidden: Tensor) -> Tensor:
        """ln p of every token, float32 [N, V]."""
        return self(hidden).float().log_softmax(-1)


class AdaptiveHead(nn.AdaptiveLogSoftmaxWithLoss):
    """The adaptive softmax (Grave et al. 2017, arXiv 1609.04309): torch's."""

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-ln p of int64 targets [N], float32, from hidden [N, D]."""
        with torch.autocast(hidden.device.type, enabled=False):
            return -self(hidden.float(), targets).output

    def log_probs(self, hidden: Tensor) -> Tensor:
        """ln p of every token, float32 [N, V]."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.log_prob(hidden.float())
