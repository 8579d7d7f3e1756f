"""Observations and actions of all kinds as the networks read and write them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from envs.adapt import Adapted, action_part, observation_part
from envs.dmlab.instruction import hash_words

U8 = np.uint8


class Echo(gym.Env):
    """Shows samples of its observation space and keeps the actions it was given."""

    def __init__(self, observation, action=None):
        self.observation_space = observation
        self.action_space = action or spaces.Discrete(2)
        self.given = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.shown = self.observation_space.sample()
        return self.shown, {}

    def step(self, action):
        self.given.append(action)
        self.shown = self.observation_space.sample()
        return self.shown, 1, False, False, {}


NESTED = spaces.Dict(
    {
        "screen": spaces.Box(0, 255, (240, 320, 3), U8),
        "place": spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2, 2)))),
        "variables": spaces.Box(-np.inf, np.inf, (2,)),
        "mission": spaces.Text(30),
        "flags": spaces.MultiBinary(4),
        "cards": spaces.MultiDiscrete([3, 5]),
    }
)


def test_nested_observations_become_a_flat_dict():
    env = Adapted(Echo(NESTED))
    found = env.observation_space.spaces
    assert set(found) == {
        "screen", "place_part_0", "place_part_1", "variables", "instruction", "flags", "cards"
    }  # fmt: skip
    assert found["screen"].shape == (72, 96, 3) and found["place_part_1"].shape == (4,)
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        assert env.observation_space.contains(observation)
        shown = env.unwrapped.shown
        assert observation["place_part_0"] == shown["place"][0]
        assert (observation["instruction"] == hash_words(shown["mission"])).all()
        variables = shown["variables"].astype(float)
        expected = np.sign(variables) * np.log1p(abs(variables))
        assert observation["variables"] == pytest.approx(expected, rel=1e-5)
        assert observation["screen"].mean() == pytest.approx(shown["screen"].mean(), abs=1)
        observation, *_ = env.step(0)


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (spaces.Box(0, 255, (84, 84, 3), U8), (84, 84, 3)),
        (spaces.Box(0, 255, (3, 84, 60), U8), (84, 60, 3)),
        (spaces.Box(0, 255, (60, 80), U8), (60, 80, 1)),
        (spaces.Box(0, 255, (210, 160, 3), U8), (96, 73, 3)),
        (spaces.Box(0, 255, (7, 7, 3), U8), (147,)),
        (spaces.Box(0, 255, (128,), U8), (128,)),
        (spaces.Box(-2, 2, (3, 4), np.float64), (12,)),
    ],
)
def test_boxes_become_pictures_or_numbers(space, shape):
    seen, read = observation_part(space)
    value = read(space.sample())
    assert seen.shape == shape and seen.contains(value)
    if len(shape) == 1 and space.dtype == U8:
        assert value.max() <= 1


def test_channels_that_come_first_come_last():
    space = spaces.Box(0, 255, (3, 40, 50), U8)
    _, read = observation_part(space)
    frame = space.sample()
    assert (read(frame) == frame.transpose(1, 2, 0)).all()


def test_minigrids_codes_become_categories():
    space = spaces.Box(0, 255, (7, 7, 3), U8)
    seen, read = observation_part(space, grid=True)
    assert seen.nvec.reshape(7, 7, 3)[0, 0].tolist() == [11, 6, 3]
    codes = np.zeros((7, 7, 3), U8)
    codes[2, 3] = (10, 5, 2)
    value = read(codes)
    assert seen.contains(value) and value.reshape(7, 7, 3)[2, 3].tolist() == [10, 5, 2]


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (spaces.Discrete(3, start=5), 2, 7),
        (spaces.MultiDiscrete([2, 3]), [1, 2], [1, 2]),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), [1, 2, 3, 4], [[1, 2], [3, 4]]),
        (spaces.MultiBinary((2, 2)), [1, 0, 0, 1], [[1, 0], [0, 1]]),
        (spaces.Box(-1, 1, (2, 2)), [9, 0.5, -9, 0], [[1, 0.5], [-1, 0]]),
    ],
)
def test_actions_reach_the_environment_in_its_own_space(space, action, expected):
    seen, apply = action_part(space)
    assert isinstance(seen, spaces.Discrete | spaces.MultiDiscrete | spaces.Box)
    assert len(seen.shape) <= 1
    given = apply(np.asarray(action))
    assert np.array_equal(given, expected) and space.contains(given)
    assert space.contains(apply(seen.sample()))


def test_several_discrete_actions_at_once():
    space = spaces.Dict(
        move=spaces.Discrete(4), keys=spaces.MultiBinary(2), turn=spaces.Discrete(3, start=-1)
    )
    seen, apply = action_part(space)
    sizes = {"keys": [2, 2], "move": [4], "turn": [3]}  # a Dict sorts its keys
    assert seen.nvec.tolist() == [n for key in space.spaces for n in sizes[key]]
    for _ in range(20):
        assert space.contains(apply(seen.sample()))
    seen, apply = action_part(spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3))))
    assert apply(np.array([1, 2])) == (1, 2)


@pytest.mark.parametrize(
    "space", [spaces.Text(3), spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(0, 1, (1,)))]
)
def test_actions_that_no_policy_gives_are_refused_in_one_line(space):
    with pytest.raises(ValueError, match="no policy here gives"):
        Adapted(Echo(spaces.Discrete(2), space))


def test_observations_that_no_network_reads_are_refused_in_one_line():
    with pytest.raises(ValueError, match="no network here reads"):
        Adapted(Echo(spaces.Sequence(spaces.Discrete(2))))
