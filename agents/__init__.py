"""Agents with memory: an actor-critic in plain torch, and its RLlib side."""

from agents.actor_critic import ActorCritic
from agents.appo import MemoryAPPO, MemoryAPPOConfig
from agents.errors import LearnerDied, LearnerFailed, NonFinite, RunnerFailed
from agents.impala import MemoryIMPALA, MemoryIMPALAConfig
from agents.module import MemoryRLModule
from agents.ppo import MemoryPPO, MemoryPPOConfig
from agents.registration import register, register_environment
from agents.stock import install

install()

__all__ = [
    "ActorCritic",
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
    "register",
    "register_environment",
]
