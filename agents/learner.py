"""What the learners of the fast path share: minibatches of whole rows, optimisers, checks, the loss's frame.

Shapes: N rows, T steps. Rows run across episode ends.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from torch import Tensor

from agents.actor_critic import ActorCritic
from agents.distributions import Distribution
from agents.errors import NonFinite
from agents.fragment import IGNORED, rows_of
from agents.module import COMPRESSION_LOSS, MemoryRLModule
from agents.rewards import clip_reward

POLICY, COMPRESSOR = "policy", "compressor"
KL = "mean_kl_loss"  # where RLlib reads it to adapt the loss's weight


@dataclass
class Seen:
    """What a loss reads of one minibatch.

    Attributes:
        module, config: of the policy that learns.
        batch: the columns of `fragment.collate`, as tensors.
        policy: the distributions of the current weights, [N, T].
        log_probs: [N, T], of the actions taken, with gradient.
        values: [N, T + 1], with gradient.
        rewards: [N, T], clipped.
        taken: [N, T], 1.0 where an action was taken and 0.0 where the environment was only being reset.
        kl_coeff: weight of the KL loss, where there is one.
    """

    module: MemoryRLModule
    config: Any
    batch: dict[str, Any]
    policy: Distribution
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    taken: Tensor
    kl_coeff: Tensor | float

    def mean(self, x: Tensor) -> Tensor:
        """The mean of x [N, T] over the steps that were taken."""
        return (x * self.taken).sum() / self.taken.sum().clamp(min=1.0)


@dataclass
class Losses:
    """Scalars: what a loss gives back, and the mean of its value targets for the report."""

    policy: Tensor
    value: Tensor
    target_mean: Tensor
    kl: Tensor | None = None


class MemoryLearner(TorchLearner, abc.ABC):
    """Mixin before one of RLlib's learners, on `FragmentsToBatch` batches.

    Where `ignored` is set no action was taken: the step carries no loss, and its value is what a
    truncated episode bootstraps from.
    """

    @abc.abstractmethod
    def losses(self, seen: Seen) -> Losses:
        """The algorithm's own part of the loss."""

    def prepare(self, module: MemoryRLModule, columns: dict[str, Any]) -> dict[str, Any]:
        """Adds columns that are computed once a batch, before its first update; [N, ...] arrays."""
        return columns

    def build(self) -> None:
        self._shuffle = np.random.default_rng(self.config.seed)
        super().build()
        for module_id in self.module.keys():  # noqa: SIM118
            self.module[module_id].unwrapped().carries_losses = False

    def net(self, module_id: str) -> ActorCritic:
        return self.module[module_id].unwrapped().net

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Two optimisers, so that the compressor's gradient has no part in the policy's norm clipping."""
        net: ActorCritic = self._module[module_id].unwrapped().net
        compressor = [p for p in net.core.compressor_parameters() if p.requires_grad]
        owned = {id(p) for p in compressor}
        groups = {
            POLICY: [p for p in net.parameters() if p.requires_grad and id(p) not in owned],
            COMPRESSOR: compressor,
        }
        for name, parameters in groups.items():
            if parameters:
                self.register_optimizer(
                    module_id=module_id,
                    optimizer_name=name,
                    optimizer=_optimizer(parameters, config),
                    params=parameters,
                    lr_or_lr_schedule=config.lr,
                )

    def _make_batch_if_necessary(self, training_data: Any) -> MultiAgentBatch:
        if training_data.batch is not None:
            return training_data.batch  # an aggregator's; it becomes tensors minibatch by minibatch
        return super()._make_batch_if_necessary(training_data)

    def _create_iterator_if_necessary(
        self,
        *,
        training_data: Any,
        num_total_minibatches: int = 0,
        num_epochs: int = 1,
        minibatch_size: int | None = None,
        shuffle_batch_per_epoch: bool = False,
        **kwargs: Any,
    ) -> Iterator[MultiAgentBatch]:
        """Minibatches of whole rows, each row once an epoch, in a new order every time."""
        batch = self._make_batch_if_necessary(training_data)
        for module_id, sampled in batch.policy_batches.items():
            columns = self.prepare(self.module[module_id].unwrapped(), dict(sampled))
            rows, steps = columns[Columns.REWARDS].shape[:2]
            size = rows if minibatch_size is None else max(1, minibatch_size // steps)
            for _ in range(num_epochs):
                order = self._shuffle.permutation(rows) if size < rows else np.arange(rows)
                for start in range(0, rows, size):
                    part = rows_of(columns, order[start : start + size], self._device)
                    taken = int((~part[IGNORED]).sum())
                    yield MultiAgentBatch({module_id: SampleBatch(part)}, env_steps=taken)

    def _set_slicing_by_batch_id(self, batch: MultiAgentBatch, *, value: bool) -> MultiAgentBatch:
        return batch  # rows are never sliced by RLlib here

    def _compute_off_policyness(self, batch: dict[str, Any]) -> None:
        pass  # logged with the losses

    def compute_losses(self, *, fwd_out: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {
            module_id: self.compute_loss_for_module(
                module_id=module_id,
                config=self.config.get_config_for_module(module_id),
                batch=batch[module_id],
                fwd_out=out,
            )
            for module_id, out in fwd_out.items()
        }

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        net = self.net(module_id)
        policy = net.distribution(fwd_out[Columns.ACTION_DIST_INPUTS][:, :-1])
        coefficients = getattr(self, "curr_kl_coeffs_per_module", None)
        seen = Seen(
            module=self.module[module_id].unwrapped(),
            config=config,
            batch=batch,
            policy=policy,
            log_probs=policy.log_prob(batch[Columns.ACTIONS]),
            values=fwd_out[Columns.VF_PREDS],
            rewards=clip_reward(batch[Columns.REWARDS], net.reward_clip),
            taken=(~batch[IGNORED]).float(),
            kl_coeff=0.0 if coefficients is None else coefficients[module_id],
        )
        losses = self.losses(seen)
        entropy = seen.mean(policy.entropy())
        entropy_coeff = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()
        loss = losses.policy + config.vf_loss_coeff * losses.value - entropy_coeff * entropy
        terms = {"policy_loss": losses.policy, "value_loss": losses.value, "entropy": entropy}
        if losses.kl is not None:
            terms[KL] = losses.kl
            loss = loss + seen.kl_coeff * losses.kl
        if COMPRESSION_LOSS in fwd_out:
            terms[COMPRESSION_LOSS] = fwd_out[COMPRESSION_LOSS]
            loss = loss + config.compression_loss_coeff * fwd_out[COMPRESSION_LOSS]
        rho = (seen.log_probs.detach() - batch[Columns.ACTION_LOGP]).exp()
        logged = {key: value.detach() for key, value in terms.items()} | {
            "rho_mean": seen.mean(rho),
            # RLlib counts this very update already; the weights in use have seen one less.
            "policy_lag": (self._weights_seq_no - 1 - batch[WEIGHTS_SEQ_NO]).mean(),
            "target_mean": losses.target_mean,
        }
        self._check_finite(logged)
        self.metrics.log_dict(logged, key=module_id, window=1)
        return loss

    def _check_finite(self, terms: dict[str, Tensor]) -> None:
        names = list(terms)
        finite = torch.isfinite(torch.stack([terms[name].float() for name in names])).tolist()
        for name, good in zip(names, finite, strict=True):
            if not good:
                raise NonFinite(name, self._weights_seq_no)

    def postprocess_gradients_for_module(
        self, *, module_id: str, config: Any = None, module_gradients_dict: dict[Any, Tensor]
    ) -> dict[Any, Tensor]:
        """Clips each optimiser's gradient by its own norm, and refuses one that is not finite."""
        for name, optimizer in self.get_optimizers_for_module(module_id):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip or float("inf"))
            if name.endswith(POLICY):
                self._check_finite({"gradient": norm})
                self.metrics.log_value((module_id, "grad_norm"), norm.detach(), window=1)
            else:
                self._check_finite({"compressor gradient": norm})
        return module_gradients_dict

    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        for optimizer in self._optimizer_parameters:
            optimizer.step()

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> Any:
        with self._autocast():
            return super()._uncompiled_update(batch, **kwargs)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if not self.config.mixed_precision:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)

    def _log_steps_trained_metrics(self, batch: MultiAgentBatch) -> None:
        for module_batch in batch.policy_batches.values():
            # RLlib would count rows; a step counter must count steps.
            module_batch.count = batch.env_steps()
        Learner._log_steps_trained_metrics(self, batch)


def _optimizer(parameters: list[torch.nn.Parameter], config: Any) -> torch.optim.Optimizer:
    """Adam, or IMPALA's RMSProp, from a config's `opt_type`, `decay`, `momentum` and `epsilon`."""
    if config.opt_type == "rmsprop":
        return torch.optim.RMSprop(
            parameters, alpha=config.decay, momentum=config.momentum, eps=config.epsilon
        )
    return torch.optim.Adam(parameters, eps=config.adam_epsilon)
