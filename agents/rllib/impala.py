"""IMPALA with memory: RLlib's algorithm on the fast path, where a fragment carries ONE memory snapshot."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.impala.impala import IMPALA, IMPALAConfig

from agents.rllib.algorithm import MemoryAlgorithm, deaths_as_runner_failed
from agents.rllib.config import MemoryAlgorithmConfig
from agents.rllib.learner import Losses, LossInput, MemoryLearner
from agents.rllib.learner_thread import GuardedLearner


class MemoryIMPALAConfig(MemoryAlgorithmConfig, IMPALAConfig):
    """An `IMPALAConfig` whose policy has a memory.

    Example:
        >>> config = (
        ...     MemoryIMPALAConfig()
        ...     .environment("dmlab_rooms_select")
        ...     .memory("compressive", rate=4, memory=64, compressed=64)
        ... )
    """

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class or MemoryIMPALA)
        self.memory_defaults()
        self.learner_queue_size = 1
        self.num_gpu_loader_threads = 1  # several could change the batches' order
        # 0.0, RLlib's default, makes the driver spin: 288 against 11 microseconds a step.
        self.timeout_s_sampler_manager = 0.05

    def get_default_learner_class(self) -> type:
        return MemoryIMPALALearner


class MemoryIMPALALearner(MemoryLearner, GuardedLearner):
    """IMPALA's loss (arXiv 1802.01561, section 4) plus the memory's own."""

    def losses(self, given: LossInput) -> Losses:
        targets, advantages = given.vtrace(given.log_probs)
        return Losses(
            policy=-given.mean(given.log_probs * advantages),
            value=0.5 * given.mean(given.value_errors(targets)),
            target_mean=given.mean(targets),
        )


class AsynchronousAlgorithm(MemoryAlgorithm, IMPALA):
    """RLlib's asynchronous sampling, for IMPALA and what builds on it."""

    def _sample_and_get_connector_states(self) -> Any:
        if not self._await_runners():
            return [], [], [], set()
        with deaths_as_runner_failed():
            refs, states, metrics, indices = super()._sample_and_get_connector_states()
        if not self.config.num_env_runners:
            states = [{**states[0], **self.env_runner.take_notes()}]
        self._note(states)
        return self._owned(refs), states, metrics, indices


class MemoryIMPALA(AsynchronousAlgorithm):
    """RLlib's IMPALA on fragments, with a flat report under `result["ct_rl"]`."""

    @classmethod
    def get_default_config(cls) -> MemoryIMPALAConfig:
        return MemoryIMPALAConfig()
