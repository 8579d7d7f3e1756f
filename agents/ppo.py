"""PPO with memory: synchronous sampling, several epochs over whole rows, one memory snapshot a fragment."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms.ppo.ppo import PPO, PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.metrics import (
    ALL_MODULES,
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
)

from agents.algorithm import MemoryAlgorithm
from agents.appo import clipped_surrogate
from agents.config import MemoryConfig
from agents.fragment import IGNORED, rows_of
from agents.gae import gae
from agents.learner import Losses, MemoryLearner, Seen
from agents.module import MemoryRLModule
from agents.rewards import clip_reward

ADVANTAGES, TARGETS = "advantages", "value_targets"


class MemoryPPOConfig(MemoryConfig, PPOConfig):
    """A `PPOConfig` whose policy has a memory; a minibatch is `minibatch_size // T` whole rows.

    Advantages are centred and divided by their standard deviation, but never by less than
    `least_advantage_std`: where reward is almost always absent, dividing by a tiny one feeds noise to
    the policy and its entropy collapses.
    """

    def __init__(self, algo_class: type | None = None):
        super().__init__(algo_class or MemoryPPO)
        self.memory_defaults()
        self.least_advantage_std = 0.3
        self.lambda_ = 0.95
        self.clip_param = 0.2
        self.num_epochs = 4
        self.minibatch_size = None
        self.use_kl_loss = False
        # RLlib's 10.0 takes the gradient from every value that is off by more than 3.2, for ever.
        self.vf_clip_param = float("inf")

    def training(self, *, least_advantage_std: float | None = None, **kwargs: Any) -> Any:
        super().training(**kwargs)
        if least_advantage_std is not None:
            self.least_advantage_std = least_advantage_std
        return self

    def get_default_learner_class(self) -> type:
        return MemoryPPOLearner


class MemoryPPOLearner(MemoryLearner, PPOTorchLearner):
    """PPO's loss (arXiv 1707.06347) plus the memory's own."""

    def update(self, training_data: Any, **kwargs: Any) -> Any:
        training_data.solve_refs()
        if training_data.episodes is not None and not training_data.episodes:
            return {}  # the fragments died with their runner
        return super().update(training_data=training_data, **kwargs)

    def prepare(self, module: MemoryRLModule, columns: dict[str, Any]) -> dict[str, Any]:
        """Advantages, targets and the old policy, under the weights before the batch's first update."""
        net, config = module.net.eval(), self.config
        rows, steps = columns[Columns.REWARDS].shape[:2]
        size = max(1, (config.minibatch_size or rows * steps) // steps)
        advantages, targets, policies = [], [], []
        for start in range(0, rows, size):
            part = rows_of(columns, np.arange(start, min(start + size, rows)), self._device)
            with torch.no_grad():
                out = module._run(part)
            found = gae(
                rewards=clip_reward(part[Columns.REWARDS], net.reward_clip),
                values=out.value,
                terminateds=part[Columns.TERMINATEDS],
                ignored=part[IGNORED],
                gamma=config.gamma,
                lambda_=config.lambda_,
            )
            advantages.append(found[0].cpu().numpy())
            targets.append(found[1].cpu().numpy())
            policies.append(out.policy[:, :-1].cpu().numpy())
        net.train()
        advantage = np.concatenate(advantages)
        taken = advantage[~columns[IGNORED]]
        spread = max(float(taken.std()), config.least_advantage_std)
        return {
            **columns,
            ADVANTAGES: (advantage - taken.mean()) / spread,
            TARGETS: np.concatenate(targets),
            Columns.ACTION_DIST_INPUTS: np.concatenate(policies),
        }

    def losses(self, seen: Seen) -> Losses:
        batch, config = seen.batch, seen.config
        ratio = (seen.log_probs - batch[Columns.ACTION_LOGP]).exp()
        objective = clipped_surrogate(ratio, batch[ADVANTAGES], config.clip_param)
        errors = (seen.values[:, :-1] - batch[TARGETS]).square()
        old = seen.module.net.distribution(batch[Columns.ACTION_DIST_INPUTS])
        return Losses(
            policy=-seen.mean(objective),
            value=seen.mean(errors.clamp(max=config.vf_clip_param)),
            target_mean=seen.mean(batch[TARGETS]),
            kl=seen.mean(old.kl(seen.policy)) if config.use_kl_loss else None,
        )


class MemoryPPO(MemoryAlgorithm, PPO):
    """RLlib's PPO on fragments, with a flat report under `result["ct_rl"]`."""

    @classmethod
    def get_default_config(cls) -> MemoryPPOConfig:
        return MemoryPPOConfig()

    def setup(self, config: MemoryPPOConfig) -> None:
        self._gathered: list[ray.ObjectRef] = []
        super().setup(config)

    def training_step(self) -> None:
        """Samples until the batch is full, learns from it, and hands out the new weights.

        When every runner is gone the fragments so far are kept for the next call.
        """
        config = self.config
        fragment = config.num_envs_per_env_runner * config.get_rollout_fragment_length()
        while len(self._gathered) * fragment < config.total_train_batch_size:
            sampled = self._sample() if self._await_runners() else []
            if not sampled:
                return
            refs, states, metrics = (list(parts) for parts in zip(*sampled, strict=True))
            self._note(states)
            self._gathered += self._owned(refs)
            self.metrics.aggregate(metrics, key=ENV_RUNNER_RESULTS)
        gathered, self._gathered = self._gathered, []
        if config.num_learners > 1:
            gathered = gathered[: len(gathered) - len(gathered) % config.num_learners]
        learned = self.learner_group.update(
            training_data=TrainingData(episodes_refs=gathered),
            timesteps={
                NUM_ENV_STEPS_SAMPLED_LIFETIME: self.metrics.peek(
                    (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0
                ),
                NUM_MODULE_STEPS_TRAINED_LIFETIME: self.metrics.peek(
                    (LEARNER_RESULTS, ALL_MODULES, NUM_MODULE_STEPS_TRAINED_LIFETIME), default=0
                ),
            },
            num_epochs=config.num_epochs,
            minibatch_size=config.minibatch_size,
        )
        self.metrics.aggregate([result for result in learned if result], key=LEARNER_RESULTS)
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group, inference_only=True
        )

    def _sample(self) -> list[Any]:
        """One (fragments, notes, metrics) from every healthy runner."""
        if not self.config.num_env_runners:
            fragments = ray.put(self.env_runner.sample())
            notes = self.env_runner.take_finished_episodes()
            return [(fragments, notes, self.env_runner.get_metrics())]
        return self.env_runner_group.foreach_env_runner(
            "sample_get_state_and_metrics",
            local_env_runner=False,
            timeout_seconds=self.config.sample_timeout_s,
        )
