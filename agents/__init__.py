"""Agents with memory: an actor-critic in plain torch, and its RLlib side in `agents.rllib`.

Importing this loads neither Ray nor torch: names that need them are resolved when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.auxiliary.registry import auxiliary_names, auxiliary_options, register_auxiliary
from agents.errors import LearnerDied, LearnerFailed, NonFinite, RunnerFailed
from ct_rl.lazy_names import lazy_names

if TYPE_CHECKING:
    from agents.actor_critic import ActorCritic
    from agents.auxiliary.contract import AuxiliaryLoss
    from agents.encoders import encoder_names, register_encoder
    from agents.rllib.appo import MemoryAPPO, MemoryAPPOConfig
    from agents.rllib.impala import MemoryIMPALA, MemoryIMPALAConfig
    from agents.rllib.module import MemoryRLModule
    from agents.rllib.ppo import MemoryPPO, MemoryPPOConfig
    from agents.rllib.registration import register, register_environment
    from agents.rllib.stock import check_stock, with_memory
    from agents.saliency import Saliency, memory_saliency

_MODULES = {
    "ActorCritic": "actor_critic",
    "AuxiliaryLoss": "auxiliary.contract",
    "MemoryAPPO": "rllib.appo",
    "MemoryAPPOConfig": "rllib.appo",
    "MemoryIMPALA": "rllib.impala",
    "MemoryIMPALAConfig": "rllib.impala",
    "MemoryPPO": "rllib.ppo",
    "MemoryPPOConfig": "rllib.ppo",
    "MemoryRLModule": "rllib.module",
    "Saliency": "saliency",
    "check_stock": "rllib.stock",
    "encoder_names": "encoders",
    "memory_saliency": "saliency",
    "register": "rllib.registration",
    "register_encoder": "encoders",
    "register_environment": "rllib.registration",
    "with_memory": "rllib.stock",
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

__getattr__, __dir__ = lazy_names(globals(), _MODULES)
