"""Encoder + memory + heads as one actor-critic, in plain torch.

Shapes: B batch (rows), T time, P parameters of the action distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from agents.distributions import Distribution, distribution, for_env, parameter_count
from agents.encoders import build_encoder
from agents.rewards import clip_reward
from ct_rl.memory import build_memory

Observation = Tensor | dict[str, Tensor]
State = dict[str, Tensor]


@dataclass
class ActorCriticOutput:
    """What one pass gives: `policy` [B, T, P], `value` [B, T], the next state, and the memory's own losses."""

    policy: Tensor
    value: Tensor
    state: State
    losses: dict[str, Tensor]


def as_tensors(observation: Any, device: torch.device | None = None) -> Observation:
    """An observation of numpy arrays (or a dict of them) as tensors on `device`; copies only where it must."""
    if isinstance(observation, dict):
        return {key: torch.as_tensor(value, device=device) for key, value in observation.items()}
    return torch.as_tensor(observation, device=device)


class ActorCritic(nn.Module):
    """An agent whose recurrent torso is a memory core, with a path from the encoder around it to the heads.

    Args:
        observation_space, action_space: of ONE environment.
        memory: name of a core (`ct_rl.memory.memory_names()`).
        memory_options: its settings, as `ct_rl.memory.build_memory` takes them.
        encoder: image encoder, "small" or "residual".
        width: features of the encoder.
        around: whether the heads also read the encoder's features past the memory, which lets an
            agent act on what it sees before its memory has learned anything.
        head: units of a hidden layer before policy and value, 0 for none. What an agent remembers often
            matters only together with what it sees now; a linear head can only add the two up.
        reward_clip: how the learner clips rewards: "none", "unit" or "optimistic_asymmetric".

    Raises:
        ValueError: for a space, name or setting that nothing here handles.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        *,
        memory: str = "compressive",
        memory_options: dict[str, Any] | None = None,
        encoder: str = "small",
        width: int = 256,
        around: bool = True,
        head: int = 0,
        reward_clip: str = "optimistic_asymmetric",
    ):
        super().__init__()
        clip_reward(torch.zeros(1), reward_clip)
        self.action_space = action_space
        self.reward_clip = reward_clip
        self.around = around
        options = {"d_model": 128, **(memory_options or {})}
        self.encoder = build_encoder(observation_space, encoder, width)
        self.core = build_memory(memory, **options)
        features = int(self.encoder.d_out)  # type: ignore[arg-type]
        self.inlet = nn.Linear(features, self.core.d_model)
        self.norm = nn.LayerNorm(self.core.d_out)
        read = self.core.d_out + (features if around else 0)
        self.head = nn.Sequential(nn.Linear(read, head), nn.ReLU()) if head else nn.Identity()
        self.policy = nn.Linear(head or read, parameter_count(action_space))
        self.value = nn.Linear(head or read, 1)
        # The first policy is uniform and the first value zero: no early preference to unlearn.
        for layer in (self.policy, self.value):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def initial_state(self, batch_size: int) -> State:
        """The memory of `batch_size` rows that have seen nothing, on the network's device."""
        return {
            key: value.to(self.inlet.weight.device)
            for key, value in self.core.initial_state(batch_size).items()
        }

    def forward(
        self, observation: Observation, state: State, resets: Tensor | None = None
    ) -> ActorCriticOutput:
        """One pass over T steps.

        Args:
            observation: tensors [B, T, ...].
            state: of the step before, batch first.
            resets: bool [B, T], True where a step begins a new episode.
        """
        if isinstance(observation, dict):
            rows, steps = next(iter(observation.values())).shape[:2]
            flat: Observation = {key: x.flatten(0, 1) for key, x in observation.items()}
        else:
            rows, steps = observation.shape[:2]
            flat = observation.flatten(0, 1)
        seen = self.encoder(flat).view(rows, steps, -1)  # (B, T, features)
        out = self.core(self.inlet(seen), state, resets)
        y = self.norm(out.y)
        if self.around:
            y = torch.cat([y, seen.to(y.dtype)], -1)
        y = self.head(y)
        return ActorCriticOutput(
            self.policy(y).float(), self.value(y).squeeze(-1).float(), out.state, out.losses
        )

    def distribution(self, policy: Tensor) -> Distribution:
        """The action distribution that `policy` [..., P] describes."""
        return distribution(self.action_space, policy)

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
        """Actions for B environments.

        Args:
            observation: numpy arrays [B, ...], as a vector environment gives them.
            state: from `initial_state` or the step before.
            greedy: take the likeliest action instead of sampling.
            resets: bool [B], True where the observation is a new episode's first.

        Returns:
            Actions as the environment takes them, numpy [B, ...], and the next state.
        """
        device = self.inlet.weight.device
        tensors = as_tensors(observation, device)
        one = (
            {key: x.unsqueeze(1) for key, x in tensors.items()}
            if isinstance(tensors, dict)
            else tensors.unsqueeze(1)
        )
        begins = None if resets is None else torch.as_tensor(resets, device=device)[:, None]
        out = self(one, state, begins)
        chosen = self.distribution(out.policy[:, 0])
        action = chosen.mode() if greedy else chosen.sample(generator)
        return for_env(self.action_space, action.cpu().numpy()), out.state
