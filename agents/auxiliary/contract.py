"""What every auxiliary loss is: a module that sees a fragment as the network saw it, and returns one scalar.

Shapes: N rows, T steps, F features of the encoder, D outputs of the memory core.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """What an auxiliary loss is built for.

    Attributes:
        features: F.
        outputs: D.
        observation_space, action_space: of ONE environment.
    """

    features: int
    outputs: int
    observation_space: gym.Space
    action_space: gym.Space


@dataclass
class Experience:
    """A fragment as the network saw it, on the network's device.

    Attributes:
        observation: tensors [N, T, ...] (or a dict of them).
        features: [N, T, F], the encoder's, with gradient.
        outputs: [N, T, D], the memory core's, with gradient.
        actions: [N, T, ...], the policy's own; rewards: [N, T], raw: what came of them.
        resets: bool [N, T], True where a step is the first of its episode.
        ignored: bool [N, T], True where no action was taken: the environment was being reset, or the row is padding.
    """

    observation: Any
    features: Tensor
    outputs: Tensor
    actions: Tensor
    rewards: Tensor
    resets: Tensor
    ignored: Tensor

    @property
    def episode(self) -> Tensor:
        """int64 [N, T]: which of its row's episodes a step belongs to, from 0."""
        return self.resets.long().cumsum(1)


class AuxiliaryLoss(nn.Module, abc.ABC):
    """One loss beside the task's, with whatever weights it needs; they exist in training only to serve it.

    A subclass lies in one file: `register_auxiliary(NAME, cls)` makes it `--auxiliary NAME`, and the contract tests
    pick it up. Steps that `Experience.ignored` marks, and pairs across episodes or rows, are its own to leave out.

    Attributes:
        Options: the frozen dataclass of its settings; its fields are the keywords of the constructor.
        small: settings with which the contract tests build it.
    """

    @dataclass(frozen=True)
    class Options:
        """No settings."""

    small: ClassVar[dict[str, Any]] = {}

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = sizes

    @abc.abstractmethod
    def forward(self, experience: Experience) -> Tensor:
        """The loss, a floating-point scalar with a gradient; 0 where the experience holds nothing to learn from."""
