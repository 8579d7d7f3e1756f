"""Auxiliary losses: what a network learns beside the task, from the same fragments.

Importing this loads no torch: the classes are resolved when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agents.auxiliary.registry import (
    auxiliary_names,
    auxiliary_options,
    build_auxiliary,
    register_auxiliary,
)

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


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'agents.auxiliary' has no attribute {name!r}")
    return getattr(import_module(f"agents.auxiliary.{_MODULES[name]}"), name)
