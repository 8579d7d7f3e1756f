"""PPO with memory: synchronous sampling, several epochs over whole rows, one memory snapshot a fragment."""

from __future__ import annotations

from typing import Any

import ray
import torch
from ray.rllib.algorithms.ppo.ppo import PPO, PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.utils.metrics import (
    ALL_MODULES,
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
)
from torch import Tensor

from agents.fragment import PICKED, VALUES, Fragment, as_tensor
from agents.gae import gae
from agents.rewards import clip_reward
from agents.rllib.algorithm import MemoryAlgorithm, deaths_as_runner_failed
from agents.rllib.appo import clipped_surrogate
from agents.rllib.config import MemoryAlgorithmConfig
from agents.rllib.learner import Losses, LossInput, MemoryLearner
from agents.rllib.shares import over_learners

ADVANTAGES, TARGETS, POLICY = "advantages", "value_targets", "policy_before"


class MemoryPPOConfig(MemoryAlgorithmConfig, PPOConfig):
    """A `PPOConfig` whose policy has a memory; a minibatch is `minibatch_size // T` whole rows.

    Advantages are centred and divided by their standard deviation, but never by less than
    `least_advantage_std`: where reward is almost always absent, dividing by a tiny one feeds noise to
    the policy and its entropy collapses.
    """

    learns_with_acting_weights = samples_in_rounds = True

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

    def update(self, training_data: Any, *, timesteps: dict[str, Any], **kwargs: Any) -> Any:
        """Learns from a batch of fragments; nothing from one whose fragments died with their runner."""
        fragment = self.gather(training_data)
        if fragment is None:
            return {}
        self.learn(fragment, timesteps, **kwargs)
        return self.metrics.reduce()

    def prepare(self, fragment: Fragment) -> Fragment:
        """Advantages and targets from the values of the policy that acted; its distributions where the loss asks.

        No pass of the network is needed for the values: PPO learns with the weights that acted, which had them.
        """
        net, config = self.net, self.config
        values, rewards, terminateds, ignored = (
            as_tensor(x).to(self._device)
            for x in (
                fragment.extra[VALUES],
                fragment.rewards,
                fragment.terminateds,
                fragment.ignored,
            )
        )
        advantages, targets = gae(
            rewards=clip_reward(rewards, net.reward_clip),
            values=values,
            terminateds=terminateds,
            ignored=ignored,
            gamma=config.gamma,
            lambda_=config.lambda_,
        )
        fragment.extra = {key: x for key, x in fragment.extra.items() if key == PICKED} | {
            ADVANTAGES: normalised(advantages, ~ignored, config.least_advantage_std),
            TARGETS: targets,
        }
        if config.use_kl_loss:
            fragment.extra[POLICY] = self._policy_before(fragment)
        return fragment

    @torch.no_grad()
    def _policy_before(self, fragment: Fragment) -> Tensor:
        """The policy's parameters [N, T, P] before the batch's first update, a minibatch at a time."""
        rows, steps = fragment.shape
        size = max(1, (self.config.minibatch_size or rows * steps) // steps)
        self.net.eval()
        found = []
        for start in range(0, rows, size):
            part = fragment.rows(slice(start, start + size)).to_device(self._device)
            picked = part.extra.get(PICKED)
            out = self.net(part.obs, part.state, part.resets, picked)
            found.append(out.policy[:, :-1])
        self.net.train()
        return torch.cat(found)

    def losses(self, given: LossInput) -> Losses:
        fragment, config = given.fragment, given.config
        ratio = (given.log_probs - fragment.log_probs).exp()
        objective = clipped_surrogate(ratio, fragment.extra[ADVANTAGES], config.clip_param)
        errors = given.value_errors(fragment.extra[TARGETS])
        kl = None
        if config.use_kl_loss:
            old = given.module.net.distribution(fragment.extra[POLICY])
            kl = given.mean(old.kl(given.policy))
        return Losses(
            policy=-given.mean(objective),
            value=given.mean(errors.clamp(max=config.vf_clip_param)),
            target_mean=given.mean(fragment.extra[TARGETS]),
            kl=kl,
        )


def normalised(advantages: Tensor, taken: Tensor, least_std: float) -> Tensor:
    """Advantages [N, T] centred over the steps `taken` [N, T], divided by max(their deviation, `least_std`).

    Over the steps of all learners, where there are several: what is better than the batch's mean is it for each.
    """
    weight = taken.to(advantages.dtype)
    count, total = over_learners(torch.stack([weight.sum(), (advantages * weight).sum()]))
    count = count.clamp(min=1.0)
    centred = advantages - total / count
    spread = (over_learners((centred.square() * weight).sum()) / count).sqrt()
    return centred / spread.clamp(min=least_std)


class MemoryPPO(MemoryAlgorithm, PPO):
    """RLlib's PPO on fragments, with a flat report under `result["ct_rl"]`."""

    @classmethod
    def get_default_config(cls) -> MemoryPPOConfig:
        return MemoryPPOConfig()

    def setup(self, config: MemoryPPOConfig) -> None:
        self._gathered: list[ray.ObjectRef] = []
        super().setup(config)

    def sample_and_learn(self) -> None:
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

    def load_training_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        self._gathered = []  # what other weights acted
        super().load_training_state(tensors, meta)

    def _sample(self) -> list[Any]:
        """One (fragments, notes, metrics) from every healthy runner."""
        if not self.config.num_env_runners:
            fragments = ray.put(self.env_runner.sample())
            notes = self.env_runner.take_notes()
            return [(fragments, notes, self.env_runner.get_metrics())]
        with deaths_as_runner_failed():
            return self.env_runner_group.foreach_env_runner(
                "sample_get_state_and_metrics",
                local_env_runner=False,
                timeout_seconds=self.config.sample_timeout_s,
            )
