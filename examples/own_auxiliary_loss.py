"""An auxiliary loss of your own: which action led from one step's features to the next? (an inverse model)

    python examples/own_auxiliary_loss.py --coefficient 0.1
    python -m ct_rl.train --import examples.own_auxiliary_loss --auxiliary inverse --env CartPole-v1

Pathak et al. 2017, arXiv 1705.05363, section 2.2: features that tell the action hold what the agent can influence.
"""

import argparse
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from gymnasium.spaces import Discrete
from torch import nn
from torch.nn import functional

from agents import AuxiliaryLoss, register_auxiliary


class Inverse(AuxiliaryLoss):
    """Cross-entropy of the action that was taken, guessed from the features before and after it."""

    @dataclass(frozen=True)
    class Options:
        """Settings of `inverse`."""

        hidden: Annotated[int, Ge(1), Le(4096)] = 64
        """Hidden units of the guess [units]."""

    small: ClassVar[dict] = {"hidden": 8}  # the options with which the contract tests build it

    def __init__(self, sizes, hidden):
        super().__init__(sizes)
        if not isinstance(sizes.action_space, Discrete):
            raise ValueError(f"inverse is for Discrete actions, not {sizes.action_space}")
        self.guess = nn.Sequential(
            nn.Linear(2 * sizes.features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, int(sizes.action_space.n)),
        )

    def forward(self, experience):
        before, after = experience.features[:, :-1], experience.features[:, 1:]  # [N, T - 1, F]
        logits = self.guess(torch.cat([before, after], -1)).flatten(0, 1)
        actions = experience.actions[:, :-1].flatten().long()
        cost = functional.cross_entropy(logits, actions, reduction="none")
        # Steps of which no action was taken are ignored, and an episode's end leads nowhere.
        counts = experience.episode[:, 1:] == experience.episode[:, :-1]
        counts = (counts & ~experience.ignored[:, :-1]).flatten()
        return (cost * counts).sum() / counts.sum().clamp(min=1)


register_auxiliary("inverse", Inverse)


def main():
    from own_environment import train

    from agents import MemoryPPOConfig

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coefficient", type=float, default=0.1, help="weight beside the task")
    parser.add_argument("--steps", type=int, default=30_000, help="agent steps of training")
    args = parser.parse_args()
    config = MemoryPPOConfig().environment("CartPole-v1").memory("gru", d_model=32, hidden=32)
    config.network(width=32).auxiliary("inverse", hidden=32)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=16, rollout_fragment_length=32)
    config.training(train_batch_size_per_learner=512, loss_coeffs={"inverse": args.coefficient})
    train(config.debugging(seed=1), args.steps)  # the lines have `inverse_loss`


if __name__ == "__main__":
    main()
