"""Agents with memory: an actor-critic in plain torch, and its RLlib side in `agents.rllib`.

Importing this loads no Ray; the names that need it are resolved when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agents.actor_critic import ActorCritic
from agents.auxiliary import (
    AuxiliaryLoss,
    auxiliary_names,
    auxiliary_options,
    register_auxiliary,
)
from agents.encoders import encoder_names, register_encoder
from agents.errors import LearnerDied, LearnerFailed, NonFinite, RunnerFailed
from agents.saliency import Saliency, memory_saliency

if TYPE_CHECKING:
    from agents.rllib.appo import MemoryAPPO, MemoryAPPOConfig
    from agents.rllib.impala import MemoryIMPALA, MemoryIMPALAConfig
    from agents.rllib.module import MemoryRLModule
    from agents.rllib.ppo import MemoryPPO, MemoryPPOConfig
    from agents.rllib.registration import register, register_environment
    from agents.rllib.stock import check_stock, with_memory

_RLLIB = {
    "MemoryAPPO": "appo",
    "MemoryAPPOConfig": "appo",
    "MemoryIMPALA": "impala",
    "MemoryIMPALAConfig": "impala",
    "MemoryPPO": "ppo",
    "MemoryPPOConfig": "ppo",
    "MemoryRLModule": "module",
    "check_stock": "stock",
    "register": "registration",
    "register_environment": "registration",
    "with_memory": "stock",
}

__all__ = [
    "ActorCritic",
    "AuxiliaryLoss",
    "LearnerDied",
    "LearnerFailed",
    "MemoryAPPO",
    "MemoryAPPOConfig",
    "MemoryIMPALA",
    "MemoryIMPALAConfig",
    "MemoryPPO",
    "MemoryPPOConfig",
    "MemoryRLModule",
    "NonFinite",
    "RunnerFailed",
    "Saliency",
    "auxiliary_names",
    "auxiliary_options",
    "check_stock",
    "encoder_names",
    "memory_saliency",
    "register",
    "register_auxiliary",
    "register_encoder",
    "register_environment",
    "with_memory",
]


def __getattr__(name: str) -> Any:
    if name not in _RLLIB:
        raise AttributeError(f"module 'agents' has no attribute {name!r}")
    return getattr(import_module(f"agents.rllib.{_RLLIB[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
