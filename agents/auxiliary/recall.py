"""Recall: from what the memory holds now, the embedding of the frame that was seen k steps ago. Ours.

Shapes: P pairs, E width of the embedding.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from agents.auxiliary.contract import AuxiliaryLoss, Experience, Sizes
from agents.auxiliary.options import RecallOptions
from agents.auxiliary.pairs import draw_pairs, info_nce, projection, similarities


class Recall(AuxiliaryLoss):
    """Asked with an offset k, the memory's output picks what was seen k steps before from what other rows saw.

    It trains the memory to keep what it saw, whether or not reward asks for it yet, and shows how much it keeps: a
    memory that holds nothing stays at the logarithm of the number of pairs. The gradient reaches memory and encoder.
    """

    Options = RecallOptions

    small: ClassVar[dict[str, Any]] = {"horizon": 4, "pairs": 16, "width": 8, "embedding": 4}

    def __init__(
        self, sizes: Sizes, horizon: int, pairs: int, temperature: float, width: int, embedding: int
    ):
        super().__init__(sizes)
        self.horizon, self.pairs, self.temperature = horizon, pairs, temperature
        self.offset = nn.Embedding(horizon + 1, sizes.outputs)
        self.ask = nn.Sequential(
            nn.Linear(2 * sizes.outputs, width), nn.ReLU(), nn.Linear(width, embedding)
        )
        self.embed = projection(sizes.features, width, embedding)

    def forward(self, experience: Experience) -> Tensor:
        row, then, now, there = draw_pairs(
            experience.episode, experience.ignored, self.horizon, self.pairs
        )
        held, back = experience.outputs[row, now], self.offset((now - then).clamp(min=0))
        asked = self.ask(torch.cat([held, back.to(held.dtype)], -1))  # (P, E)
        seen = self.embed(experience.features[row, then])
        return info_nce(similarities(asked, seen, self.temperature), row, there)
