"""IMPALA with memory: RLlib's algorithm on the fast path, where a fragment carries ONE memory snapshot."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.impala.impala import IMPALA, IMPALAConfig
from ray.rllib.core.columns import Columns

from agents.algorithm import MemoryAlgorithm
from agents.config import MemoryConfig
from agents.fragment import IGNORED
from agents.learner import Losses, MemoryLearner, Seen
from agents.learner_thread import GuardedLearner
from agents.vtrace import vtrace


class MemoryIMPALAConfig(MemoryConfig, IMPALAConfig):
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
        # 0.0, RLlib's default, makes the driver spin: 288 against 11 microseconds a step.
        self.timeout_s_sampler_manager = 0.05

    def get_default_learner_class(self) -> type:
        return MemoryIMPALALearner


class MemoryIMPALALearner(MemoryLearner, GuardedLearner):
    """IMPALA's loss (arXiv 1802.01561, section 4) plus the memory's own."""

    def losses(self, seen: Seen) -> Losses:
        batch, config = seen.batch, seen.config
        targets, advantages = vtrace(
            log_rho=(seen.log_probs - batch[Columns.ACTION_LOGP]).detach(),
            rewards=seen.rewards,
            values=seen.values.detach(),
            terminateds=batch[Columns.TERMINATEDS],
            ignored=batch[IGNORED],
            gamma=config.gamma,
            clip_rho=config.vtrace_clip_rho_threshold,
            clip_pg_rho=config.vtrace_clip_pg_rho_threshold,
        )
        return Losses(
            policy=-seen.mean(seen.log_probs * advantages),
            value=0.5 * seen.mean((seen.values[:, :-1] - targets).square()),
            target_mean=seen.mean(targets),
        )


class AsynchronousAlgorithm(MemoryAlgorithm, IMPALA):
    """RLlib's asynchronous sampling, for IMPALA and what builds on it."""

    def _sample_and_get_connector_states(self) -> Any:
        if not self._await_runners():
            return [], [], [], set()
        refs, states, metrics, indices = super()._sample_and_get_connector_states()
        if not self.config.num_env_runners:
            states = [{**states[0], **self.env_runner.take_finished_episodes()}]
        self._note(states)
        return self._owned(refs), states, metrics, indices


class MemoryIMPALA(AsynchronousAlgorithm):
    """RLlib's IMPALA on fragments, with a flat report under `result["ct_rl"]`."""

    @classmethod
    def get_default_config(cls) -> MemoryIMPALAConfig:
        return MemoryIMPALAConfig()
