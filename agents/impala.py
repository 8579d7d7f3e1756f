"""IMPALA with memory: RLlib's algorithm on the fast path, where a fragment carries ONE memory snapshot."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.algorithms.impala.impala import IMPALA, IMPALAConfig
from ray.rllib.connectors.learner import LearnerConnectorPipeline
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    WEIGHTS_SEQ_NO,
)

from agents.errors import LearnerFailed
from agents.fragment import FragmentsToBatch
from agents.learner import MemoryIMPALALearner
from agents.module import MemoryRLModule
from agents.registration import register_environment
from agents.runner import FINISHED_EPISODES, MEMORY_BYTES, MemoryEnvRunner
from agents.state import learner_state, load_learner_state

REPORT = "ct_rl"
_LEARNER_KEYS = (
    "policy_loss",
    "value_loss",
    "entropy",
    "compression_loss",
    "rho_mean",
    "policy_lag",
    "target_mean",
    "grad_norm",
)


class MemoryIMPALAConfig(IMPALAConfig):
    """An `IMPALAConfig` whose policy has a memory: `.memory(name, ...)` and `.network(...)` beside RLlib's own.

    Example:
        >>> config = (
        ...     MemoryIMPALAConfig()
        ...     .environment("dmlab_rooms_select")
        ...     .memory("compressive", rate=4, memory=64, compressed=64)
        ... )
    """

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class or MemoryIMPALA)
        self.network_settings: dict[str, Any] = {"memory": "compressive", "memory_options": {}}
        self.compression_loss_coeff = 1.0
        self.adam_epsilon = 1e-5
        self.mixed_precision = False
        self.opt_type = "adam"
        self.rollout_fragment_length = 60
        self.env_runner_cls = MemoryEnvRunner
        # The learner is a thread of the driver: one process less, and no batch is ever dropped.
        self.num_learners = 0
        self.learner_queue_size = 1
        self.lr = 5e-4
        self.entropy_coeff = 0.005
        self.vf_loss_coeff = 0.5
        self.grad_clip = 1.0
        # 0.0, RLlib's default, makes the driver spin: 288 against 11 microseconds a step.
        self.timeout_s_sampler_manager = 0.05
        self.min_time_s_per_iteration = 2
        self.restart_failed_env_runners = True

    def environment(self, env: Any = NotProvided, **kwargs: Any) -> MemoryIMPALAConfig:
        """RLlib's `environment`; a name that Tune does not know yet is looked up in `envs`."""
        if isinstance(env, str) and register_environment(env):
            self.gym_env_vectorize_mode = "vector_entry_point"
        super().environment(env, **kwargs)
        return self

    def memory(self, name: str, **options: Any) -> MemoryIMPALAConfig:
        """Chooses the memory core and its settings, as `ct_rl.memory.build_memory` takes them."""
        self.network_settings = {
            **self.network_settings,
            "memory": name,
            "memory_options": options,
        }
        return self

    def network(
        self,
        *,
        encoder: str | None = None,
        width: int | None = None,
        around: bool | None = None,
        reward_clip: str | None = None,
    ) -> MemoryIMPALAConfig:
        """Sets what surrounds the memory; the arguments are `ActorCritic`'s."""
        given = {
            "encoder": encoder,
            "width": width,
            "around": around,
            "reward_clip": reward_clip,
        }
        self.network_settings = {
            **self.network_settings,
            **{key: value for key, value in given.items() if value is not None},
        }
        return self

    def training(
        self,
        *,
        compression_loss_coeff: float | None = None,
        adam_epsilon: float | None = None,
        mixed_precision: bool | None = None,
        **kwargs: Any,
    ) -> MemoryIMPALAConfig:
        """RLlib's `training`, and the weight of the compression loss, Adam's epsilon, bfloat16 autocast."""
        super().training(**kwargs)
        if compression_loss_coeff is not None:
            self.compression_loss_coeff = compression_loss_coeff
        if adam_epsilon is not None:
            self.adam_epsilon = adam_epsilon
        if mixed_precision is not None:
            self.mixed_precision = mixed_precision
        return self

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return super()._model_config_auto_includes | self.network_settings

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=MemoryRLModule, model_config=self.network_settings)

    def get_default_learner_class(self) -> type:
        return MemoryIMPALALearner

    def build_learner_connector(
        self, input_observation_space: Any, input_action_space: Any, device: Any = None
    ) -> LearnerConnectorPipeline:
        return LearnerConnectorPipeline(
            input_observation_space=input_observation_space,
            input_action_space=input_action_space,
            connectors=[FragmentsToBatch()],
        )


class MemoryIMPALA(IMPALA):
    """RLlib's IMPALA, with a flat report under `result["ct_rl"]`, and its state as plain tensors."""

    @classmethod
    def get_default_config(cls) -> MemoryIMPALAConfig:
        return MemoryIMPALAConfig()

    def setup(self, config: MemoryIMPALAConfig) -> None:
        self._episodes: list[dict[str, float]] = []
        self._memory_bytes = 0
        self._steps_before = 0
        super().setup(config)

    @property
    def steps(self) -> int:
        """Environment steps sampled in this run's life, resumed parts included."""
        sampled = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)
        return self._steps_before + int(sampled)

    def step(self) -> dict[str, Any]:
        try:
            result = super().step()
        except LearnerFailed:
            raise
        except Exception as error:
            failure = self._learner_failure()
            if failure is None:
                raise
            raise LearnerFailed(f"the learner stopped: {failure!r}") from error
        result[REPORT] = self._report(result)
        return result

    def _learner_failure(self) -> BaseException | None:
        learner = getattr(self.learner_group, "_learner", None)
        return getattr(learner, "failure", None)

    def _sample_and_get_connector_states(self) -> Any:
        remote = self.config.num_env_runners > 0
        if remote and self.env_runner_group.num_healthy_remote_workers() == 0:
            # RLlib would sample in the driver, which has no environment; wait for the restart.
            time.sleep(self.config.timeout_s_sampler_manager)
            return [], [], [], set()
        refs, states, metrics, indices = super()._sample_and_get_connector_states()
        notes = [
            {key: state.pop(key) for key in (FINISHED_EPISODES, MEMORY_BYTES) if key in state}
            for state in states
        ]
        if not remote:
            notes.append(self.env_runner.take_finished_episodes())
        for note in notes:
            self._episodes += note.get(FINISHED_EPISODES, [])
            self._memory_bytes = note.get(MEMORY_BYTES, self._memory_bytes)
        return refs, states, metrics, indices

    def _report(self, result: dict[str, Any]) -> dict[str, Any]:
        learned = result.get(LEARNER_RESULTS, {}).get(DEFAULT_MODULE_ID, {})
        # RLlib reports NaN where nothing new was logged; a real NaN has raised NonFinite before.
        known = {key: float(x) for key, x in learned.items() if np.isscalar(x) and x == x}
        report: dict[str, Any] = {key: known[key] for key in _LEARNER_KEYS if key in known}
        for key, value in known.items():
            if key.endswith("policy_learning_rate"):
                report["learning_rate"] = value
        if WEIGHTS_SEQ_NO in known:
            report["updates"] = int(known[WEIGHTS_SEQ_NO])
        episodes, self._episodes = self._episodes, []
        return report | {
            "steps": self.steps,
            "episodes": episodes,
            "memory_bytes_per_runner": self._memory_bytes,
        }

    def training_state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Everything that training continues from, without pickle.

        Returns:
            Tensors (weights under "weights/...", optimiser state under "optimizer/..."), and a
            JSON-able dict of counters, settings and random state.
        """
        tensors, meta = _first(self.learner_group.foreach_learner(learner_state))
        tensors["random/torch"] = torch.get_rng_state()
        return tensors, meta | {
            "steps": self.steps,
            "network": dict(self.config.network_settings),
        }

    def load_training_state(self, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        """Continues from what `training_state` gave; environments begin new episodes, under new seeds.

        Raises:
            ValueError: when the tensors are another network's.
        """
        self._steps_before += int(meta["steps"]) - self.steps
        tensors = dict(tensors)
        torch.set_rng_state(tensors.pop("random/torch"))
        self.learner_group.foreach_learner(
            lambda learner: load_learner_state(learner, tensors, meta)
        )
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group, inference_only=True
        )
        salt = int(meta["steps"])
        self.env_runner_group.foreach_env_runner(lambda runner: runner.reseed(salt))


def _first(results: Any) -> Any:
    """What the first learner answered, raising its error if it failed."""
    result = next(iter(results))
    return result.get() if hasattr(result, "get") else result
