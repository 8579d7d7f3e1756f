"""Any nested space: nothing vanishes, every value fits the adapted space, names are unique, an encoder takes it."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.encoders import build_encoder
from envs.adapt import Adapted, adapt, adapt_vec, observation_part
from tests.envs.test_adapt import Echo

U8 = np.uint8
KEYS = st.sampled_from(
    ["a", "b", "a_b", "a/b", "a.b", "part_0", "items", "keys", "forward", "training", "%2e",
     "instruction", "instruction:a", "last_reward", "last_action", "action_mask", "", "é", "#2"]
)  # fmt: skip
KINDS = [np.float32, np.float64, np.float16, np.uint8, np.int8, np.int32, np.int64, np.uint16, bool]


@st.composite
def boxes(draw):
    kind = np.dtype(draw(st.sampled_from(KINDS)))
    shape = draw(st.sampled_from([(), (0,), (1,), (3,), (2, 3), (2, 1, 2), (37, 36), (4, 36, 36)]))
    low, high = draw(
        st.sampled_from([(0, 1), (-1, 1), (0, 7), (3, 9), (-90, -5), (0, 127), (5, 5)])
    )
    if kind.kind == "f":
        sides = [(low, high), (-np.inf, np.inf), (0, np.inf), (-np.inf, 3), (-6e4, 6e4)]
        low, high = draw(st.sampled_from(sides))
    if kind.kind == "b" or (kind.kind == "u" and low < 0):
        low, high = 0, 1
    return spaces.Box(low, high, shape, kind)


SIMPLE = st.one_of(
    boxes(),
    st.builds(spaces.Discrete, st.integers(1, 5), start=st.integers(-7, 7)),
    st.sampled_from(
        [
            spaces.MultiDiscrete([2, 3]),
            spaces.MultiDiscrete([2, 3], start=[5, -5]),
            spaces.MultiDiscrete([[2, 3], [1, 4]], start=[[0, 1], [2, -3]]),
            spaces.MultiBinary(3),
            spaces.MultiBinary([2, 2]),
            spaces.Text(12),
            spaces.Text(3, charset="+-é"),
        ]
    ),
)
NESTED = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.dictionaries(KEYS, inner, min_size=1, max_size=4).map(spaces.Dict),
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=8,
)


def leaves(space):
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return [leaf for part in inner for leaf in leaves(part)]
    return [space]


def tensors(observation):
    return {key: torch.as_tensor(np.asarray(x))[None] for key, x in observation.items()}


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(NESTED)
def test_nothing_of_any_space_vanishes(space):
    env = adapt(Echo(space, spaces.Box(-1, 1, (1,))))
    found = env.observation_space.spaces
    assert len(found) == len(leaves(space)) + 2  # and the last reward and action
    encoder = build_encoder(env.observation_space, width=4)
    observation, _ = env.reset(seed=1)
    for _ in range(3):
        assert env.observation_space.contains(observation)
        with torch.no_grad():
            features = encoder(tensors(observation))
        assert features.shape == (1, encoder.d_out) and features.isfinite().all()
        observation, *_ = env.step(env.action_space.sample())


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(SIMPLE)
def test_two_values_that_differ_are_read_as_two(space):
    space.seed(0)
    seen, read = observation_part(space)
    one, other = space.sample(), space.sample()
    assert seen.contains(read(one)) and seen.contains(read(other))
    far = one != other if isinstance(one, str) else np.abs(
        np.asarray(one, np.float64) - np.asarray(other, np.float64)
    ).max(initial=0) > 1e-2  # fmt: skip
    if far and not isinstance(space, spaces.Text):
        assert not np.array_equal(read(one), read(other))


def test_names_that_meet_are_kept_apart_and_keep_their_values():
    space = spaces.Dict(
        {
            "a": spaces.Dict({"b": spaces.Discrete(3), "b/c": spaces.Discrete(4)}),
            "a_b": spaces.Discrete(5),
            "a/b": spaces.Discrete(6),
            "x": spaces.Tuple([spaces.Discrete(7)]),
            "x_part_0": spaces.Discrete(8),
            "last_reward": spaces.Box(-1, 1, (1,)),
        }
    )
    env = adapt(Echo(space))
    observation, _ = env.reset(seed=0)
    sizes = sorted(
        int(part.n)
        for name, part in env.observation_space.spaces.items()
        if isinstance(part, spaces.Discrete) and name != "last_action"
    )
    assert sizes == [3, 4, 5, 6, 7, 8]
    assert observation["a_b"] == env.unwrapped.shown["a_b"]
    assert observation["own_last_reward"] == env.unwrapped.shown["last_reward"]
    assert observation["last_reward"] == 0


def test_every_text_is_read():
    env = Adapted(Echo(spaces.Dict(task=spaces.Text(9), hint=spaces.Text(9))))
    assert set(env.observation_space.spaces) == {"instruction:task", "instruction:hint"}
    only_signs = observation_part(spaces.Text(4, charset="<>"))[1]
    assert not np.array_equal(only_signs("<<>"), only_signs("<>>")) and only_signs("<>").any()
    longer, read = observation_part(spaces.Text(80))
    words = read(" ".join("abcdefghijklmnopqrstuvwxyz"))
    assert longer.contains(words) and (words > 0).sum() == 26


def _named(value):
    """The same name in every process, also of a function."""
    return "read" if callable(value) else str(value)


@pytest.mark.parametrize(
    ("space", "twin", "to_twin"),
    [
        (spaces.Box(0, 1, (3,), U8), spaces.Box(0, 1, (3,)), lambda x: x),
        (spaces.Box(0, 255, (3,), U8), spaces.Box(0, 1, (3,)), lambda x: x / 255),
        (spaces.Box(-1, 1, (3,), np.int8), spaces.Box(-1, 1, (3,)), lambda x: x),
        (spaces.Box(0, 5, (2, 2), np.int64), spaces.Box(0, 1, (2, 2)), lambda x: x / 5),
        (spaces.Box(7, 9, (2,), np.int32), spaces.Box(0, 1, (2,)), lambda x: (x - 7) / 2),
        (spaces.Box(0, 1, (2,), bool), spaces.Box(0, 1, (2,)), lambda x: x),
        (spaces.Box(-9e4, 9e4, (2,), np.int32), spaces.Box(-9e4, 9e4, (2,)), lambda x: x),
        (spaces.Box(0, np.inf, (2,), np.float64), spaces.Box(0, np.inf, (2,)), lambda x: x),
    ],
    ids=_named,
)
def test_numbers_are_read_as_their_float_twins(space, twin, to_twin):
    space.seed(3)
    (one, read), (other, read_twin) = observation_part(space), observation_part(twin)
    assert one.shape == other.shape and one.dtype == other.dtype == np.float32
    np.testing.assert_allclose(one.low, other.low, rtol=1e-6)
    np.testing.assert_allclose(one.high, other.high, rtol=1e-6)
    for _ in range(5):
        value = space.sample()
        np.testing.assert_allclose(
            read(value), read_twin(to_twin(value.astype(np.float64))), rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (spaces.Box(0, 1, (64, 64, 3)), (64, 64, 3)),
        (spaces.Box(-1, 1, (3, 48, 64), np.float64), (48, 64, 3)),
        (spaces.Box(0, 255, (4, 64, 64, 3), U8), (64, 64, 12)),
        (spaces.Box(0, 255, (4, 3, 40, 60), U8), (40, 60, 12)),
        (spaces.Box(0, 255, (64, 64, 3, 2), U8), (64, 64, 6)),
        (spaces.Box(0, 255, (200, 200, 8), U8), (96, 96, 8)),
        (spaces.Box(0, 1, (200, 150, 5), U8), (96, 72, 5)),
        (spaces.Box(0, 255, (300, 40, 3), U8), (96, 36, 3)),
        (spaces.Box(0, 255, (40, 300), U8), (36, 96, 1)),
        (spaces.Box(0, 255, (32, 32, 3), U8), (64, 64, 3)),
        (spaces.Box(-np.inf, np.inf, (64, 64, 3)), (64, 64, 3)),
        (spaces.Box(0, 65535, (50, 60), np.uint16), (50, 60, 1)),
        (spaces.Box(0, 1, (60, 60), bool), (60, 60, 1)),
        (spaces.Box(np.float32(-3e38), np.float32(3e38), (40, 40, 1)), (40, 40, 1)),
    ],
    ids=_named,
)
def test_pictures_of_every_kind_are_frames(space, shape):
    space.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen, read = observation_part(space)
    value = space.sample()
    frame = read(value)
    assert seen.shape == shape and seen.contains(frame) and np.isfinite(frame).all()
    with torch.no_grad():
        features = build_encoder(seen, width=3)(torch.as_tensor(frame)[None])
    assert features.isfinite().all()


def test_a_stack_of_frames_keeps_every_pixel():
    space = spaces.Box(0, 255, (2, 3, 40, 50), U8)
    stack = space.sample()
    frame = observation_part(space)[1](stack)
    for time in range(2):
        assert (frame[..., 3 * time : 3 * time + 3] == stack[time].transpose(1, 2, 0)).all()


def test_pictures_of_two_values_keep_shades_when_they_are_shrunk():
    seen, read = observation_part(spaces.Box(0, 1, (192, 192, 1), U8))
    picture = np.zeros((192, 192, 1), U8)
    picture[0, 0] = 1
    assert seen.dtype == np.float32 and read(picture)[0, 0, 0] == pytest.approx(0.25)


def test_many_numbers_that_are_no_picture_are_said():
    space = spaces.Dict(voxels=spaces.Box(0, 1, (61, 7, 41)))
    with pytest.warns(UserWarning, match=r"'voxels' .*\[61, 7, 41\]\) is read as 17,507 numbers"):
        adapt(Echo(space))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapt(Echo(space))  # once
        adapt(Echo(spaces.Dict(say=spaces.Text(99), view=spaces.Box(0, 255, (90, 90), U8))))


class Told(Echo):
    """Says which actions are allowed in its infos, as gymnasium's Taxi."""

    action_mask = None

    def reset(self, **kwargs):
        return super().reset(**kwargs)[0], {"action_mask": np.array([1, 0, 1], U8)}


class Asked(Echo):
    """Says it when asked, as sb3-contrib wants it."""

    def action_masks(self):
        return [False, True, True]


@pytest.mark.parametrize(
    ("mask", "action", "size"),
    [
        (spaces.Box(0, 1, (3,), np.int8), spaces.Discrete(3, start=2), 3),
        (spaces.Box(0, 1, (3,)), spaces.Discrete(3), 3),
        (spaces.MultiBinary(5), spaces.MultiDiscrete([2, 3]), 5),
        (
            spaces.Tuple([spaces.MultiBinary(2), spaces.MultiBinary(3)]),
            spaces.MultiDiscrete([2, 3]),
            5,
        ),
        (
            spaces.Dict(a=spaces.MultiBinary(4), b=spaces.MultiBinary(2)),
            spaces.Dict(a=spaces.Discrete(4), b=spaces.MultiBinary(1)),
            6,
        ),
    ],
)
def test_a_mask_stays_a_mask(mask, action, size):
    env = adapt(Echo(spaces.Dict(action_mask=mask, view=spaces.Discrete(2)), action))
    assert env.observation_space["action_mask"] == spaces.MultiBinary(size)
    observation, _ = env.reset(seed=0)
    assert observation["action_mask"].dtype == np.int8 and len(observation["action_mask"]) == size
    shown = env.unwrapped.shown["action_mask"]
    flat = np.concatenate([np.ravel(x) for x in _values(shown)])
    assert (observation["action_mask"] == (flat != 0)).all()


def _values(shown):
    if isinstance(shown, dict):
        return list(shown.values())
    return list(shown) if isinstance(shown, tuple) else [shown]


def test_masks_in_infos_and_by_method_become_a_part():
    told = adapt(Told(spaces.Discrete(2), spaces.Discrete(3)))
    assert told.reset(seed=0)[0]["action_mask"].tolist() == [1, 0, 1]
    assert told.step(0)[0]["action_mask"].tolist() == [1, 1, 1]  # nothing said, nothing forbidden
    asked = adapt(Asked(spaces.Discrete(2), spaces.Discrete(3)))
    assert asked.reset(seed=0)[0]["action_mask"].tolist() == [0, 1, 1]


def test_what_is_no_mask_of_the_actions_is_an_ordinary_part():
    with pytest.warns(UserWarning, match="is no mask of the actions"):
        env = adapt(Echo(spaces.Dict(action_mask=spaces.MultiBinary(4)), spaces.Discrete(3)))
    assert "own_action_mask" in env.observation_space.spaces


def test_adapting_twice_is_adapting_once():
    env = adapt(Echo(spaces.Dict(a=spaces.Discrete(2)), spaces.Box(0, 9, (2,))))
    assert adapt(env) is env
    vector = adapt_vec(SyncVectorEnv([lambda: Echo(spaces.Discrete(2))] * 2))
    assert adapt_vec(vector) is vector
    inside = SyncVectorEnv([lambda: adapt(Echo(spaces.Discrete(2)))] * 2)
    assert adapt_vec(inside) is inside
    with pytest.raises(ValueError, match="must do so in the next step"):
        adapt_vec(SyncVectorEnv([lambda: Echo(spaces.Discrete(2))], autoreset_mode="SameStep"))


@pytest.mark.parametrize(
    "action",
    [spaces.Box(-2, 5, (2,)), spaces.Discrete(3, start=4), spaces.Dict(a=spaces.Discrete(2))],
)
def test_a_vector_is_adapted_as_its_worlds_are(action):
    space = spaces.Dict(
        x=spaces.Tuple([spaces.Box(0, 1, (3,), U8), spaces.Discrete(3)]),
        frame=spaces.Box(0, 255, (3, 40, 44), U8),
        say=spaces.Text(5),
    )

    def echo():
        return Echo(copy.deepcopy(space), action)  # samples of a space of its own

    alone = [adapt(echo()) for _ in range(2)]
    vector = adapt_vec(SyncVectorEnv([echo] * 2))
    assert vector.single_observation_space == alone[0].observation_space
    assert vector.single_action_space == alone[0].action_space
    shown, _ = vector.reset(seed=[5, 6])
    expected = [env.reset(seed=seed)[0] for env, seed in zip(alone, (5, 6), strict=True)]
    vector.action_space.seed(0)
    for _ in range(3):
        assert vector.observation_space.contains(shown)
        for i in range(2):
            for key, part in expected[i].items():
                assert np.array_equal(shown[key][i], part), key
        actions = vector.action_space.sample()
        shown, *_ = vector.step(actions)
        expected = [env.step(a)[0] for env, a in zip(alone, actions, strict=True)]
    assert vector.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
