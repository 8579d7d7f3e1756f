"""What the learners of the fast path share: minibatches of whole rows, optimisers, checks, the loss's frame.

A fragment's way: `gather` takes it, `learn` makes minibatches of its rows, RLlib's `_update` runs the network and
asks `compute_loss_for_module`, which adds up the algorithm's `losses` and every loss of the module.

Shapes: N rows, T steps. Rows run across episode ends.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.metrics import (
    ALL_MODULES,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    WEIGHTS_SEQ_NO,
)
from torch import Tensor

from agents.actor_critic import ActorCritic
from agents.distributions import Distribution
from agents.errors import NonFinite
from agents.fragment import IGNORED, PICKED, RESETS, Fragment
from agents.precision import learning_precision
from agents.rewards import clip_reward
from agents.rllib.internals import leave_tensors_unfilled
from agents.rllib.module import ESTIMATE, LOSSES, TERMS, MemoryRLModule
from agents.rllib.shares import shares
from agents.vtrace import vtrace
from ct_rl.freed_memory import keep_freed_memory

POLICY, COMPRESSOR = "policy", "compressor"
KL = "mean_kl_loss"  # where RLlib reads it to adapt the loss's weight
REPORT = "ct_rl"  # under which a module's results hold all that is logged here


@dataclass
class LossInput:
    """What a loss reads of one minibatch.

    Attributes:
        module, config: of the policy that learns.
        fragment: the minibatch's rows, as tensors.
        policy: the distributions of the current weights, [N, T].
        log_probs: [N, T], of the actions taken, with gradient.
        values, estimate: [N, T + 1] and [N, T + 1, V], with gradient.
        rewards: [N, T], clipped.
        taken: [N, T], 1.0 where an action was taken and 0.0 where the environment was only being reset.
        share: what this learner's means over these steps weigh in those of all learners.
        kl_coeff: weight of the KL loss, where there is one.
    """

    module: MemoryRLModule
    config: Any
    fragment: Fragment
    policy: Distribution
    log_probs: Tensor
    values: Tensor
    estimate: Tensor
    rewards: Tensor
    taken: Tensor
    share: Tensor
    kl_coeff: Tensor | float

    def mean(self, x: Tensor) -> Tensor:
        """The mean of x [N, T] over the steps that were taken, as the learners' plain mean is that over all theirs."""
        return self.share * (x * self.taken).sum() / self.taken.sum().clamp(min=1.0)

    def value_errors(self, targets: Tensor) -> Tensor:
        """How far the values are from targets [N, T]: squares, or what a distribution has instead."""
        errors: Tensor = self.module.net.critic.errors(self.estimate[:, :-1], targets)
        return errors

    def vtrace(self, log_probs: Tensor) -> tuple[Tensor, Tensor]:
        """V-trace's value targets and advantages, [N, T] each, for a policy of these `log_probs` [N, T]."""
        fragment, config = self.fragment, self.config
        return vtrace(
            log_rho=(log_probs - fragment.log_probs).detach(),
            rewards=self.rewards,
            values=self.values.detach(),
            terminateds=fragment.terminateds,
            ignored=fragment.ignored,
            gamma=config.gamma,
            clip_rho=config.vtrace_clip_rho_threshold,
            clip_pg_rho=config.vtrace_clip_pg_rho_threshold,
        )


@dataclass
class Losses:
    """Scalars: what an algorithm's loss gives back, and the mean of its value targets for the report."""

    policy: Tensor
    value: Tensor
    target_mean: Tensor
    kl: Tensor | None = None


class MemoryLearner(TorchLearner, abc.ABC):
    """Mixin before one of RLlib's learners, for `Fragment`s of one policy.

    Where `ignored` is set no action was taken: the step carries no loss, and its value is what a
    truncated episode bootstraps from.
    """

    @abc.abstractmethod
    def losses(self, given: LossInput) -> Losses:
        """The algorithm's own part of the loss."""

    def prepare(self, fragment: Fragment) -> Fragment:
        """Fills `extra` with what is computed once, before the first pass over a fragment."""
        return fragment

    def build(self) -> None:
        self._shuffle = np.random.default_rng(self.config.seed)
        super().build()
        leave_tensors_unfilled()
        keep_freed_memory()
        self._memory_module.carries_losses = False

    @property
    def _memory_module(self) -> MemoryRLModule:
        return self.module[DEFAULT_MODULE_ID].unwrapped()

    @property
    def net(self) -> ActorCritic:
        """The network that learns."""
        return self._memory_module.net

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, and the weight of the KL loss, which RLlib's leaves out."""
        coefficients = getattr(self, "curr_kl_coeffs_per_module", {})
        kl = {module_id: float(at) for module_id, at in coefficients.items()}
        return {**super().get_state(*args, **kwargs), "kl_coeffs": kl}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        for module_id, at in state.get("kl_coeffs", {}).items():
            self.curr_kl_coeffs_per_module[module_id].data.fill_(at)
        self.keep_fixed_rate()

    def keep_fixed_rate(self) -> None:
        """After a restore: a learning rate without a schedule is the config's, which need not be that of before.

        RLlib would learn from one more batch with the old one.
        """
        if not isinstance(self.config.lr, list | tuple):
            for _, optimizer in self.get_optimizers_for_module(DEFAULT_MODULE_ID):
                self._set_optimizer_lr(optimizer, lr=self.config.lr)

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

    def gather(self, training_data: Any) -> Fragment | None:
        """The fragments of a batch as one: from their runners, or from an aggregator of RLlib's."""
        training_data.solve_refs()
        if training_data.batch is not None:
            return Fragment(**training_data.batch.policy_batches[DEFAULT_MODULE_ID])
        return Fragment.join(training_data.episodes) if training_data.episodes else None

    def learn(
        self,
        fragment: Fragment,
        timesteps: dict[str, Any],
        *,
        num_epochs: int = 1,
        minibatch_size: int | None = None,
        **_: Any,
    ) -> None:
        """`num_epochs` passes over a fragment's rows, with the schedules moved on before and after."""
        self.before_gradient_based_update(timesteps=timesteps)
        # RLlib's PPO moves this one on after an update, and a resumed run would begin with its first value.
        self.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID].update(
            timestep=timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0)
        )
        self._weights_seq_no += 1
        taken = int((~fragment.ignored).sum()) if self._device.type != "meta" else 0
        if self._device.type != "cpu":  # once, and not each row in each pass
            fragment = fragment.to_device(self._device, pin_memory=True)
        fragment = self.prepare(fragment)
        for part in self._minibatches(fragment, num_epochs, minibatch_size):
            # RLlib's own step: forward pass, losses, backward pass, clipping, optimisers; compiled if asked for.
            self._update({DEFAULT_MODULE_ID: _columns(part)})
        self._log_trained(num_epochs * taken)
        self.after_gradient_based_update(timesteps=timesteps)

    def _minibatches(
        self, fragment: Fragment, num_epochs: int, minibatch_size: int | None
    ) -> Iterator[Fragment]:
        """Minibatches of whole rows on the learner's device, each row once an epoch, in a new order every time."""
        rows, steps = fragment.shape
        size = rows if minibatch_size is None else max(1, minibatch_size // steps)
        for _ in range(num_epochs):
            order = self._shuffle.permutation(rows) if size < rows else None
            for start in range(0, rows, size):
                part = fragment if order is None else fragment.rows(order[start : start + size])
                yield part.to_device(self._device)

    def _log_trained(self, steps: int) -> None:
        """What RLlib's algorithms read of a learner's progress."""
        # The largest: RLlib gives the mean of several batches' otherwise.
        self.metrics.log_value(
            (DEFAULT_MODULE_ID, WEIGHTS_SEQ_NO), self._weights_seq_no, reduce="max", window=1
        )
        for key, reduce in (
            ((DEFAULT_MODULE_ID, NUM_MODULE_STEPS_TRAINED), "sum"),
            ((ALL_MODULES, NUM_MODULE_STEPS_TRAINED_LIFETIME), "lifetime_sum"),
            ((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), "lifetime_sum"),
        ):
            self.metrics.log_value(key, steps, reduce=reduce)

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
        """The algorithm's loss, the entropy bonus, and every loss of the module times its coefficient."""
        fragment = batch[_FRAGMENT]
        module = self._memory_module
        policy = module.net.distribution(fwd_out[Columns.ACTION_DIST_INPUTS][:, :-1])
        coefficients = getattr(self, "curr_kl_coeffs_per_module", None)
        taken, counts = (~fragment.ignored).float(), fwd_out[TERMS]
        share, *others = shares(torch.stack([x.float() for x in (taken.sum(), *counts.values())]))
        share_of = dict(zip(counts, others, strict=True))
        given = LossInput(
            module=module,
            config=config,
            fragment=fragment,
            policy=policy,
            log_probs=policy.log_prob(fragment.actions),
            values=fwd_out[Columns.VF_PREDS],
            estimate=fwd_out[ESTIMATE],
            rewards=clip_reward(fragment.rewards, module.net.reward_clip),
            taken=taken,
            share=share,
            kl_coeff=0.0 if coefficients is None else coefficients[module_id],
        )
        losses = self.losses(given)
        entropy = given.mean(policy.entropy())
        entropy_coeff = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()
        loss = losses.policy + config.vf_loss_coeff * losses.value - entropy_coeff * entropy
        terms = {"policy_loss": losses.policy, "value_loss": losses.value, "entropy": entropy}
        if losses.kl is not None:
            terms[KL] = losses.kl
            loss = loss + given.kl_coeff * losses.kl
        for name, own in fwd_out[LOSSES].items():
            if name in share_of:  # an auxiliary loss is of as many rows in each learner
                own = share_of[name] * own
            terms[f"{name}_loss"] = own
            loss = loss + module.weight(name) * own
        rho = (given.log_probs.detach() - fragment.log_probs).exp()
        terms |= {
            "rho_mean": given.mean(rho),
            # This very update counts already; the weights in use have seen one less.
            "policy_lag": (self._weights_seq_no - 1 - fragment.weights_seq_no).mean(),
            "target_mean": losses.target_mean,
        }
        numbers = self._finite(terms)
        self.metrics.log_dict(numbers, key=(module_id, REPORT), window=1)
        if KL in numbers:
            self.metrics.log_value((module_id, KL), numbers[KL], window=1)
        return loss

    def _finite(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """Scalars as numbers, fetched from the device at once.

        Raises:
            NonFinite: where one is NaN or infinite.
        """
        values = torch.stack([term.detach().float() for term in terms.values()])
        if values.device.type == "meta":
            return {}  # a rehearsal of devices: there are no values
        numbers = dict(zip(terms, values.tolist(), strict=True))
        for name, number in numbers.items():
            if not math.isfinite(number):
                raise NonFinite(name, self._weights_seq_no)
        return numbers

    def postprocess_gradients_for_module(
        self, *, module_id: str, config: Any = None, module_gradients_dict: dict[Any, Tensor]
    ) -> dict[Any, Tensor]:
        """Clips each optimiser's gradient by its own norm, and refuses one that is not finite."""
        norms = {}
        for name, optimizer in self.get_optimizers_for_module(module_id):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            of = "grad_norm" if name.endswith(POLICY) else "compressor_grad_norm"
            norms[of] = torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip or float("inf"))
        self.metrics.log_dict(self._finite(norms), key=(module_id, REPORT), window=1)
        return module_gradients_dict

    def apply_gradients(self, gradients_dict: dict[Any, Tensor]) -> None:
        for optimizer in self._optimizer_parameters:
            optimizer.step()

    def _uncompiled_update(self, batch: dict[str, Any], **kwargs: Any) -> Any:
        with learning_precision(self.config.mixed_precision, self._device.type):
            return super()._uncompiled_update(batch, **kwargs)


_FRAGMENT = "fragment"


def _columns(fragment: Fragment) -> dict[str, Any]:
    """What `MemoryRLModule` reads, under RLlib's names, and the fragment itself for the loss."""
    return {
        Columns.OBS: fragment.obs,
        Columns.ACTIONS: fragment.actions,
        Columns.REWARDS: fragment.rewards,
        Columns.STATE_IN: fragment.state,
        RESETS: fragment.resets,
        PICKED: fragment.extra.get(PICKED),
        IGNORED: fragment.ignored,
        _FRAGMENT: fragment,
    }


def _optimizer(parameters: list[torch.nn.Parameter], config: Any) -> torch.optim.Optimizer:
    """Adam, or IMPALA's RMSProp, from a config's `opt_type`, `decay`, `momentum` and `epsilon`."""
    if config.opt_type == "rmsprop":
        return torch.optim.RMSprop(
            parameters, alpha=config.decay, momentum=config.momentum, eps=config.epsilon
        )
    # One pass over the weights instead of several: 3.5 times as fast on a CPU. A GPU keeps torch's default.
    on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
    return torch.optim.Adam(parameters, eps=config.adam_epsilon, fused=on_cpu or None)
