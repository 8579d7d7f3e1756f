"""An environment of your own, as one batch of N worlds in numpy: the quick way. docs/tutorial.md has the usual way.

    python examples/own_environment.py --memory compressive --steps 60000
    python -m ct_rl.train --import examples.own_environment --env recall --memory gru

A cue is shown once; after `delay` empty steps the agent is asked which it was. Guessing is right in one of four.
"""

import argparse

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

import envs

CUES, EMPTY, NOW = 4, 4, 5  # observations 0 to 3 are cues


class Recall(VectorEnv):
    """N worlds that are stepped by the same few lines; reward 1 for naming the cue when asked."""

    # An ended world is reset in its next step, in which its action counts for nothing: what ct_rl expects.
    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs, delay=8):  # a first parameter `num_envs` says that this is a batch
        self.num_envs, self.delay = num_envs, delay
        self.single_observation_space = gym.spaces.Discrete(CUES + 2)
        self.single_action_space = gym.spaces.Discrete(CUES)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        self.rng = np.random.default_rng(seed)
        self.t = np.zeros(self.num_envs, np.int64)
        self.ended = np.zeros(self.num_envs, bool)
        self.cue = self.rng.integers(0, CUES, self.num_envs)
        return self._observe(), {}

    def step(self, actions):
        fresh = self.ended  # these worlds only begin again
        asked = (self.t == self.delay + 1) & ~fresh
        reward = np.where(asked, actions == self.cue, 0.0)
        self.ended = asked
        self.t = np.where(fresh, 0, self.t + 1)
        self.cue = np.where(fresh, self.rng.integers(0, CUES, self.num_envs), self.cue)
        return self._observe(), reward, asked, np.zeros(self.num_envs, bool), {}

    def _observe(self):
        return np.where(self.t == 0, self.cue, np.where(self.t <= self.delay, EMPTY, NOW))


envs.register("recall", Recall)  # from now on "recall" is a name like any other


def small_config(memory, /, **options):
    """PPO on `recall` in this process, small enough for a laptop; the other examples start from it."""
    from agents import MemoryPPOConfig  # here, so that importing this file loads no Ray

    config = MemoryPPOConfig().environment("recall").memory(memory, **options).network(width=32)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=32, rollout_fragment_length=40)
    config.training(train_batch_size_per_learner=1280, minibatch_size=320, num_epochs=4, lr=3e-3)
    return config.debugging(seed=1)


def train(config, steps):
    """Trains until `steps` and prints the mean return of what ended since the line before."""
    algo = config.build_algo()
    while algo.steps < steps:
        report = algo.train()["ct_rl"]
        returns = [episode["return"] for episode in report["episodes"]]
        losses = {key: value for key, value in report.items() if key.endswith("_loss")}
        said = "  ".join(f"{key} {value:.3f}" for key, value in sorted(losses.items()))
        print(f"{algo.steps:>8,} steps   return {np.mean(returns):.2f}   {said}", flush=True)
    algo.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", default="compressive", help="try identity, which has none")
    parser.add_argument("--steps", type=int, default=60_000, help="agent steps of training")
    args = parser.parse_args()
    # A layer of `compressive` reaches window + memory + rate * compressed = 4 + 4 + 16 steps back.
    sizes = {"n_layers": 1, "n_heads": 2, "window": 4, "memory": 4, "compressed": 4, "rate": 4}
    options = sizes if args.memory == "compressive" else {}
    train(small_config(args.memory, d_model=32, **options), args.steps)


if __name__ == "__main__":
    main()
