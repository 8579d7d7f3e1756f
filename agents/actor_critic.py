"""Encoder + memory + heads as one actor-critic, in plain torch.

Shapes: B batch (rows), T time, P parameters of the action distribution.
"""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from agents.auxiliary import Sizes, build_auxiliary
from agents.critics import build_critic
from agents.distributions import (
    Distribution,
    at_least_float32,
    distribution,
    for_env,
    has_mask,
    masked,
    parameter_count,
)
from agents.encoders import build_encoder, encode, pick
from agents.rewards import check_reward_clip
from ct_rl.memory import StepAttention, build_memory

Observation = Tensor | dict[str, Tensor]
State = dict[str, Tensor]


@dataclass
class ActorCriticOutput:
    """What one pass gives.

    Attributes:
        policy: [B, T, P]; value: [B, T].
        estimate: [B, T, V], what the value was made of (`agents.critics`).
        state: the memory after the last step.
        losses: scalars of the memory's own, by name; terms: of how many terms each is the mean.
        features: [B, T, F], the encoder's; outputs: [B, T, d_out], the memory core's.
    """

    policy: Tensor
    value: Tensor
    estimate: Tensor
    state: State
    losses: dict[str, Tensor]
    terms: dict[str, Tensor]
    features: Tensor
    outputs: Tensor


@dataclass
class Watched:
    """What one acting step gives, and where it looked.

    Attributes:
        policy: [B, P]; value: [B].
        attention: of the memory core; None where it does not attend.
    """

    policy: Tensor
    value: Tensor
    attention: StepAttention | None


def as_tensors(observation: Any, device: torch.device | None = None) -> Observation:
    """An observation of numpy arrays (or a dict of them) as tensors on `device`; copies only where it must."""
    return _map(lambda x: _as_tensor(x, device), observation)  # type: ignore[no-any-return]


def _as_tensor(value: Any, device: torch.device | None) -> Tensor:
    if isinstance(value, np.ndarray) and min(value.strides, default=0) < 0:
        value = value.copy()  # a flipped view, which torch does not know
    return torch.as_tensor(value, device=device)


class ActorCritic(nn.Module):
    """An agent whose recurrent torso is a memory core, with a path from the encoder around it to the heads.

    Args:
        observation_space, action_space: of ONE environment.
        memory: name of a core (`ct_rl.memory.memory_names()`).
        memory_options: its settings, as `ct_rl.memory.build_memory` takes them.
        encoder: image encoder, one of `agents.encoder_names()`.
        width: features of the encoder.
        crop: pixels cut from images before they are read: rows from top and bottom, columns from both sides.
        around: whether the heads also read the encoder's features past the memory, which lets an
            agent act on what it sees before its memory has learned anything.
        head: units of a hidden layer before policy and value, 0 for none. What an agent remembers often
            matters only together with what it sees now; a linear head can only add the two up.
        bilinear: products of what the memory says with what the encoder sees now, which the heads read beside both, 0
            for none: a low-rank bilinear form (Kim et al. 2017, arXiv 1610.04325), in which "the same as then" is one
            step away.
        value_bins: places of a value that is learned as a distribution, which helps where returns have very different
            sizes (DreamerV3's two-hot regression, `agents.critics`); 0 for a number with a squared error.
        reward_clip: how the learner clips rewards: "none", "unit" or "optimistic_asymmetric".
        auxiliary: losses beside the task's, by name (`agents.auxiliary_names()`), each with its settings.

    Raises:
        ValueError: for a space, name or setting that nothing here handles.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        memory: str = "compressive",
        memory_options: Mapping[str, Any] | None = None,
        encoder: str = "small",
        width: int = 256,
        crop: Sequence[int] = (0, 0),
        around: bool = True,
        head: int = 0,
        bilinear: int = 0,
        value_bins: int = 0,
        reward_clip: str = "none",
        auxiliary: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        super().__init__()
        check_reward_clip(reward_clip)
        for name, size, least in (
            ("width", width, 1),
            ("head", head, 0),
            ("bilinear", bilinear, 0),
        ):
            if isinstance(size, bool) or not isinstance(size, numbers.Integral) or size < least:
                raise ValueError(f"{name}={size!r}: expected a whole number of at least {least}")
        self.action_space, self.reward_clip, self.around = action_space, reward_clip, around
        self.masks = has_mask(observation_space, action_space)
        self.encoder = build_encoder(observation_space, encoder, width, crop)
        self.core = build_memory(memory, **(memory_options or {}))
        features = int(self.encoder.d_out)
        self.inlet = nn.Linear(features, self.core.d_model)
        self.norm = nn.LayerNorm(self.core.d_out)
        read = self.core.d_out + (features if around else 0) + bilinear
        self.held = nn.Linear(self.core.d_out, bilinear) if bilinear else None
        self.seen = nn.Linear(features, bilinear) if bilinear else None
        self.head = nn.Sequential(nn.Linear(read, head), nn.ReLU()) if head else nn.Identity()
        self.policy = nn.Linear(head or read, parameter_count(action_space))
        self.critic = build_critic(value_bins)
        self.value = nn.Linear(head or read, self.critic.width)
        # The first policy is uniform and the first value zero: no early preference to unlearn.
        for layer in (self.policy, self.value):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        # Built last: a network with and without them starts from the same weights.
        sizes = Sizes(features, self.core.d_out, observation_space, action_space)
        self.auxiliary = nn.ModuleDict(
            {
                name: build_auxiliary(name, sizes, options)
                for name, options in (auxiliary or {}).items()
            }
        )

    def loss_names(self) -> list[str]:
        """Of every loss beside the task's: the memory's own and the auxiliary ones."""
        return sorted({*self.memory_loss_names(), *self.auxiliary})

    def memory_loss_names(self) -> list[str]:
        """Of the losses that the memory core has in training."""
        was_training = self.core.training
        self.core.train()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # dropout draws
            x = self.inlet.weight.new_zeros(1, 1, self.core.d_model)
            out = self.core(x, self.initial_state(1))
        self.core.train(was_training)
        return sorted(out.losses)

    def initial_state(self, batch_size: int) -> State:
        """The memory of `batch_size` rows that have seen nothing, on the network's device."""
        return {
            key: value.to(self.inlet.weight.device)
            for key, value in self.core.initial_state(batch_size).items()
        }

    @torch.no_grad()
    def pick(self, observation: Observation) -> Observation | None:
        """What the encoder finds in observations [B, ...] and need not search for again (`agents.encoders.pick`)."""
        found: Observation | None = pick(self.encoder, observation)
        return found

    def forward(
        self,
        observation: Observation,
        state: State,
        resets: Tensor | None = None,
        picked: Observation | None = None,
        lengths: Tensor | None = None,
    ) -> ActorCriticOutput:
        """One pass over T steps.

        Args:
            observation: tensors [B, T, ...].
            state: of the step before, batch first.
            resets: bool [B, T], True where a step begins a new episode.
            picked: [B, T, ...], what `pick` gave for these observations, with these weights or a little older ones.
            lengths: int [B], of rows of one episode that are only filled up from there on, in place of `resets`.
        """
        features = self._encode(observation, picked)  # (B, T, F)
        x = self.inlet(features)
        out = (
            self.core(x, state, resets)
            if lengths is None
            else self.core.read_filled(x, state, lengths)
        )
        policy, estimate = self._outputs(out.y, features, observation)
        value = self.critic.value(estimate)
        return ActorCriticOutput(
            policy, value, estimate, out.state, out.losses, out.terms, features, out.y
        )

    @torch.no_grad()
    def step(
        self,
        observation: Observation,
        state: State,
        resets: Tensor | None = None,
        picked: Observation | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Reads one step and moves `state` on IN PLACE: the cheap way to act.

        Under autocast only the encoder takes its type: the memory's few rows would gain nothing by it.

        Args:
            observation: tensors [B, ...].
            state: from `initial_state` or the step before.
            resets: bool [B], True where the observation is a new episode's first.
            picked: [B, ...], what `pick` gave for these observations.

        Returns:
            The policy's parameters [B, P] and the value [B].
        """
        features = encode(self.encoder, observation, picked)
        weight = self.inlet.weight
        with _without_autocast(weight.device.type):
            features = features.to(weight.dtype)
            y = self.core.step(self.inlet(features), state, resets)
            return self._heads(y, features, observation)

    def pure_step(
        self, observation: Observation, state: State, resets: Tensor
    ) -> tuple[Tensor, Tensor, State]:
        """`step` as a function that can be traced: policy [B, P], value [B] and the next state."""
        features = self.encoder(observation)
        y, after = self.core.pure_step(self.inlet(features), state, resets)
        policy, value = self._heads(y, features, observation)
        return policy, value, after

    @torch.no_grad()
    def watched_step(
        self, observation: Observation, state: State, resets: Tensor | None = None
    ) -> Watched:
        """`step`, to the last bit, and where the memory looked; moves `state` on IN PLACE."""
        features = self.encoder(observation)
        y, attention = self.core.watched_step(self.inlet(features), state, resets)
        return Watched(*self._heads(y, features, observation), attention)

    @torch.no_grad()
    def masked_policies(
        self,
        observation: Observation,
        state: State,
        masked: Tensor,
        resets: Tensor | None = None,
    ) -> Tensor:
        """What the policy of a step would be, had its memory not read some places; all R cases in one pass.

        Args:
            observation: tensors [B, ...].
            state: of the step before, B rows; stays as it is.
            masked: bool [B, R, N], in each case the places of `StepAttention` that are not read.
            resets: bool [B].

        Returns:
            [B, R, P].
        """
        cases = masked.shape[1]

        def repeat(x: Tensor) -> Tensor:
            return x.repeat_interleave(cases, 0)

        features = repeat(self.encoder(observation))
        y, _ = self.core.watched_step(
            self.inlet(features),
            {key: repeat(value) for key, value in state.items()},
            None if resets is None else repeat(resets),
            masked.flatten(0, 1),
        )
        policy, _ = self._heads(y, features, _map(repeat, observation))
        return policy.unflatten(0, (-1, cases))

    @torch.no_grad()
    def act(
        self,
        observation: Any,
        state: State,
        *,
        greedy: bool = False,
        resets: np.ndarray | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[np.ndarray, State]:
        """Actions for B environments; `state` stays as it was (`agents.acting.Actor` saves the copy).

        Args:
            observation: numpy arrays [B, ...], as a vector environment gives them.
            state: from `initial_state` or the step before.
            greedy: take the likeliest action instead of sampling.
            resets: bool [B], True where the observation is a new episode's first.

        Returns:
            Actions as the environment takes them, numpy [B, ...], and the next state.
        """
        device = self.inlet.weight.device
        after = {key: value.clone() for key, value in state.items()}
        begins = None if resets is None else torch.as_tensor(resets, device=device)
        policy, _ = self.step(as_tensors(observation, device), after, begins)
        return self.choose(policy, greedy=greedy, generator=generator), after

    def choose(
        self, policy: Tensor, *, greedy: bool = False, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Actions of the policy's parameters [B, P] as the environment takes them, numpy [B, ...]."""
        chosen = self.distribution(policy.cpu())
        action = chosen.mode() if greedy else chosen.sample(generator)
        return for_env(self.action_space, action.numpy())

    def distribution(self, policy: Tensor) -> Distribution:
        """The action distribution that `policy` [..., P] describes."""
        return distribution(self.action_space, policy)

    def _encode(self, observation: Observation, picked: Observation | None) -> Tensor:
        one = observation
        while isinstance(one, dict):
            one = next(iter(one.values()))
        flat = _map(lambda x: x.flatten(0, 1), observation)
        found = None if picked is None else _map(lambda x: x.flatten(0, 1), picked)
        return encode(self.encoder, flat, found).unflatten(0, one.shape[:2])

    def _heads(
        self, y: Tensor, features: Tensor, observation: Observation
    ) -> tuple[Tensor, Tensor]:
        """Policy and value."""
        policy, estimate = self._outputs(y, features, observation)
        return policy, self.critic.value(estimate)

    def _outputs(
        self, y: Tensor, features: Tensor, observation: Observation
    ) -> tuple[Tensor, Tensor]:
        """Policy and estimate; forbidden actions have no probability, in acting, learning and entropy alike."""
        y, features = self.norm(y), features.to(y.dtype)
        parts = [y, features] if self.around else [y]
        if self.held is not None and self.seen is not None:
            parts.append(self.held(y) * self.seen(features))
        y = self.head(torch.cat(parts, -1))
        policy, estimate = self.policy(y), self.value(y)
        if self.masks and isinstance(observation, dict):
            policy = masked(self.action_space, policy, observation["action_mask"])
        return at_least_float32(policy), at_least_float32(estimate)


def _without_autocast(kind: str) -> contextlib.AbstractContextManager[Any]:
    """The weights' own arithmetic on a kind of device, which may be one that has no autocast."""
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()


def _map(change: Any, observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: _map(change, x) for key, x in observation.items()}
    return change(observation)
