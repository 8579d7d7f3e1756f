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

from agents.actor_critic import ActorCritic, ActorCriticOutput
from agents.auxiliary import Experience
from agents.losses import check_losses
from agents.rllib.module import refuse_for_stock_learners, refuse_unknown_losses
from ct_rl.memory.contract import beyond

NAME = "compressive_transformer"


class MemoryModelV2(TorchModelV2, nn.Module):
    """`ActorCritic` for `.training(model={"custom_model": "compressive_transformer", ...})`.

    `custom_model_config` holds `ActorCritic`'s settings, "memory" among them, and "loss_coeffs", the weights of the
    memory's and the auxiliary losses by name (1 where none is given). `max_seq_len` cuts the learner's rows as it
    does for an LSTM. Losses are in the learner's results under "model", as NAME_loss.

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
        loss_coeffs: dict[str, float] | None = None,
        **settings: Any,
    ):
        TorchModelV2.__init__(self, obs_space, action_space, num_outputs, model_config, name)
        nn.Module.__init__(self)
        original = getattr(obs_space, "original_space", obs_space)
        seen = _seen(original) if isinstance(original, spaces.Dict) else obs_space
        self.net = ActorCritic(seen, action_space, **settings)
        refuse_for_stock_learners(self.net.critic.width, self.net.reward_clip)
        self.loss_coeffs = dict(loss_coeffs or {})
        refuse_unknown_losses(self.loss_coeffs, self.net)
        self._memory_has_losses = bool(self.net.memory_loss_names())
        self._empty = self.net.initial_state(1)
        self._names = sorted(self._empty)
        self._pass: tuple[Any, ActorCriticOutput, Tensor] | None = None
        self._logged: dict[str, float] = {}

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

        rows_of_steps = (
            {key: in_rows(x) for key, x in observation.items()}
            if isinstance(observation, dict)
            else in_rows(observation)
        )
        steps = one.shape[0] // rows
        lengths = torch.full((rows,), steps) if seq_lens is None else seq_lens
        lengths = lengths.to(one.device).long()
        out = self.net(
            rows_of_steps,
            {
                name: torch.as_tensor(x, device=one.device).to(self._empty[name].dtype)
                for name, x in zip(self._names, state, strict=True)
            },
            lengths=lengths if self._memory_has_losses else None,  # see `MemoryRLModule`
        )
        self._pass = (rows_of_steps, out, beyond(lengths, steps))
        return out.policy.flatten(0, 1), [out.state[name].float() for name in self._names]

    def value_function(self) -> Tensor:
        assert self._pass is not None, "forward() comes first"
        return self._pass[1].value.flatten()

    def custom_loss(self, policy_loss: Any, loss_inputs: dict[str, Any]) -> Any:
        """Adds the memory's and the auxiliary losses of the last pass, each times its coefficient."""
        losses = self._own_losses(loss_inputs)
        self._logged = {f"{name}_loss": float(loss.detach()) for name, loss in losses.items()}
        own = sum(self.loss_coeffs.get(name, 1.0) * loss for name, loss in losses.items())
        if isinstance(policy_loss, list):
            return [loss + own for loss in policy_loss]
        return policy_loss + own

    def _own_losses(self, loss_inputs: dict[str, Any]) -> dict[str, Tensor]:
        assert self._pass is not None, "forward() comes first"
        observation, out, padding = self._pass
        losses = dict(out.losses)
        rows, steps = padding.shape
        if self.net.auxiliary:
            experience = Experience(
                observation=observation,
                features=out.features,
                outputs=out.outputs,
                actions=loss_inputs["actions"].unflatten(0, (rows, steps)),
                rewards=loss_inputs["rewards"].view(rows, steps),
                resets=padding,  # a row holds no more than one episode, and what fills it up is none of it
                ignored=padding,
            )
            wanted = [name for name in self.net.auxiliary if self.loss_coeffs.get(name, 1.0)]
            losses |= {name: self.net.auxiliary[name](experience) for name in wanted}
        check_losses(losses, self.net.core, self.net.auxiliary, self.loss_coeffs)
        return losses

    def metrics(self) -> dict[str, float]:
        """The losses of the last update, as NAME_loss."""
        return dict(self._logged)


def _seen(space: gym.Space) -> gym.Space:
    """What RLlib's preprocessors make of a Dict and its parts: discrete values arrive one-hot."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _seen(part) for key, part in space.spaces.items()})
    seen = get_preprocessor(space)(space).observation_space
    return space if seen.shape == space.shape else seen


def register_model() -> None:
    """Enters the model in the old stack's catalog under "compressive_transformer"."""
    ModelCatalog.register_custom_model(NAME, MemoryModelV2)
