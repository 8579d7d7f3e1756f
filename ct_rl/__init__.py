"""ct_rl: reinforcement-learning agents with a compressive memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ct_rl.lazy_names import lazy_names

if TYPE_CHECKING:
    from ct_rl.agent import Agent, load_agent
    from ct_rl.algorithm import recipe_config

__all__ = ["Agent", "load_agent", "recipe_config"]

# Imported when asked for: torch takes a second that a refused command need not wait for.
_MODULES = {"Agent": "agent", "load_agent": "agent", "recipe_config": "algorithm"}

__getattr__, __dir__ = lazy_names(globals(), _MODULES)
