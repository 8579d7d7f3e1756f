"""The actor-critic as an RLModule of RLlib's new API stack.

Works in a plain `RLModuleSpec(module_class=MemoryRLModule, model_config={...})` with stock configs,
whose connectors carry STATE_IN and STATE_OUT, and is what the fast path of `agents.impala` trains.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import (
    TorchCategorical,
    TorchDiagGaussian,
    TorchMultiCategorical,
)
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import (
    TARGET_NETWORK_ACTION_DIST_INPUTS,
    InferenceOnlyAPI,
    TargetNetworkAPI,
    ValueFunctionAPI,
)
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor

from agents.actor_critic import ActorCritic, ActorCriticOutput

RESETS = "resets"
COMPRESSION_LOSS = "compression_loss"

SETTINGS = tuple(
    name
    for name, parameter in inspect.signature(ActorCritic.__init__).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
)
# RLlib adds its own model settings to every module's config; they mean nothing here.
_RLLIB_KEYS = {field.name for field in dataclasses.fields(DefaultModelConfig)} | {
    "max_seq_len",
    "vf_share_layers",
}


def network_settings(model_config: dict[str, Any]) -> dict[str, Any]:
    """The `ActorCritic` settings among a module's `model_config`.

    Raises:
        ValueError: for a key that neither this module nor RLlib knows.
    """
    for key in model_config:
        if key not in SETTINGS and key not in _RLLIB_KEYS:
            near = difflib.get_close_matches(key, SETTINGS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(SETTINGS)}"
            raise ValueError(f"unknown model_config key {key!r} for MemoryRLModule: {hint}")
    return {key: value for key, value in model_config.items() if key in SETTINGS}


def rllib_distribution(space: gym.Space) -> type:
    """RLlib's distribution class for an action space, over the same parameters as `agents.distributions`."""
    if isinstance(space, spaces.Discrete):
        return TorchCategorical
    if isinstance(space, spaces.MultiDiscrete):
        return TorchMultiCategorical.get_partial_dist_cls(
            space=space, input_lens=[int(n) for n in space.nvec]
        )
    return TorchDiagGaussian


class _WithGradientOf(torch.autograd.Function):
    """x itself, whose backward pass also starts that of a scalar `loss`, with weight 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        ctx.like = loss.detach()
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, torch.ones_like(ctx.like)


class MemoryRLModule(TorchRLModule, ValueFunctionAPI, TargetNetworkAPI, InferenceOnlyAPI):
    """An `ActorCritic` behind RLlib's module interface; `model_config` holds its settings.

    Attributes:
        target_net: APPO's slowly moving copy, None elsewhere.
        carries_losses: whether the compression loss trains its compressor by riding on the policy's
            gradient. Stock learners do not know that loss; those of the fast path add it themselves.

    Raises:
        ValueError: on setup, for spaces or settings that `ActorCritic` refuses.
    """

    def setup(self) -> None:
        try:
            self.net = ActorCritic(
                self.observation_space,
                self.action_space,
                **network_settings(dict(self.model_config or {})),
            )
        except AttributeError as error:
            # RLModuleSpec.build takes an AttributeError for a legacy module and hides it.
            raise RuntimeError(f"MemoryRLModule could not be built: {error}") from error
        self.target_net: ActorCritic | None = None
        self.carries_losses = True
        self._state_dtypes = {key: x.dtype for key, x in self.net.initial_state(1).items()}
        self.action_dist_cls = rllib_distribution(self.action_space)

    def get_initial_state(self) -> dict[str, Any]:
        return {key: x[0].cpu().numpy() for key, x in self.net.initial_state(1).items()}

    def _run(self, batch: dict[str, Any]) -> ActorCriticOutput:
        if Columns.STATE_IN not in batch:
            raise ValueError(
                f"the batch has no {Columns.STATE_IN!r} (it has {', '.join(batch)}): keep RLlib's "
                "default connectors, which carry the memory"
            )
        return self._read(self.net, batch)

    def _read(self, net: ActorCritic, batch: dict[str, Any]) -> ActorCriticOutput:
        # RLlib's connectors turn int64 counters into int32.
        state = {key: x.to(self._state_dtypes[key]) for key, x in batch[Columns.STATE_IN].items()}
        return net(batch[Columns.OBS], state, batch.get(RESETS))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        out = self._run(batch)
        return {
            Columns.ACTION_DIST_INPUTS: out.policy,
            Columns.VF_PREDS: out.value,
            Columns.STATE_OUT: out.state,
        }

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        out = self._run(batch)
        result = {Columns.ACTION_DIST_INPUTS: out.policy, Columns.VF_PREDS: out.value}
        # Stock algorithms ask for the values again, through compute_values(embeddings=...).
        result[Columns.EMBEDDINGS] = out.value
        if "compression" in out.losses:
            loss = out.losses["compression"]
            result[COMPRESSION_LOSS] = loss
            if self.carries_losses and torch.is_grad_enabled():
                result[Columns.ACTION_DIST_INPUTS] = _WithGradientOf.apply(out.policy, loss)
        return result

    def compute_values(self, batch: dict[str, Any], embeddings: Any | None = None) -> Tensor:
        """V(x) [B, T]; `embeddings`, when given, are the values that `forward_train` already made."""
        return self._run(batch).value if embeddings is None else embeddings

    def make_target_networks(self) -> None:
        self.target_net = make_target_network(self.net).eval()

    def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
        return [(self.net, self.target_net)]

    @torch.no_grad()
    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The target policy's parameters over the same steps, from the same state."""
        net = self.target_net.eval()
        out = self._read(net, batch)
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: out.policy}

    def get_non_inference_attributes(self) -> list[str]:
        return ["target_net"]
