"""Action distributions in plain torch: Discrete, MultiDiscrete and Box actions, and masks of the discrete ones.

Shapes: [..., P] parameters, where P is `parameter_count(space)`; actions [...] (Discrete) or [..., A].
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

# A forbidden action's logit: far below any network's, its probability is exactly 0, and sums of several stay finite.
FORBIDDEN = -1e9


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 where it has fewer bits: probabilities of half precision would not be told apart."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class Categorical:
    """One Discrete action from logits [..., n]."""

    def __init__(self, logits: Tensor):
        self.log_p = torch.log_softmax(at_least_float32(logits), -1)  # (..., n)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        flat = self.log_p.exp().flatten(0, -2)
        drawn = torch.multinomial(flat, 1, generator=generator)
        return drawn.view(self.log_p.shape[:-1])

    def mode(self) -> Tensor:
        return self.log_p.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return self.log_p.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.log_p.exp() * self.log_p).sum(-1)

    def kl(self, other: Categorical) -> Tensor:
        return (self.log_p.exp() * (self.log_p - other.log_p)).sum(-1)


class MultiCategorical:
    """Independent Discrete actions from concatenated logits [..., sum(sizes)]."""

    def __init__(self, logits: Tensor, sizes: list[int]):
        self.parts = [Categorical(part) for part in logits.split(sizes, -1)]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.stack([part.sample(generator) for part in self.parts], -1)

    def mode(self) -> Tensor:
        return torch.stack([part.mode() for part in self.parts], -1)

    def log_prob(self, action: Tensor) -> Tensor:
        return sum(part.log_prob(action[..., i]) for i, part in enumerate(self.parts))  # type: ignore[return-value]

    def entropy(self) -> Tensor:
        return sum(part.entropy() for part in self.parts)  # type: ignore[return-value]

    def kl(self, other: MultiCategorical) -> Tensor:
        pairs = zip(self.parts, other.parts, strict=True)
        return sum(mine.kl(theirs) for mine, theirs in pairs)  # type: ignore[return-value]


class DiagonalGaussian:
    """A Box action from means and log standard deviations [..., 2A] (RLlib's layout)."""

    def __init__(self, parameters: Tensor):
        mean, log_std = at_least_float32(parameters).chunk(2, -1)
        self.normal = torch.distributions.Normal(mean, log_std.exp(), validate_args=False)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(self.normal.loc.shape, generator=generator)
        return self.normal.loc + self.normal.scale * noise.to(self.normal.loc)

    def mode(self) -> Tensor:
        return self.normal.loc

    def log_prob(self, action: Tensor) -> Tensor:
        return self.normal.log_prob(action).sum(-1)

    def entropy(self) -> Tensor:
        return self.normal.entropy().sum(-1)

    def kl(self, other: DiagonalGaussian) -> Tensor:
        return torch.distributions.kl_divergence(self.normal, other.normal).sum(-1)


Distribution = Categorical | MultiCategorical | DiagonalGaussian


def parameter_count(space: gym.Space) -> int:
    """How many numbers describe one action's distribution.

    Raises:
        ValueError: for a space other than Discrete, a flat MultiDiscrete or a flat Box.
    """
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1:
        return int(np.sum(space.nvec))
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return 2 * space.shape[0]
    raise ValueError(
        f"no policy for actions of {space}: give Discrete, a flat MultiDiscrete or a flat Box (envs.adapt makes them)"
    )


def has_mask(observation: gym.Space, action: gym.Space) -> bool:
    """Whether an observation's part "action_mask" has one number for each choice of `action`."""
    if not isinstance(observation, spaces.Dict) or isinstance(action, spaces.Box):
        return False
    part = observation.spaces.get("action_mask")
    return part is not None and part.shape == (parameter_count(action),)


def masked(space: gym.Space, parameters: Tensor, mask: Tensor) -> Tensor:
    """`parameters` [..., P] where forbidden actions have no probability, and no gradient.

    A distribution of these numbers (ours, or RLlib's from the same logits) never draws a forbidden action; its entropy
    and divergence are those over the allowed ones. Where nothing is allowed (as in the last observation of many
    games, when no action counts any more) everything is: each choice of a MultiDiscrete by itself.

    Args:
        space: of the policy's actions.
        mask: [..., P], not 0 where an action is allowed; for MultiDiscrete the choices' masks one after the other.

    Raises:
        ValueError: for a mask of another size, or of continuous actions.
    """
    if isinstance(space, spaces.Discrete):
        sizes = [int(space.n)]
    elif isinstance(space, spaces.MultiDiscrete):
        sizes = [int(n) for n in space.nvec]
    else:
        raise ValueError(f"a mask for actions of {space}: only Discrete and MultiDiscrete have one")
    if mask.shape != parameters.shape:
        raise ValueError(
            f"a mask of shape {list(mask.shape)} for parameters {list(parameters.shape)}: give one "
            f"number for each of the {sum(sizes)} choices, not 0 where it is allowed"
        )
    allowed = torch.cat(
        [part | ~part.any(-1, keepdim=True) for part in (mask != 0).split(sizes, -1)], -1
    )
    return at_least_float32(parameters).masked_fill(~allowed, FORBIDDEN)


def distribution(space: gym.Space, parameters: Tensor, mask: Tensor | None = None) -> Distribution:
    """The distribution of actions in `space` that `parameters` [..., P] describe, under a mask (see `masked`)."""
    if mask is not None:
        parameters = masked(space, parameters, mask)
    if isinstance(space, spaces.Discrete):
        return Categorical(parameters)
    if isinstance(space, spaces.MultiDiscrete):
        return MultiCategorical(parameters, [int(n) for n in space.nvec])
    return DiagonalGaussian(parameters)


def for_env(space: gym.Space, action: np.ndarray) -> np.ndarray:
    """What an environment with action `space` takes for a policy's `action` (batched or not).

    A Discrete action is counted from the space's start. A bounded Box action is clipped to [-1, 1] and
    stretched to its bounds, as RLlib's `normalize_actions` does (whole numbers are rounded); one without bounds
    everywhere is clipped where it has some.
    """
    if isinstance(space, spaces.Discrete):
        return action + int(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        return action + space.start
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    value = np.clip(action, low, high)
    if np.isfinite(low).all() and np.isfinite(high).all():
        inside = (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1.0) / 2.0
        # The ends are met exactly, and no difference of far bounds overflows.
        value = low * (1.0 - inside) + high * inside
    return (value if np.dtype(space.dtype).kind == "f" else np.rint(value)).astype(space.dtype)
