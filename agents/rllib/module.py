"""The actor-critic as an RLModule of RLlib's new API stack.

Works in a plain `RLModuleSpec(module_class=MemoryRLModule, model_config={...})` with stock configs,
whose connectors carry STATE_IN and STATE_OUT, and is what the fast path of `agents.rllib` trains.
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
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
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor

from agents.actor_critic import ActorCritic, ActorCriticOutput
from agents.auxiliary import Experience, auxiliary_options
from agents.encoders import encoder_names
from agents.errors import unknown
from agents.fragment import IGNORED, PICKED, RESETS
from agents.losses import check_losses
from agents.rllib.carried import enter
from ct_rl.memory import memory_options
from ct_rl.memory.contract import beyond
from ct_rl.memory.options import check_options

ESTIMATE = "value_estimate"  # what `forward_train` made the value of (`agents.critics`)
# Where `forward_train` puts every loss beside the task's, by name, and of how many terms the memory's are means.
LOSSES, TERMS = "losses", "terms"

SETTINGS = tuple(
    name
    for name, parameter in inspect.signature(ActorCritic.__init__).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
)
_OWN = (*SETTINGS, "loss_coeffs", "imports", "carried")
# RLlib's own model settings, which it may add to a module's config at these values; they mean nothing here.
_RLLIB_DEFAULTS = dataclasses.asdict(DefaultModelConfig())
# `max_seq_len` is honoured by RLlib's connectors; the other one is False or True, as the algorithm has it.
_RLLIB_SETS = ("max_seq_len", "vf_share_layers")


def model_settings(spec: RLModuleSpec) -> dict[str, Any]:
    """A spec's `model_config`, RLlib's dataclass for it included."""
    given = spec.model_config or {}
    return dict(given) if isinstance(given, dict) else dataclasses.asdict(given)


def network_arguments(model_config: dict[str, Any]) -> dict[str, Any]:
    """The `ActorCritic` settings among a module's `model_config`.

    Raises:
        ValueError: for a key that neither this module nor RLlib knows, and for one of RLlib's own networks that was
            changed.
    """
    for key, value in model_config.items():
        if key in _OWN or key in _RLLIB_SETS:
            continue
        if key not in _RLLIB_DEFAULTS:
            raise ValueError(unknown("model_config key of MemoryRLModule", key, _OWN))
        if value != _RLLIB_DEFAULTS[key]:
            raise ValueError(
                f"model_config[{key!r}]={value!r} is of RLlib's own networks and would be ignored: "
                f"MemoryRLModule has {', '.join(_OWN)}"
            )
    return {key: value for key, value in model_config.items() if key in SETTINGS}


def check_network_names(settings: Mapping[str, Any], imports: Sequence[str] = ()) -> None:
    """Looks at the names among `ActorCritic`'s settings and at the options that belong to them, in the driver.

    A remote runner's refusal would be lost: RLlib only logs what its constructor raises.

    Raises:
        ValueError: one line that says what does not exist and what does, or which value is out of its bounds.
    """
    for module in imports:
        import_module(module)
    memory = settings.get("memory", "compressive")
    check_options(
        f"memory {memory!r}", memory_options(memory), settings.get("memory_options") or {}
    )
    encoder = settings.get("encoder")
    if encoder is not None and encoder not in encoder_names():
        raise ValueError(unknown("encoder", str(encoder), encoder_names()))
    for name, options in (settings.get("auxiliary") or {}).items():
        check_options(f"auxiliary loss {name!r}", auxiliary_options(name), options)


def refuse_for_stock_learners(value_bins: int, reward_clip: str) -> None:
    """Refuses what RLlib's own learners would ignore: a value learned as a distribution, and clipped rewards.

    Raises:
        ValueError: for more than one place, or for clipping.
    """
    ours = "a learner of agents.rllib (MemoryIMPALAConfig, MemoryAPPOConfig, MemoryPPOConfig)"
    if value_bins > 1:
        raise ValueError(
            f"value_bins={value_bins} needs {ours}: RLlib's own take the value for one number; "
            "leave value_bins at 0"
        )
    if reward_clip != "none":
        raise ValueError(
            f"reward_clip={reward_clip!r} needs {ours}: RLlib's own learn from rewards as they come; "
            "leave reward_clip at 'none', and clip in the environment"
        )


def refuse_unknown_losses(loss_coeffs: Mapping[str, float], net: ActorCritic) -> None:
    """Refuses the weight of a loss that the network has not, which nothing would read.

    Raises:
        ValueError: one line that names it and the nearest there is.
    """
    names = net.loss_names() if loss_coeffs else []
    for name in loss_coeffs:
        if name not in names:
            raise ValueError(unknown("loss in loss_coeffs", name, names))


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

    `model_config["loss_coeffs"]` holds the weights of the memory's and the auxiliary losses by name, 1 where none is
    given; `model_config["imports"]` the modules that register what the settings name, and `model_config["carried"]` the
    classes that a script did (`agents.rllib.carried`). The configs of the fast path fill them, from
    `training(loss_coeffs=...)`, `imports(...)` and the names.

    Attributes:
        target_net: APPO's slowly moving copy, None elsewhere.
        carries_losses: whether those losses train by riding on the policy's gradient. Stock learners do not know
            them; those of the fast path add them themselves.
        last_losses: what the last training pass gave, by name.
        memory_has_losses: whether the memory core has losses of its own in training.

    Raises:
        ValueError: on setup, for spaces or settings that `ActorCritic` refuses.
    """

    def setup(self) -> None:
        settings = dict(self.model_config or {})
        for module in settings.get("imports", ()):
            import_module(module)
        enter(settings.get("carried", ()))
        arguments = network_arguments(settings)
        if self.inference_only:
            arguments.pop("auxiliary", None)  # what acts has no need of it
        try:
            self.net = ActorCritic(self.observation_space, self.action_space, **arguments)
            self.memory_has_losses = not self.inference_only and bool(self.net.memory_loss_names())
        except AttributeError as error:
            # RLModuleSpec.build takes an AttributeError for a legacy module and hides it.
            raise RuntimeError(f"MemoryRLModule could not be built: {error}") from error
        self.loss_coeffs: dict[str, float] = dict(settings.get("loss_coeffs") or {})
        if not self.inference_only:
            refuse_unknown_losses(self.loss_coeffs, self.net)
        for name, auxiliary in self.net.auxiliary.items():
            if self.weight(name) == 0.0:
                # It is not computed, and several learners wait for the gradient of whatever asks for one.
                auxiliary.requires_grad_(False)
        self.target_net: ActorCritic | None = None
        self.carries_losses = True
        self.last_losses: dict[str, Tensor] = {}
        self.action_dist_cls = rllib_distribution(self.action_space)

    def get_initial_state(self) -> dict[str, Any]:
        return {key: x[0].cpu().numpy() for key, x in self.net.initial_state(1).items()}

    def run(self, batch: dict[str, Any], net: ActorCritic | None = None) -> ActorCriticOutput:
        """One pass of `net` (the module's own) over a batch with RLlib's columns.

        Raises:
            ValueError: where the batch carries no memory.
        """
        if Columns.STATE_IN not in batch:
            raise ValueError(
                f"the batch has no {Columns.STATE_IN!r} (it has {', '.join(batch)}): keep RLlib's "
                "default connectors, which carry the memory"
            )
        state, resets, lengths = batch[Columns.STATE_IN], batch.get(RESETS), None
        if resets is None:  # a stock row: no more than one episode, filled up
            state = self._of_its_own_types(state)
            # Without a loss that could count what fills it up it makes no difference, and one call does.
            if self.memory_has_losses and Columns.SEQ_LENS in batch:
                lengths = batch[Columns.SEQ_LENS].long()
        return (net or self.net)(batch[Columns.OBS], state, resets, batch.get(PICKED), lengths)

    def _of_its_own_types(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state as the memory makes it: RLlib's connectors turn int64 counters into int32."""
        empty = self.net.initial_state(1)
        return {key: x.to(empty[key].dtype) if key in empty else x for key, x in state.items()}

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        out = self.run(batch)
        return {
            Columns.ACTION_DIST_INPUTS: out.policy,
            Columns.VF_PREDS: out.value,
            Columns.STATE_OUT: out.state,
        }

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        out = self.run(batch)
        losses = self._losses(out, batch)
        self.last_losses = {name: loss.detach() for name, loss in losses.items()}
        result = {
            Columns.ACTION_DIST_INPUTS: out.policy,
            Columns.VF_PREDS: out.value,
            ESTIMATE: out.estimate,
            LOSSES: losses,
            TERMS: out.terms,
            # Stock algorithms ask for the values again, through compute_values(embeddings=...).
            Columns.EMBEDDINGS: out.value,
        }
        if self.carries_losses:
            refuse_for_stock_learners(self.net.critic.width, self.net.reward_clip)
            self._note_cut_rows(batch)
            riding = [self.weight(name) * loss for name, loss in losses.items()]
            if riding and torch.is_grad_enabled():
                total = torch.stack(riding).sum()
                result[Columns.ACTION_DIST_INPUTS] = _WithGradientOf.apply(out.policy, total)
        return result

    def weight(self, name: str) -> float:
        """The coefficient of the loss `name`."""
        return self.loss_coeffs.get(name, 1.0)

    def _losses(self, out: ActorCriticOutput, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Every loss beside the task's: the memory's own, and the auxiliary ones of weight above 0."""
        losses = dict(out.losses)
        wanted = [name for name in self.net.auxiliary if self.weight(name) != 0.0]
        if not wanted or Columns.ACTIONS not in batch:  # APPO's target, RLlib's dummy passes
            return self._checked(losses)
        steps = batch[Columns.REWARDS].shape[1]
        resets = batch.get(RESETS)
        if resets is None:
            # A stock row holds no more than one episode, and what fills it up is none of it.
            resets = torch.zeros_like(batch[Columns.LOSS_MASK], dtype=torch.bool)
            if Columns.SEQ_LENS in batch:
                resets = beyond(batch[Columns.SEQ_LENS], steps)
        ignored = batch[IGNORED] if IGNORED in batch else ~batch[Columns.LOSS_MASK].bool()
        experience = Experience(
            observation=_first(batch[Columns.OBS], steps),
            features=out.features[:, :steps],
            outputs=out.outputs[:, :steps],
            actions=batch[Columns.ACTIONS],
            rewards=batch[Columns.REWARDS],
            resets=resets[:, :steps],
            ignored=ignored,
        )
        for name in wanted:
            if name in losses:
                raise ValueError(f"the memory has a loss named {name!r}, too: rename the auxiliary")
            losses[name] = self.net.auxiliary[name](experience)
        return self._checked(losses)

    def _checked(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        check_losses(losses, self.net.core, self.net.auxiliary, self.loss_coeffs)
        return losses

    def _note_cut_rows(self, batch: dict[str, Any]) -> None:
        """Says once that RLlib cuts what it learns from: every row ends with a step without loss otherwise."""
        mask = batch.get(Columns.LOSS_MASK)
        if mask is None or mask.dim() < 2 or mask.shape[1] < 2 or mask.device.type == "meta":
            return
        if bool(mask[:, -1].any()):
            warnings.warn(
                f"rows are cut after {mask.shape[1]} steps, and what happened in a row before is not "
                "learned from: set model_config['max_seq_len'] to more (rollout_fragment_length + 1, and what a "
                "world does while others reset, which RLlib does not count)",
                stacklevel=2,
            )

    def compute_values(self, batch: dict[str, Any], embeddings: Any | None = None) -> Tensor:
        """V(x) [B, T]; `embeddings`, when given, are the values that `forward_train` already made."""
        return self.run(batch).value if embeddings is None else embeddings

    def make_target_networks(self) -> None:
        self.target_net = make_target_network(self.net).eval()

    def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
        return [(self.net, self.target_net)]

    @torch.no_grad()
    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The target policy's parameters over the same steps, from the same state."""
        assert self.target_net is not None, "make_target_networks() comes first"
        out = self.run(batch, self.target_net.eval())
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: out.policy}

    def get_non_inference_attributes(self) -> list[str]:
        # RLlib cannot remove a nested attribute; where there is none to remove, it must not try.
        return ["target_net"] if self.inference_only else ["target_net", "net.auxiliary"]


def _first(observation: Any, steps: int) -> Any:
    if isinstance(observation, dict):
        return {key: _first(x, steps) for key, x in observation.items()}
    return observation[:, :steps]
