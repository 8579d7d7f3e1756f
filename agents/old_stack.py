"""The actor-critic as a `custom_model` of RLlib's old API stack, which Ray still ships.

New work belongs on the new stack (`MemoryRLModule`, `MemoryIMPALAConfig`): the old one stores and ships the
whole memory with every single step.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from ray.rllib.models.catalog import ModelCatalog
from ray.rllib.models.preprocessors import get_preprocessor
from ray.rllib.models.torch.torch_modelv2 import TorchModelV2
from torch import Tensor, nn

from agents.actor_critic import ActorCritic

NAME = "compressive_transformer"


class MemoryModelV2(TorchModelV2, nn.Module):
    """`ActorCritic` for `.training(model={"custom_model": "compressive_transformer", ...})`.

    `custom_model_config` holds `ActorCritic`'s settings, "memory" among them, and
    "compression_loss_coeff" (1.0). `max_seq_len` cuts the learner's rows as it does for an LSTM.

    Raises:
        ValueError: for spaces or settings that `ActorCritic` refuses.
    """

    def __init__(
        self,
        obs_space: gym.Space,
        action_space: gym.Space,
        num_outputs: int,
        model_config: dict[str, Any],
        name: str,
        *,
        compression_loss_coeff: float = 1.0,
        **settings: Any,
    ):
        TorchModelV2.__init__(self, obs_space, action_space, num_outputs, model_config, name)
        nn.Module.__init__(self)
        original = getattr(obs_space, "original_space", obs_space)
        seen = _seen(original) if isinstance(original, spaces.Dict) else obs_space
        self.net = ActorCritic(seen, action_space, **settings)
        self.compression_loss_coeff = compression_loss_coeff
        self._empty = self.net.initial_state(1)
        self._names = sorted(self._empty)
        self._value: Tensor | None = None
        self._losses: dict[str, Tensor] = {}

    def get_initial_state(self) -> list[Tensor]:
        # RLlib stores states as float32; counters are exact in it up to 2 ** 24.
        return [self._empty[name][0].float().cpu() for name in self._names]

    def forward(
        self, input_dict: dict[str, Any], state: list[Tensor], seq_lens: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        observation = input_dict["obs"]
        one = next(iter(observation.values())) if isinstance(observation, dict) else observation
        rows = one.shape[0] if seq_lens is None else len(seq_lens)

        def in_rows(x: Tensor) -> Tensor:
            return x.float().reshape(rows, -1, *x.shape[1:])

        out = self.net(
            {key: in_rows(x) for key, x in observation.items()}
            if isinstance(observation, dict)
            else in_rows(observation),
            {
                name: torch.as_tensor(x, device=one.device).to(self._empty[name].dtype)
                for name, x in zip(self._names, state, strict=True)
            },
        )
        self._value = out.value.flatten()
        self._losses = out.losses
        return out.policy.flatten(0, 1), [out.state[name].float() for name in self._names]

    def value_function(self) -> Tensor:
        assert self._value is not None, "forward() comes first"
        return self._value

    def custom_loss(self, policy_loss: Any, loss_inputs: dict[str, Any]) -> Any:
        """Adds the compression loss of the last pass, which trains nothing but the compression."""
        if "compression" not in self._losses:
            return policy_loss
        own = self.compression_loss_coeff * self._losses["compression"]
        if isinstance(policy_loss, list):
            return [loss + own for loss in policy_loss]
        return policy_loss + own


def _seen(space: gym.Space) -> gym.Space:
    """What RLlib's preprocessors make of a Dict and its parts: discrete values arrive one-hot."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _seen(part) for key, part in space.spaces.items()})
    seen = get_preprocessor(space)(space).observation_space
    return space if seen.shape == space.shape else seen


def register_model() -> None:
    """Enters the model in the old stack's catalog under "compressive_transformer"."""
    ModelCatalog.register_custom_model(NAME, MemoryModelV2)
