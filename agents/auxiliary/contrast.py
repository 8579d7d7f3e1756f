"""Contrast in time: what an encoder sees now is told from what it saw shortly after, in the same episode."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from agents.auxiliary.contract import AuxiliaryLoss, Experience, Sizes
from agents.auxiliary.options import ContrastOptions
from agents.auxiliary.pairs import draw_pairs, info_nce, projection, similarities


class Contrast(AuxiliaryLoss):
    """Symmetrical InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) on the encoder's features.

    A step and one up to `horizon` steps later in its row and episode are a pair; steps of other rows are not. Other
    steps of its own row are neither, and left out. The gradient reaches the encoder, never the memory.
    """

    Options = ContrastOptions

    small: ClassVar[dict[str, Any]] = {"horizon": 3, "pairs": 16, "width": 8, "embedding": 4}

    def __init__(
        self, sizes: Sizes, horizon: int, pairs: int, temperature: float, width: int, embedding: int
    ):
        super().__init__(sizes)
        self.horizon, self.pairs, self.temperature = horizon, pairs, temperature
        self.projection = projection(sizes.features, width, embedding)

    def forward(self, experience: Experience) -> Tensor:
        row, step, later, there = draw_pairs(
            experience.episode, experience.ignored, self.horizon, self.pairs
        )
        one, other = (self.projection(experience.features[row, at]) for at in (step, later))
        return info_nce(similarities(one, other, self.temperature), row, there)
