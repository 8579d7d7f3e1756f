"""Agents with memory: an actor-critic in plain torch, and its RLlib side."""

from agents.actor_critic import ActorCritic
from agents.errors import LearnerFailed, NonFinite
from agents.impala import MemoryIMPALA, MemoryIMPALAConfig
from agents.module import MemoryRLModule
from agents.registration import register, register_environment

__all__ = [
    "ActorCritic",
    "LearnerFailed",
    "MemoryIMPALA",
    "MemoryIMPALAConfig",
    "MemoryRLModule",
    "NonFinite",
    "register",
    "register_environment",
]
