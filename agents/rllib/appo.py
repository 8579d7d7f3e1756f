"""APPO with memory: a clipped surrogate against a slowly moving target policy (IMPACT, arXiv 1912.00167)."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.appo.appo import APPO, APPOConfig
from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS
from ray.rllib.utils.metrics import NUM_ENV_STEPS_TRAINED_LIFETIME
from torch import Tensor

from agents.fragment import RESETS
from agents.rllib.config import MemoryAlgorithmConfig
from agents.rllib.impala import AsynchronousAlgorithm
from agents.rllib.learner import Losses, LossInput, MemoryLearner
from agents.rllib.learner_thread import GuardedLearner


class MemoryAPPOConfig(MemoryAlgorithmConfig, APPOConfig):
    """An `APPOConfig` whose policy has a memory.

    Batches are learned from in the order they come, `num_epochs` times each; RLlib's circular buffer,
    which repeats and drops batches and spins while it is empty, is off. The target policy follows every
    `target_network_update_freq` batches.
    """

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class or MemoryAPPO)
        self.memory_defaults()
        self.timeout_s_sampler_manager = 0.05
        self.use_circular_buffer = False
        self.simple_queue_size = 1
        self.num_gpu_loader_threads = 1  # several could change the batches' order
        self.circular_buffer_num_batches = self.circular_buffer_iterations_per_batch = 1

    def get_default_learner_class(self) -> type:
        return MemoryAPPOLearner


class MemoryAPPOLearner(MemoryLearner, GuardedLearner, APPOTorchLearner):
    """APPO's loss as RLlib means it, plus the memory's own.

    V-trace corrects from the acting to the target policy; the surrogate's ratio is current over target
    probability where the target is at most `target_worker_clipping` times less likely than the actor.
    """

    def build(self) -> None:
        super().build()
        # RLlib looks for target networks at the wrapper that several learners put around a module.
        for module_id in self.module.keys():  # noqa: SIM118
            module = self.module[module_id].unwrapped()
            if module.target_net is None:
                module.make_target_networks()

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """The target follows by batches; by RLlib's count passes are more steps, and a world's reset is fewer."""
        batches = self._weights_seq_no * self.config.train_batch_size_per_learner
        super().after_gradient_based_update(
            timesteps=timesteps | {NUM_ENV_STEPS_TRAINED_LIFETIME: batches}
        )

    @property
    def target_updated_at(self) -> int:
        """The update after which the target last followed."""
        at = self._last_update_ts_by_mid[DEFAULT_MODULE_ID]
        return int(at) // int(self.config.train_batch_size_per_learner)

    @target_updated_at.setter
    def target_updated_at(self, update: int) -> None:
        at = update * self.config.train_batch_size_per_learner
        self._last_update_ts_by_mid[DEFAULT_MODULE_ID] = at

    def losses(self, given: LossInput) -> Losses:
        fragment, config = given.fragment, given.config
        seen = {
            Columns.OBS: fragment.obs,
            Columns.STATE_IN: fragment.state,
            RESETS: fragment.resets,
        }
        target = given.module.net.distribution(
            given.module.forward_target(seen)[TARGET_NETWORK_ACTION_DIST_INPUTS][:, :-1]
        )
        acting = fragment.log_probs
        target_log_probs = target.log_prob(fragment.actions)
        targets, advantages = given.vtrace(target_log_probs)
        weight = (acting - target_log_probs).exp().clamp(max=config.target_worker_clipping)
        ratio = weight * (given.log_probs - acting).exp()
        kl = given.mean(target.kl(given.policy)) if config.use_kl_loss else None
        return Losses(
            policy=-given.mean(clipped_surrogate(ratio, advantages, config.clip_param)),
            value=0.5 * given.mean(given.value_errors(targets)),
            target_mean=given.mean(targets),
            kl=kl,
        )


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """PPO's objective (arXiv 1707.06347, equation 7) per step, to be maximised."""
    return (advantages * ratio).minimum(advantages * ratio.clamp(1.0 - clip, 1.0 + clip))


class MemoryAPPO(AsynchronousAlgorithm, APPO):
    """RLlib's APPO on fragments, with a flat report under `result["ct_rl"]`."""

    @classmethod
    def get_default_config(cls) -> MemoryAPPOConfig:
        return MemoryAPPOConfig()
