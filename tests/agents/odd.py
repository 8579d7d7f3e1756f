"""An environment of any spaces, and spaces of every kind that agents take."""

import gymnasium as gym
import numpy as np


class Odd(gym.Env):
    """Random observations of any space, episodes of 5 to 9 steps: for spaces, not for learning."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.left = int(self.np_random.integers(5, 10))
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.left -= 1
        return self.observation_space.sample(), 1.0, self.left == 0, False, {}


OBSERVATIONS = {
    "vector": gym.spaces.Box(-1, 1, (3,), np.float32),
    "image": gym.spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "far from 0": gym.spaces.Discrete(4, start=5),
    "one number": gym.spaces.Box(-1, 1, (), np.float32),
    "dict": gym.spaces.Dict(
        {
            "frame": gym.spaces.Box(0, 255, (36, 36, 3), np.uint8),
            "last_reward": gym.spaces.Box(-np.inf, np.inf, (1,), np.float32),
            "place": gym.spaces.Discrete(3),
        }
    ),
    "nested": gym.spaces.Dict(
        {
            "body": gym.spaces.Dict(
                {
                    "flags": gym.spaces.Box(0, 1, (4,), np.bool_),
                    "level": gym.spaces.Box(-1, 1, (), np.float32),
                }
            ),
            "place": gym.spaces.Discrete(3),
        }
    ),
}
ACTIONS = {
    "discrete": gym.spaces.Discrete(3),
    "multi-discrete": gym.spaces.MultiDiscrete([2, 3]),
    "continuous": gym.spaces.Box(-2, 3, (2,), np.float32),
}
