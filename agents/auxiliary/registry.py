"""Auxiliary losses by name."""

from __future__ import annotations

import keyword
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
from ct_rl.memory.options import check_declared, check_name, check_options

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
        ValueError: for a class that is no `AuxiliaryLoss`, whose `Options` is no dataclass with defaults, or a name
            that cannot be one or is another's.
    """
    from torch.nn import ModuleDict

    from agents.auxiliary.contract import AuxiliaryLoss
    from ct_rl.memory.contract import LEARNERS_LOSSES

    if not (isinstance(cls, type) and issubclass(cls, AuxiliaryLoss)):
        raise ValueError(f"auxiliary loss {name!r} is {cls!r}: give a subclass of AuxiliaryLoss")
    check_name("auxiliary loss", name, cls, _LOSSES.get(name), _OURS)
    # The losses lie in a ModuleDict and are reported beside the learner's, as fields of a section.
    taken = {"none", *LEARNERS_LOSSES}  # "none" is a flag's word
    is_field = name.isidentifier() and not keyword.iskeyword(name)
    if not is_field or name in taken or hasattr(ModuleDict, name):
        raise ValueError(
            f"auxiliary loss {name!r}: expected a name as Python's variables have, and none of "
            f"{', '.join(sorted(taken))} or what torch.nn.ModuleDict has"
        )
    check_declared("auxiliary loss", name, cls.Options, ("name", "sizes", "self"))
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
        ValueError: for a name or an option that does not exist, naming those that do, a value out of its bounds, or a
            class that does not call its base's constructor.
    """
    cls = _class(name)
    made = cls(sizes, **check_options(f"auxiliary loss {name!r}", cls.Options, options))
    if not hasattr(made, "_modules"):
        raise ValueError(f"auxiliary loss {name!r}: its __init__ must call super().__init__(sizes)")
    return made


def registration(name: str) -> type[AuxiliaryLoss] | None:
    """What `name` was registered with, to be carried elsewhere; None for this package's own and the unknown."""
    return _LOSSES.get(name)


def restore(name: str, found: type[AuxiliaryLoss]) -> None:
    """Enters in this process what `registration` gave in another, unless the name is known here."""
    _LOSSES.setdefault(name, found)


def _class(name: str) -> type[AuxiliaryLoss]:
    if name in _LOSSES:
        return _LOSSES[name]
    if name not in _OURS:
        raise ValueError(unknown("auxiliary loss", name, auxiliary_names()))
    cls: type[AuxiliaryLoss] = getattr(import_module(f"agents.auxiliary.{name}"), _OURS[name][0])
    return cls
