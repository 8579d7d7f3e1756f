"""The last reward and action in observations, and infos of several worlds."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from agents.distributions import for_env
from envs.adapt import Adapted, action_part, adapt, adapt_vec
from envs.policy_actions import seen_action
from envs.wrappers import first_info
from tests.envs.test_adapt import Echo

INF = np.inf
BOXES = {
    "far": spaces.Box(0, 1000, (2,)),
    "farther": spaces.Box(-1e4, 1e4, (2,)),
    "uneven": spaces.Box(np.array([0, -5], np.float32), np.array([1, 1e4], np.float32)),
    "float64": spaces.Box(-1e300, 1e300, (2,), np.float64),
    "square": spaces.Box(2, 4, (1, 2)),
    "whole": spaces.Box(0, 255, (2,), np.uint8),
    "int64": spaces.Box(-(2**63), 2**63 - 1, (2,), np.int64),
    "unbounded": spaces.Box(-INF, INF, (2,)),
    "from a bound": spaces.Box(1000, INF, (2,)),
    "up to a bound": spaces.Box(-INF, -7, (2,)),
    "mixed": spaces.Box(np.array([0, -INF], np.float32), np.array([500, INF], np.float32)),
}


@pytest.mark.parametrize("space", BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("scale", [0.5, 1e4])
def test_actions_of_any_units_are_seen_as_the_policys_own(space, scale):
    env = adapt(Echo(spaces.Discrete(2), space))
    rng = np.random.default_rng(0)
    assert not env.reset(seed=0)[0]["last_action"].any()
    for _ in range(5):
        policy = (scale * rng.normal(size=2)).astype(np.float32)
        observation, *_ = env.step(for_env(env.action_space, policy))
        assert space.contains(env.unwrapped.given[-1])
        seen = observation["last_action"]
        assert env.observation_space["last_action"].contains(seen)
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        expected = np.where(
            bounded.reshape(-1), np.clip(policy, -1, 1), np.sign(policy) * np.log1p(abs(policy))
        )
        assert seen == pytest.approx(expected, abs=1e-5)


def test_vector_and_single_see_the_same_last_action():
    space = spaces.Box(0, 1000, (2,))
    vector = adapt_vec(SyncVectorEnv([lambda: Echo(spaces.Discrete(2), space)] * 3))
    assert not vector.reset(seed=0)[0]["last_action"].any()
    actions = np.array([[0, 1000], [250, 500], [750, 5]], np.float32)
    seen = vector.step(actions)[0]["last_action"]
    assert seen == pytest.approx(np.array([[-1, 1], [-0.5, 0], [0.5, -0.99]]), abs=1e-6)
    assert vector.observation_space["last_action"].contains(seen)


def test_worlds_that_a_reset_leaves_out_keep_their_last_step():
    vector = adapt_vec(SyncVectorEnv([lambda: Echo(spaces.Discrete(2))] * 3))
    vector.reset(seed=0)
    before = vector.step(np.array([1, 1, 0]))[0]
    assert before["last_reward"].any() and before["last_action"].any()
    after, _ = vector.reset(options={"reset_mask": np.array([True, False, False])})
    for key in ("last_reward", "last_action"):
        assert not after[key][0].any() and (after[key][1:] == before[key][1:]).all()
    with pytest.raises(ValueError, match="bool array of shape"):
        vector.reset(options={"reset_mask": np.array([True])})


def test_a_bound_on_one_side_leaves_every_action_a_meaning():
    flat, apply = action_part(spaces.Box(1000, INF, (1,)))
    values = [float(apply(np.array([a]))[0]) for a in (-3.0, 0.0, 3.0)]
    assert 1000 < values[0] < values[1] < values[2]
    assert flat.low == -INF and flat.high == INF


def test_whole_numbers_are_rounded_and_reach_both_ends():
    space = spaces.Box(0, 3, (1,), np.int32)
    _, apply = action_part(space)
    given = [int(apply(for_env(spaces.Box(0, 3, (1,)), np.array([a])))[0]) for a in
             (-1.0, -0.5, 0.5, 0.9, 1.0)]  # fmt: skip
    assert given == [0, 1, 2, 3, 3]
    assert for_env(space, np.array([0.9])).tolist() == [3]


def test_several_boxes_at_once():
    space = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Tuple([spaces.Box(0, 9, (1, 1))]))
    env = Adapted(Echo(spaces.Discrete(2), space))
    assert env.action_space.shape == (3,)
    env.reset(seed=0)
    env.step(np.array([0.5, -9, 3]))
    assert space.contains(env.unwrapped.given[0])
    assert env.unwrapped.given[0]["b"][0].tolist() == [[3]]


def test_discrete_actions_are_seen_from_zero():
    space, read = seen_action(spaces.Discrete(3, start=-4))
    assert space.start == 0 and read(-4) == 0 and read(np.array([-2, -3])).tolist() == [2, 1]


class Sometimes(Echo):
    """Gives `score` in every other world's infos."""

    def step(self, action):
        *rest, _ = super().step(action)
        return *rest, {"score": 5.0} if action else {}


def test_infos_that_are_absent_are_not_zero():
    vector = adapt_vec(SyncVectorEnv([lambda: Sometimes(spaces.Discrete(2))] * 2))
    vector.reset(seed=0)
    infos = vector.step(np.array([0, 1]))[-1]
    assert infos["_score"].tolist() == [False, True] and infos["score"][1] == 5
    assert first_info(infos) == {}
    infos = vector.step(np.array([1, 0]))[-1]
    assert first_info(infos) == {"score": 5.0}
    nested = {
        "episode": {"r": np.ones(2), "_r": np.array([True, False])},
        "_episode": np.ones(2, bool),
    }
    assert first_info(nested) == {"episode": {"r": 1.0}}
