"""Third-party benchmarks by their gymnasium ids; a package that is not installed skips its cases."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import envs
from agents.encoders import build_encoder
from envs.third_party import enter, package_of

IDS = [
    "MiniGrid-MemoryS7-v0",
    "MiniGrid-MemoryS13Random-v0",
    "BabyAI-GoToRedBallGrey-v0",
    "popgym-AutoencodeEasy-v0",
    "popgym-BattleshipEasy-v0",
    "popgym-ConcentrationEasy-v0",
    "popgym-PositionOnlyPendulumEasy-v0",
    "VizdoomMyWayHome-v1",
    "VizdoomBasic-MultiBinary-v1",
    "MortarMayhem-v0",
    "Endless-MysteryPath-v0",
    "MemoryMaze-9x9-v0",
]


def installed(name):
    try:
        enter(name)
    except envs.MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", IDS)
def test_two_worlds_step_and_an_encoder_reads_them(name):
    installed(name)
    env = envs.make_vec(name, 1 if name.startswith("MemoryMaze") else 2)
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    build_encoder(env.single_observation_space, width=16)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    for _ in range(10):
        assert env.observation_space.contains(observation)
        observation, reward, *_ = env.step(env.action_space.sample())
        assert observation["last_reward"][:, 0] == pytest.approx(reward, rel=1e-5)
    env.close()


@pytest.mark.parametrize("name", ["MiniGrid-MemoryS7-v0", "popgym-RepeatPreviousEasy-v0"])
def test_the_same_seed_gives_the_same_episode(name):
    installed(name)

    def episode():
        env = envs.make(name)
        env.action_space.seed(0)
        shown = [env.reset(seed=3)[0]]
        for _ in range(20):
            shown.append(env.step(env.action_space.sample())[0])
        return shown

    for one, other in zip(episode(), episode(), strict=True):
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_miniworlds_do_not_draw_each_others_walls():
    """Each lives in a process of its own, and shows what it shows alone."""
    name = "MiniWorld-YMaze-v0"
    installed(name)
    try:
        alone = envs.make_vec(name, 1)
        frames = [alone.reset(seed=[5])[0]["frame"][0]]
    except Exception as error:
        pytest.skip(f"MiniWorld cannot draw here: {error}")
    frames += [alone.step(np.array([2]))[0]["frame"][0] for _ in range(5)]
    alone.close()
    both = envs.make_vec(name, 2)
    seen = [both.reset(seed=[9, 5])[0]["frame"][1]]
    seen += [both.step(np.array([0, 2]))[0]["frame"][1] for _ in range(5)]
    both.close()
    assert (np.stack(seen) == np.stack(frames)).all()


def test_vizdoom_leaves_no_files_behind(tmp_path, monkeypatch):
    installed("VizdoomMyWayHome-v1")
    monkeypatch.chdir(tmp_path)
    env = envs.make("VizdoomMyWayHome-v1")
    env.reset(seed=0)
    env.close()
    assert os.getcwd() == str(tmp_path) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["MiniGrid-MemoryS7-v0", "MemoryMaze-9x9-v0", "SearingSpotlights-v0"]
)
def test_a_missing_package_is_one_line_with_its_extra(name, monkeypatch):
    benchmark = package_of(name)
    monkeypatch.setitem(sys.modules, benchmark.module, None)
    with pytest.raises(envs.MissingDependencyError) as raised:
        envs.make_vec(name, 2)
    line = str(raised.value)
    assert name in line and benchmark.install in line and "\n" not in line


def test_an_unknown_id_of_an_installed_package_names_the_nearest():
    installed("MiniGrid-MemoryS7-v0")
    with pytest.raises(ValueError, match="MiniGrid-MemoryS7-v0"):
        envs.make("MiniGrid-MemoryS77-v0")


def test_an_environment_that_cannot_draw_says_so():
    installed("popgym-AutoencodeEasy-v0")
    with pytest.raises(ValueError, match="draws no pictures"):
        envs.make("popgym-AutoencodeEasy-v0", render_mode="rgb_array")


def test_a_class_is_read_as_its_id_is():
    """MiniGrid's codes are categories by id, by class and in a vector of gymnasium's; pictures of it are frames."""
    installed("MiniGrid-MemoryS7-v0")
    import gymnasium as gym
    from minigrid.envs import MemoryEnv
    from minigrid.wrappers import RGBImgPartialObsWrapper

    by_id = envs.make("MiniGrid-MemoryS7-v0")
    by_class = envs.adapt(MemoryEnv(size=7))
    vector = envs.adapt_vec(gym.make_vec("MiniGrid-MemoryS7-v0", 2, vectorization_mode="sync"))
    assert by_id.observation_space == by_class.observation_space == vector.single_observation_space
    one, other = by_id.reset(seed=3)[0], by_class.reset(seed=3)[0]
    shown, _ = vector.reset(seed=[3, 4])
    for key in one:
        assert np.array_equal(one[key], other[key]) and np.array_equal(one[key], shown[key][0])
    painted = envs.adapt(RGBImgPartialObsWrapper(MemoryEnv(size=7)))
    assert painted.observation_space["image"].shape == (56, 56, 3)


def test_taxis_mask_is_a_part_of_what_is_seen():
    env = envs.make_vec("Taxi-v3", 2)
    observation, infos = env.reset(seed=0)
    for _ in range(5):
        assert (observation["action_mask"] == infos["action_mask"]).all()
        allowed = observation["action_mask"].argmax(1)
        observation, _, _, _, infos = env.step(allowed)
        assert env.observation_space.contains(observation)
