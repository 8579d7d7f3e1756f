"""ct_rl: reinforcement-learning agents with a compressive memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ct_rl.agent import Agent, load_agent

__all__ = ["Agent", "load_agent"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'ct_rl' has no attribute {name!r}")
    from ct_rl import agent  # torch takes a second that a refused command need not wait for

    return getattr(agent, name)
