"""Auxiliary losses by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from agents.auxiliary.options import (
    ContrastOptions,
    PredictionOptions,
    RecallOptions,
    ReconstructionOptions,
)
from agents.errors import unknown

if TYPE_CHECKING:
    from agents.auxiliary.contract import AuxiliaryLoss, Sizes

# Name, class in the module of that name, and options; torch is loaded when the class is asked for.
_OURS: dict[str, tuple[str, type]] = {
    "contrast": ("Contrast", ContrastOptions),
    "prediction": ("Prediction", PredictionOptions),
    "recall": ("Recall", RecallOptions),
    "reconstruction": ("Reconstruction", ReconstructionOptions),
}
_LOSSES: dict[str, type[AuxiliaryLoss]] = {}


def register_auxiliary(name: str, cls: type[AuxiliaryLoss]) -> None:
    """Makes `cls` known as `name`: `--auxiliary NAME`, its loss is logged as NAME_loss.

    Raises:
        ValueError: for a class that is no `AuxiliaryLoss`, or whose `Options` is no dataclass.
    """
    from agents.auxiliary.contract import AuxiliaryLoss

    if not (isinstance(cls, type) and issubclass(cls, AuxiliaryLoss)):
        raise ValueError(f"auxiliary loss {name!r} is {cls!r}: give a subclass of AuxiliaryLoss")
    if not dataclasses.is_dataclass(cls.Options):
        raise ValueError(f"auxiliary loss {name!r} has no dataclass Options: give it one")
    _LOSSES[name] = cls


def auxiliary_names() -> list[str]:
    """The names that `build_auxiliary` knows."""
    return sorted({*_OURS, *_LOSSES})


def auxiliary_options(name: str) -> type:
    """The dataclass of the settings of the loss `name`.

    Raises:
        ValueError: for a name that does not exist, naming those that do.
    """
    if name in _OURS and name not in _LOSSES:
        return _OURS[name][1]
    return _class(name).Options


def build_auxiliary(name: str, sizes: Sizes, options: Mapping[str, Any]) -> AuxiliaryLoss:
    """An auxiliary loss by its name.

    Raises:
        ValueError: for a name or an option that does not exist, naming those that do.
    """
    cls = _class(name)
    known = [field.name for field in dataclasses.fields(cls.Options)]
    for option in options:
        if option not in known:
            raise ValueError(unknown(f"option of auxiliary loss {name!r}", option, known))
    settings = cls.Options(**options)
    return cls(sizes, **{key: getattr(settings, key) for key in known})


def _class(name: str) -> type[AuxiliaryLoss]:
    if name in _LOSSES:
        return _LOSSES[name]
    if name not in _OURS:
        raise ValueError(unknown("auxiliary loss", name, auxiliary_names()))
    cls: type[AuxiliaryLoss] = getattr(import_module(f"agents.auxiliary.{name}"), _OURS[name][0])
    return cls
