"""Auxiliary losses: what a network learns beside the task, from the same fragments."""

from agents.auxiliary.contract import AuxiliaryLoss, Experience, Sizes
from agents.auxiliary.contrast import Contrast
from agents.auxiliary.prediction import Prediction
from agents.auxiliary.recall import Recall
from agents.auxiliary.reconstruction import Reconstruction
from agents.auxiliary.registry import (
    auxiliary_names,
    auxiliary_options,
    build_auxiliary,
    register_auxiliary,
)

__all__ = [
    "AuxiliaryLoss",
    "Contrast",
    "Experience",
    "Prediction",
    "Recall",
    "Reconstruction",
    "Sizes",
    "auxiliary_names",
    "auxiliary_options",
    "build_auxiliary",
    "register_auxiliary",
]
