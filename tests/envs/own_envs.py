"""A user's module: importing it registers environments, with gymnasium and here."""

import gymnasium as gym
import numpy as np

import envs


class Walk(gym.Env):
    """A walk on a line whose settings have names of gymnasium's own."""

    def __init__(self, num_envs=3, name="line", id=0, vector_kwargs=None, render_mode=None):
        self.length, self.label = num_envs, name
        self.observation_space = gym.spaces.Box(-num_envs, num_envs, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2, start=1)
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = float(self.np_random.integers(-1, 2))
        return np.array([self.at], np.float32), {}

    def step(self, action):
        self.at += 2.0 * (action - 1) - 1.0
        over = abs(self.at) >= self.length
        return (
            np.array([np.clip(self.at, -self.length, self.length)], np.float32),
            1.0,
            over,
            False,
            {},
        )


def make_walks(num_envs, **settings):
    """N walks in one vector environment."""
    return gym.vector.SyncVectorEnv([lambda: Walk(**settings)] * num_envs)


gym.register("OwnWalk-v0", entry_point="tests.envs.own_envs:Walk")
envs.register("own_walk", "tests.envs.own_envs:Walk")
