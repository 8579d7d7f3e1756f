"""ct_rl: reinforcement-learning agents with a compressive memory."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ct_rl.agent import Agent, load_agent
    from ct_rl.algorithm import recipe_config

__all__ = ["Agent", "load_agent", "recipe_config"]

# Imported when asked for: torch takes a second that a refused command need not wait for.
_MODULES = {"Agent": "agent", "load_agent": "agent", "recipe_config": "algorithm"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ct_rl' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ct_rl.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
