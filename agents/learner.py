"""The IMPALA learner of the fast path: V-trace over rows that run across episode ends.

Shapes: N rows, T steps; time-major [T, N] inside V-trace.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from torch import Tensor

from agents.actor_critic import ActorCritic
from agents.errors import NonFinite
from agents.fragment import IGNORED, rows_of
from agents.module import COMPRESSION_LOSS
from agents.rewards import clip_reward
from agents.vtrace import vtrace

POLICY, COMPRESSOR = "policy", "compressor"


class MemoryIMPALALearner(IMPALATorchLearner):
    """IMPALA's loss (arXiv 1802.01561, section 4) plus the memory's own, on `FragmentsToBatch` batches.

    Where `ignored` is set no action was taken: the step carries no loss, and its value is what a
    truncated episode bootstraps from. A failure in the learner thread is kept and raised by the next
    `update`, where RLlib's would wait for ever.
    """

    def build(self) -> None:
        self.failure: BaseException | None = None
        self._shuffle = np.random.default_rng(self.config.seed)
        super().build()
        update = self._learner_thread._update_method

        def guarded(**kwargs: Any) -> None:
            if self.failure is not None:
                return
            try:
                update(**kwargs)
            except BaseException as error:
                self.failure = error

        self._learner_thread._update_method = guarded

    def update(self, training_data: Any, **kwargs: Any) -> Any:
        self._raise_failure()
        result = super().update(training_data, **kwargs)
        self._raise_failure()
        return result

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

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
        batch = training_data.batch
        for _ in range(num_epochs):
            for module_id, columns in batch.policy_batches.items():
                rows, steps = columns[Columns.REWARDS].shape[:2]
                size = rows if minibatch_size is None else max(1, minibatch_size // steps)
                order = self._shuffle.permutation(rows) if size < rows else np.arange(rows)
                for start in range(0, rows, size):
                    part = rows_of(dict(columns), order[start : start + size], self._device)
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
        net: ActorCritic = self.module[module_id].unwrapped().net
        taken = (~batch[IGNORED]).float()  # (N, T)
        count = taken.sum().clamp(min=1.0)
        values = fwd_out[Columns.VF_PREDS]  # (N, T + 1)
        policy = net.distribution(fwd_out[Columns.ACTION_DIST_INPUTS][:, :-1])
        log_probs = policy.log_prob(batch[Columns.ACTIONS])
        log_rho = (log_probs - batch[Columns.ACTION_LOGP]).detach()
        targets, advantages = vtrace(
            log_rho=log_rho,
            rewards=clip_reward(batch[Columns.REWARDS], net.reward_clip),
            values=values.detach(),
            terminateds=batch[Columns.TERMINATEDS],
            ignored=batch[IGNORED],
            gamma=config.gamma,
            clip_rho=config.vtrace_clip_rho_threshold,
            clip_pg_rho=config.vtrace_clip_pg_rho_threshold,
        )
        policy_loss = -(log_probs * advantages * taken).sum() / count
        value_loss = 0.5 * ((values[:, :-1] - targets).square() * taken).sum() / count
        entropy = (policy.entropy() * taken).sum() / count
        entropy_coeff = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()
        loss = policy_loss + config.vf_loss_coeff * value_loss - entropy_coeff * entropy
        terms = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
        if COMPRESSION_LOSS in fwd_out:
            terms[COMPRESSION_LOSS] = fwd_out[COMPRESSION_LOSS]
            loss = loss + config.compression_loss_coeff * fwd_out[COMPRESSION_LOSS]
        rho = log_rho.exp()
        logged = {key: value.detach() for key, value in terms.items()} | {
            "rho_mean": (rho * taken).sum() / count,
            # RLlib counts this very update already; the weights in use have seen one less.
            "policy_lag": (self._weights_seq_no - 1 - batch[WEIGHTS_SEQ_NO]).mean(),
            "target_mean": (targets * taken).sum() / count,
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
    """Adam, or IMPALA's RMSProp, from an RLlib config's `opt_type`, `decay`, `momentum` and `epsilon`."""
    if config.opt_type == "rmsprop":
        return torch.optim.RMSprop(
            parameters, alpha=config.decay, momentum=config.momentum, eps=config.epsilon
        )
    return torch.optim.Adam(parameters, eps=config.adam_epsilon)
