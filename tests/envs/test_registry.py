"""Environments by name: registered ones, gymnasium's, those of a module; and what every one of ours keeps."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import envs
from agents.encoders import build_encoder
from envs import registry
from envs.seeding import world_seeds
from tests.envs import own_envs
from tests.envs.own_envs import Walk, make_walks

ROOT = Path(__file__).parents[2]
NAMES = envs.names()  # whatever is registered when tests are collected


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr(registry, "_ENVIRONMENTS", dict(registry._ENVIRONMENTS))


@pytest.fixture(params=[f for f in NAMES if not f.startswith("dmlab_") or f.endswith("s_select")])
def name(request):
    return request.param


def test_what_is_registered_is_held_to_the_same_as_ours():
    assert {"own_walk", "dmlab_rooms_select"} <= set(NAMES)


def test_every_environment_keeps_the_contract(name):
    """Spaces hold, episodes begin in the next step, seeds repeat, worlds do not meet, an encoder reads it."""
    vector, again, one = envs.make_vec(name, 2), envs.make_vec(name, 2), envs.make(name)
    assert vector.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert one.observation_space == vector.single_observation_space
    assert one.action_space == vector.single_action_space
    assert envs.adapt_vec(vector) is vector and envs.adapt(one) is one
    build_encoder(vector.single_observation_space, width=4)
    vector.action_space.seed(0)
    # One world of ours draws its seed as the first of a batch does; a gymnasium environment takes it as it is.
    seeds = world_seeds(3, 2) if name.startswith("dmlab_") else [3, 11]
    shown, repeated = vector.reset(seed=seeds)[0], again.reset(seed=seeds)[0]
    alone = one.reset(seed=3)[0]
    ended = False
    for _ in range(12):
        assert vector.observation_space.contains(shown)
        for key in shown:
            assert np.array_equal(shown[key], repeated[key])
            assert ended or np.array_equal(shown[key][0], alone[key])
        actions = vector.action_space.sample()
        shown, reward, terminated, truncated, _ = vector.step(actions)
        repeated, *_ = again.step(actions)
        if not ended:
            alone, gain, *_ = one.step(actions[0])
            assert gain == reward[0]
        ended |= bool(terminated[0] or truncated[0])
    for env in (vector, again, one):
        env.close()


@pytest.mark.parametrize(
    "factory",
    [
        Walk,
        lambda **settings: Walk(**settings),
        "tests.envs.own_envs:Walk",
        make_walks,
        "tests.envs.own_envs:make_walks",
        lambda **settings: envs.adapt(Walk(**settings)),
    ],
    ids=["class", "function", "lazy class", "vector", "lazy vector", "adapted"],
)
def test_an_environment_of_a_users_own_in_one_line(own, factory):
    envs.register("mine", factory)
    assert "mine" in envs.names()
    one, many = envs.make("mine", id=4), envs.make_vec("mine", 3, id=4)
    assert one.action_space == many.single_action_space == gym.spaces.Discrete(2)
    assert set(one.observation_space.spaces) == {"vector", "last_reward", "last_action"}
    shown, _ = many.reset(seed=1)
    assert many.observation_space.contains(shown) and many.num_envs == 3
    assert many.step(np.array([0, 1, 1]))[0]["last_action"].tolist() == [0, 1, 1]


def test_settings_may_have_any_name(own):
    envs.register("mine", Walk)
    for name in ("OwnWalk-v0", "mine"):
        settings = {"num_envs": 5, "name": "a", "id": 3, "vector_kwargs": {}, "render_mode": None}
        assert envs.make(name, **settings).unwrapped.length == 5
        many = envs.make_vec(name, 2, **settings)
        assert many.num_envs == 2 and many.unwrapped.envs[0].unwrapped.length == 5
        assert many.unwrapped.envs[0].unwrapped.label == "a"
    assert envs.make_vec("OwnWalk-v0", num_envs=2).num_envs == 2
    assert envs.make("CartPole-v1", max_episode_steps=3).spec.max_episode_steps == 3
    envs.register("vectors", make_walks)
    with pytest.raises(ValueError, match="has no setting 'num_envs'"):
        envs.make_vec("vectors", 2, **{"num_envs": 4})


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_worlds_are_counted_from_one(count):
    with pytest.raises(ValueError, match=f"num_envs={count}: expected a whole number from 1"):
        envs.make_vec("CartPole-v1", count)


def line(call, *arguments, **settings):
    with pytest.raises(ValueError) as raised:
        call(*arguments, **settings)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400
    return str(raised.value)


def test_unknown_names_are_one_line_with_the_nearest(own):
    envs.register("my_maze", Walk)
    assert "did you mean my_maze" in line(envs.make, "my_maez")
    assert "CartPole-v1" in line(envs.make_vec, "CartPol-v1", 2)
    assert "--import MODULE" in line(envs.make, "Registered-InAScript-v0")
    assert "envs.adapt" in line(envs.make, Walk)


def test_modules_that_are_not_there_or_fail_are_one_line(tmp_path, monkeypatch):
    assert "cannot import module 'no_such'" in line(envs.make, "no_such:Id-v0")
    (tmp_path / "fails_now.py").write_text("raise RuntimeError('one\\ntwo')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert line(envs.import_modules, ["fails_now"]).endswith("RuntimeError: one")
    assert "unknown environment 'Id-v0'" in line(envs.make, "tests.envs.own_envs:Id-v0")


@pytest.mark.parametrize(
    ("name", "factory", "says"),
    [
        ("a:b", Walk, "without ':'"),
        ("", Walk, "expected words"),
        ("a", "module", "expected 'module:Class'"),
        ("a", 3, "expected a class, a function"),
    ],
)
def test_what_cannot_be_registered_is_refused_in_a_line(own, name, factory, says):
    assert says in line(envs.register, name, factory)


def test_factories_that_make_something_else_are_refused_in_a_line(own):
    envs.register("mine", lambda: 3)
    assert "made a int: expected a Env" in line(envs.make, "mine")
    envs.register("mine", lambda num_envs: Walk())
    assert "made a Walk: expected a VectorEnv" in line(envs.make_vec, "mine", 2)
    envs.register("mine", "tests.envs.own_envs:Wlak")
    assert "has no 'Wlak'" in line(envs.make, "mine")


def test_a_process_that_knows_nothing_is_told():
    """As a runner's: an id of a script by its module, by an import, or carried from where it is known."""
    carried = pickle.dumps([(name, envs.registration(name)) for name in ("OwnWalk-v0", "own_walk")])
    program = f"""
import pickle, envs
for name, found in pickle.loads({carried!r}):
    envs.restore(name, found)
    assert envs.make_vec(name, 2).num_envs == 2
assert envs.make("tests.envs.own_envs:OwnWalk-v0").action_space.n == 2
envs.import_modules(["tests.envs.own_envs"])
assert envs.make("tests.envs.own_envs:own_walk").action_space.n == 2
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert envs.registration("nobody") is None and own_envs.Walk is Walk


def test_pictures_are_drawn_without_a_word_about_display_or_sound():
    pytest.importorskip("pygame")
    program = """
import envs
env = envs.make("CartPole-v1", render_mode="rgb_array")
env.reset(seed=0)
assert env.render().shape == (400, 600, 3)
"""
    away = ("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER", "SDL_AUDIODRIVER")
    environment = {key: value for key, value in os.environ.items() if key not in away}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_an_environment_lacks_is_one_line():
    def lacks(**settings):
        raise gym.error.DependencyNotInstalled("pip install it\nand more")

    gym.register("Lacks-v0", entry_point=lacks)
    try:
        with pytest.raises(
            envs.MissingDependencyError, match=r"^Lacks-v0 needs .*: pip install it$"
        ):
            envs.make_vec("Lacks-v0", 2)
    finally:
        del gym.registry["Lacks-v0"]


class Half(gym.RewardWrapper):
    def reward(self, reward):
        return reward / 2


class Looking(gym.Env):
    """Observes parts that have this package's names."""

    observation_space = gym.spaces.Dict(
        {"last_reward": gym.spaces.Box(-9, 9, (1,)), "last_action": gym.spaces.Discrete(7)}
    )
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"last_reward": np.full(1, 5, np.float32), "last_action": 6}, {}

    def step(self, action):
        return self.reset()[0], 1.0, False, False, {}


def test_a_wrapper_around_ours_shows_the_same_by_adapt():
    env = envs.adapt(Half(envs.make("CartPole-v1")))
    env.reset(seed=3)
    assert env.step(0)[0]["last_reward"] == 0.5
    assert envs.adapt(env) is env


@pytest.mark.parametrize(
    "factory",
    [
        lambda **settings: Half(envs.make("CartPole-v1", **settings)),
        lambda **settings: Half(gym.make("CartPole-v1", **settings)),
        lambda **settings: gym.wrappers.TransformAction(
            envs.make("CartPole-v1"), lambda action: action // 2, gym.spaces.Discrete(4)
        ),
        Looking,
    ],
    ids=["wrapped ours", "wrapped", "actions", "names"],
)
def test_one_and_many_show_the_same(own, factory):
    envs.register("mine", factory)
    one, many = envs.make("mine"), envs.make_vec("mine", 1)
    assert one.observation_space == many.single_observation_space
    assert one.action_space == many.single_action_space
    alone, together = [one.reset(seed=3)[0]], [many.reset(seed=[3])[0]]
    for action in (1, 0, 1):
        shown, reward, *_ = one.step(action)
        batch, rewards, *_ = many.step(np.array([action]))
        assert reward == rewards[0]
        alone.append(shown), together.append(batch)
    for shown, batch in zip(alone, together, strict=True):
        assert one.observation_space.contains(shown)
        for key, value in shown.items():
            assert np.array_equal(value, batch[key][0]), key


def test_a_factory_that_makes_other_worlds_than_asked_is_refused(own):
    envs.register("mine", lambda num_envs, **settings: make_walks(2, **settings))
    assert "made 2 worlds, expected 3" in line(envs.make_vec, "mine", 3)


def test_one_environment_of_ours_resets_itself_in_no_step():
    assert "leave it out" in line(envs.make, "dmlab_rooms_select", autoreset_mode="SameStep")


def test_an_environment_of_a_users_own_has_no_engines_whatever_its_name(own):
    envs.register("dmlab_mine", Walk)
    assert not envs.has_engines("dmlab_mine") and not envs.has_engines("CartPole-v1")
    assert envs.has_engines("dmlab_rooms_select")
