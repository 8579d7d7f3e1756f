"""The settings of the auxiliary losses that ship, apart from their classes: reading flags loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le


@dataclass(frozen=True)
class ContrastOptions:
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


@dataclass(frozen=True)
class PredictionOptions:
    """Settings of `prediction`."""

    loss: Literal["info_nce", "barlow_twins"] = "info_nce"
    """How prediction and next embedding are compared."""
    steps: Annotated[int, Ge(2), Le(65_536)] = 256
    """Steps drawn from a minibatch, at most [count]."""
    temperature: Annotated[float, Gt(0), Le(100)] = 0.1
    """What similarities are divided by, for info_nce."""
    redundancy: Annotated[float, Ge(0), Le(1)] = 5e-3
    """Weight of the correlations between different features, for barlow_twins."""
    width: Annotated[int, Ge(1), Le(65_536)] = 256
    """Width of the hidden layers [units]."""
    embedding: Annotated[int, Ge(1), Le(65_536)] = 64
    """Width of the embedding that is compared [units]."""


@dataclass(frozen=True)
class RecallOptions:
    """Settings of `recall`."""

    horizon: Annotated[int, Ge(1), Le(10_000)] = 32
    """Steps that are asked back, at most [steps]."""
    pairs: Annotated[int, Ge(2), Le(65_536)] = 256
    """Pairs drawn from a minibatch, at most [count]."""
    temperature: Annotated[float, Gt(0), Le(100)] = 0.1
    """What similarities are divided by."""
    width: Annotated[int, Ge(1), Le(65_536)] = 256
    """Width of the hidden layers [units]."""
    embedding: Annotated[int, Ge(1), Le(65_536)] = 64
    """Width of the embedding that is compared [units]."""


@dataclass(frozen=True)
class ReconstructionOptions:
    """Settings of `reconstruction`."""

    steps: Annotated[int, Ge(1), Le(65_536)] = 256
    """Steps drawn from a minibatch, at most [count]."""
    side: Annotated[int, Ge(1), Le(1024)] = 24
    """Longer side of the frame that is rebuilt [pixels]."""
    width: Annotated[int, Ge(1), Le(65_536)] = 256
    """Width of the hidden layer [units]."""
