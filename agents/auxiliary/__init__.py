"""Auxiliary losses: what a network learns beside the task, from the same fragments.

Importing this loads no torch: the classes are resolved when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.auxiliary.registry import (
    auxiliary_names,
    auxiliary_options,
    build_auxiliary,
    register_auxiliary,
)
from ct_rl.lazy_names import lazy_names

if TYPE_CHECKING:
    from agents.auxiliary.contract import AuxiliaryLoss, Experience, Sizes
    from agents.auxiliary.contrast import Contrast
    from agents.auxiliary.prediction import Prediction
    from agents.auxiliary.recall import Recall
    from agents.auxiliary.reconstruction import Reconstruction

_MODULES = {
    "AuxiliaryLoss": "contract",
    "Contrast": "contrast",
    "Experience": "contract",
    "Prediction": "prediction",
    "Recall": "recall",
    "Reconstruction": "reconstruction",
    "Sizes": "contract",
}

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

__getattr__, __dir__ = lazy_names(globals(), _MODULES)
