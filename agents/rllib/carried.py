"""Classes that a script or a notebook registered, on their way to the processes of runners and learners.

A module that registers is imported there (`imports`); a script is not, and its classes travel by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ray import cloudpickle

from agents import encoders
from agents.auxiliary import registry as losses
from ct_rl.memory import registry as memories

_REGISTRIES: dict[str, Any] = {
    "memory": memories,
    "encoder": encoders,
    "auxiliary loss": losses,
}


class Carried:
    """One registered name with its classes; the classes are pickled by value where they are a script's.

    Raises:
        ValueError: where it is pickled and its classes hold something that cannot be.
    """

    def __init__(self, kind: str, name: str, found: Any):
        self.kind, self.name, self.found = kind, name, found

    def __deepcopy__(self, memo: Any) -> Carried:
        return self  # classes are not copied, and a copy of a config is not sent anywhere

    def __repr__(self) -> str:
        return f"{self.kind} {self.name!r}"

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            pickled = cloudpickle.dumps(self.found)
        except Exception as error:
            raise ValueError(
                f"{self!r} is registered in this process only and cannot be sent to another "
                f"({type(error).__name__}: {error}): put it in a module and call .imports('module')"
            ) from error
        return _arrived, (self.kind, self.name, pickled)

    def enter(self) -> None:
        """Makes the name known in this process, unless it is."""
        _REGISTRIES[self.kind].restore(self.name, self.found)


def _arrived(kind: str, name: str, pickled: bytes) -> Carried:
    return Carried(kind, name, cloudpickle.loads(pickled))


def carry(settings: Mapping[str, Any]) -> tuple[Carried, ...]:
    """Whatever of `ActorCritic`'s settings names a class that was registered, not one of this package's own."""
    named = [("memory", settings.get("memory")), ("encoder", settings.get("encoder"))]
    named += [("auxiliary loss", name) for name in settings.get("auxiliary") or {}]
    found = [
        (kind, name, _REGISTRIES[kind].registration(name))
        for kind, name in named
        if isinstance(name, str)
    ]
    return tuple(Carried(*one) for one in found if one[2] is not None)


def enter(carried: Iterable[Carried]) -> None:
    """Makes every name known in this process, unless it is."""
    for one in carried:
        one.enter()
