"""Prediction: from what the memory holds and the action taken, the embedding of what is seen next.

Shapes: P steps, E width of the embedding.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from agents.auxiliary.contract import AuxiliaryLoss, Experience, Sizes
from agents.auxiliary.options import PredictionOptions
from agents.auxiliary.pairs import draw_pairs, info_nce, projection, similarities


class Prediction(AuxiliaryLoss):
    """The next step's features are told from those of other rows (InfoNCE), or met feature by feature (Barlow Twins).

    Position and motion follow from memory and action; what is left to predict is which things are there. Barlow
    Twins (Zbontar et al. 2021, arXiv 2103.03230, equation 1) needs no negatives. The gradient reaches memory and
    encoder.
    """

    Options = PredictionOptions

    small: ClassVar[dict[str, Any]] = {"steps": 16, "width": 8, "embedding": 4}

    def __init__(
        self,
        sizes: Sizes,
        loss: str,
        steps: int,
        temperature: float,
        redundancy: float,
        width: int,
        embedding: int,
    ):
        super().__init__(sizes)
        self.loss, self.steps = loss, steps
        self.temperature, self.redundancy = temperature, redundancy
        given = sizes.outputs + action_size(sizes.action_space)
        self.predict = nn.Sequential(
            nn.Linear(given, width), nn.ReLU(), nn.Linear(width, embedding)
        )
        self.embed = projection(sizes.features, width, embedding)

    def forward(self, experience: Experience) -> Tensor:
        row, now, after, there = draw_pairs(experience.episode, experience.ignored, 1, self.steps)
        action = action_features(self.sizes.action_space, experience.actions[row, now])
        held = experience.outputs[row, now]
        guess = self.predict(torch.cat([held, action.to(held.dtype)], -1))  # (P, E)
        truth = self.embed(experience.features[row, after])
        if self.loss == "barlow_twins":
            return barlow_twins(guess, truth, there, self.redundancy)
        return info_nce(similarities(guess, truth, self.temperature), row, there)


def action_size(space: gym.Space) -> int:
    """How many numbers `action_features` gives."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return int(space.nvec.sum()) if isinstance(space, spaces.MultiDiscrete) else space.shape[0]


def action_features(space: gym.Space, actions: Tensor) -> Tensor:
    """The policy's own actions [P, ...] as numbers [P, F]: one-hot where they are discrete."""
    if isinstance(space, spaces.Discrete):
        return F.one_hot(actions.long(), int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        parts = zip(actions.long().unbind(-1), space.nvec, strict=True)
        return torch.cat([F.one_hot(part, int(n)) for part, n in parts], -1)
    return actions.clamp(-1.0, 1.0)


def barlow_twins(one: Tensor, other: Tensor, there: Tensor, redundancy: float) -> Tensor:
    """(1 - C_ii)^2 summed over features, and `redundancy` times C_ij^2 over pairs of different ones.

    Args:
        one, other: [P, E].
        there: bool [P], which rows count.
    """
    weight = there.to(one.dtype)[:, None]
    count = weight.sum().clamp(min=1.0)

    def standard(x: Tensor) -> Tensor:
        x = (x - (x * weight).sum(0) / count) * weight
        return x / (x.square().sum(0) / count + 1e-5).sqrt()

    correlation = standard(one).T @ standard(other) / count  # (E, E)
    diagonal = correlation.diagonal()
    own = (1.0 - diagonal).square().sum()
    cross = correlation.square().sum() - diagonal.square().sum()
    return torch.where(there.any(), own + redundancy * cross, 0.0)
