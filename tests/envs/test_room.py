"""The embedded room task against what was measured on the real level, and the contract of its interface."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import pickle
import subprocess
import sys
from functools import partial

import cv2
import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import envs
from envs.room import RoomSettings, buffers, gallery
from envs.room.scripted import ScriptedPlayer
from envs.seeding import world_seeds

NAME = "dmlab_rooms_select"
make = partial(envs.make, NAME, engine="embedded", renderer="cpu")  # exact anywhere
make_vec = partial(envs.make_vec, NAME, engine="embedded", renderer="cpu")
FORWARD, NOTHING = 0, 8


def play(env, choose, seed=0, scale=1.0):
    """Returns [N] and last info of one episode of a scripted player."""
    player = ScriptedPlayer(env.action_names, choose, scale=scale)
    _, info = env.reset(seed=seed)
    returns, ended = np.zeros(env.num_envs), np.zeros(env.num_envs, bool)
    while not ended.any():
        _, reward, ended, _, info = env.step(player.act(info))
        returns += reward
    assert ended.all()
    return returns, info


def frames_of(num_envs, seed, actions, **settings):
    """Frames [T + 1, N, H, W, 3] and rewards [T, N] under actions [T, N]."""
    env = make_vec(num_envs, **settings)
    frames, rewards = [env.reset(seed=seed)[0]["frame"]], []
    for row in actions:
        observation, reward, *_ = env.step(row)
        frames.append(observation["frame"])
        rewards.append(reward)
    env.close()
    return np.stack(frames), np.stack(rewards)


def test_straight_play_with_right_choices_scores_66_as_measured():
    returns, info = play(make_vec(8), "right")
    assert (returns == 66).all()
    assert (info["teleports"] == 6).all() and (info["correct"] == 6).all()


def test_guessing_scores_about_6_and_wrong_choices_minus_54():
    returns, info = play(make_vec(64), "guess")
    assert abs(returns.mean() - 6) < 4 * 24.5 / 8
    assert (info["trials"] == 6).all()
    assert (play(make_vec(4), "wrong")[0] == -54).all()


def test_episode_has_720_frames_and_ends_as_terminated():
    env = make_vec(1)
    env.reset(seed=0)
    ends = [env.step(np.array([NOTHING]))[2:4] for _ in range(180)]
    assert [bool(t[0]) for t, _ in ends] == [False] * 179 + [True]
    assert not any(t[0] for _, t in ends)


def test_turning_by_20_pixels_is_8_4_degrees_a_step():
    env = make_vec(1)
    env.reset(seed=0)
    assert env.step(np.array([4]))[-1]["yaw"][0] == pytest.approx(8.448)
    assert env.step(np.array([5]))[-1]["yaw"][0] == pytest.approx(0, abs=1e-9)


def test_examples_are_out_of_reach_and_walls_hold():
    env, rng = make_vec(32, seconds=1000.0), np.random.default_rng(1)
    env.reset(seed=0)
    runs = rng.choice([0, 0, 0, 2, 3, 6, 7, 1], size=(150, 32))
    for row in runs:
        _, _, _, _, info = env.step(row)
        x, y = info["position"].T
        first = info["room"] == 1
        assert ((x[first] >= -241) & (x[first] <= 113) & (abs(y[first] + 64) <= 177)).all()
        for cy in (64, -192):
            assert not (first & (abs(x - 40) < 55 - 1e-6) & (abs(y - cy) < 55 - 1e-6)).any()
        corridor = ~first & (x < 399 - 1e-6)
        assert (abs(y[corridor] + 64) <= 49 + 1e-6).all()


def test_match_stays_for_the_episode_and_sides_are_drawn_per_trial():
    env = make_vec(16)
    player = ScriptedPlayer(env.action_names)
    _, info = env.reset(seed=5)
    match, sides, others = info["match"].copy(), set(), set()
    for _ in range(180):
        _, _, _, _, info = env.step(player.act(info))
        assert (info["match"] == match).all() and (info["other"] != match).all()
        sides |= set(zip(info["match_side"], info["example_side"], strict=True))
        others |= set(info["other"].tolist())
    assert len(sides) == 4 and len(others) > 10


def test_frames_do_not_depend_on_batch_order_or_process():
    rng = np.random.default_rng(0)
    actions = rng.choice([0, 0, 6, 7, 4], size=(80, 5))
    frames, rewards = frames_of(5, 7, actions)
    seeds = world_seeds(7, 5)
    for i in (0, 3):
        alone, alone_rewards = frames_of(1, [seeds[i]], actions[:, i : i + 1])
        assert (alone[:, 0] == frames[:, i]).all() and (alone_rewards[:, 0] == rewards[:, i]).all()
    backwards, _ = frames_of(5, seeds[::-1], actions[:, ::-1])
    assert (backwards[:, ::-1] == frames).all()
    live = make_vec(2)  # a process that is forked while its parent draws draws as well
    live.reset(seed=0)
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            there, _ = pool.apply(frames_of, (5, 7, actions))
        assert (there == frames).all()
    assert not (frames_of(5, 8, actions)[0] == frames).all()


def test_gymnasium_checker_passes():
    check_env(make(render_mode="rgb_array"), skip_render_check=False)
    check_env(make(frame_only=True), skip_render_check=True)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_autoreset_modes(mode):
    env = make_vec(2, seconds=0.2, autoreset_mode=mode)  # 3 steps
    env.reset(seed=0)
    for _ in range(3):
        observation, _, ended, _, info = env.step(np.array([0, 4]))
    assert ended.all()
    if mode is AutoresetMode.SAME_STEP:
        assert (observation["last_action"] == 0).all()
        assert info["final_obs"][1]["last_action"] == 4
        assert env.step(np.array([0, 0]))[2].sum() == 0
    elif mode is AutoresetMode.NEXT_STEP:
        observation, reward, ended, _, info = env.step(np.array([4, 4]))
        assert not ended.any() and not reward.any() and (observation["last_action"] == 0).all()
        assert (info["yaw"] == 0).all()
    else:
        with pytest.raises(RuntimeError, match="reset_mask"):
            env.step(np.array([0, 0]))
        env.reset(options={"reset_mask": np.array([True, True])})
        assert not env.step(np.array([0, 0]))[2].any()


def test_last_reward_and_action_are_the_previous_steps():
    env = make_vec(1)
    player = ScriptedPlayer(env.action_names)
    observation, info = env.reset(seed=0)
    assert observation["last_reward"][0, 0] == 0 and observation["last_action"][0] == 0
    for _ in range(40):
        action = player.act(info)
        observation, reward, _, _, info = env.step(action)
        assert observation["last_reward"][0, 0] == reward[0]
        assert observation["last_action"][0] == action[0]
        assert env.observation_space.contains(observation)


def test_delay_keeps_the_door_closed_for_its_steps():
    def steps_in_room_2(delay):
        env = make_vec(1, delay=delay)
        player = ScriptedPlayer(env.action_names)
        _, info = env.reset(seed=0)
        count = 0
        while info["trials"][0] == 0:
            _, _, _, _, info = env.step(player.act(info))
            count += info["room"][0] == 2
            if 0 < count <= delay:
                assert info["position"][0, 0] <= 384 - 15 + 1e-6
        return count

    assert steps_in_room_2(40) - steps_in_room_2(0) > 25


def test_a_range_of_delays_is_drawn_anew_at_each_arrival():
    env = make_vec(4, delay=[2, 5], seconds=60)
    player = ScriptedPlayer(env.action_names)
    _, info = env.reset(seed=0)
    drawn = []
    for _ in range(800):
        before = info["teleports"].copy()
        _, _, _, _, info = env.step(player.act(info))
        drawn += env.worlds.door[info["teleports"] > before].tolist()
    assert set(drawn) == {2, 3, 4, 5} and len(drawn) > 50
    assert env.metadata["settings"]["delay"] == [2, 5]


def test_settings_change_what_they_say():
    two = make_vec(64, objects=2)
    assert set(two.reset(seed=0)[1]["match"].tolist()) == {0, 1}
    spread = make_vec(64, spawn=(-232, -20)).reset(seed=0)[1]["position"][:, 0]
    assert spread.min() < -200 and spread.max() > -60 and spread.max() <= -20
    ends = make_vec(4, stagger=True)
    ends.reset(seed=0)
    assert [ends.step(np.zeros(4, int))[2].tolist() for _ in range(45)][-1] == [0, 0, 0, 1]
    plain = make_vec(4).reset(seed=0)[0]["frame"]
    for setting in (
        {"textures": "random"},
        {"room_scale": 1.5},
        {"object_scale": 1.5},
        {"growth": False},
        {"hud": False},
    ):
        assert not (make_vec(4, **setting).reset(seed=0)[0]["frame"] == plain).all()
    assert make_vec(1, height=84, width=84).reset(seed=0)[0]["frame"].shape == (1, 84, 84, 3)
    assert make_vec(1, actions="extended").single_action_space.n == 15
    assert (play(make_vec(4, room_scale=1.5), "right", scale=1.5)[0] > 30).all()


def test_every_setting_is_stated():
    settings = make_vec(1, delay=3, spawn=[-200, 0]).metadata["settings"]
    names = {field.name for field in dataclasses.fields(RoomSettings)}
    assert set(settings) == names | {"renderer"}
    assert settings["delay"] == 3 and settings["spawn"] == [-200, 0] and settings["objects"] == 36
    assert yaml.safe_load(yaml.safe_dump(settings)) == settings


def test_distractor_is_seen_on_the_way_and_changes_nothing_else():
    def first_trial(distractor):
        env = make_vec(1, distractor=distractor)
        player = ScriptedPlayer(env.action_names)
        observation, info = env.reset(seed=0)
        frames, rooms, rewards = [observation["frame"]], [1], []
        for _ in range(28):
            observation, reward, _, _, info = env.step(player.act(info))
            frames.append(observation["frame"])
            rooms.append(info["room"][0])
            rewards.append(reward[0])
        return np.concatenate(frames), np.array(rooms), rewards

    plain, rooms, plain_rewards = first_trial(False)
    frames, _, rewards = first_trial(True)
    assert rewards == plain_rewards
    assert (frames[rooms == 1] == plain[rooms == 1]).all()
    arrival = np.flatnonzero(rooms == 2)[0] + 1  # the frame before is dark
    changed = np.argwhere((frames[arrival] != plain[arrival]).any(-1))
    assert 20 < len(changed) < 1000 and abs(changed[:, 1].mean() - 48) < 16
    assert (play(make_vec(4, distractor=True), "right")[0] == 66).all()


def test_random_textures_are_drawn_for_each_episode_and_stay_for_its_trials():
    env = make_vec(24, textures="random")
    env.reset(seed=0)
    styles = set(zip(env.worlds.wall_style.tolist(), env.worlds.floor_style.tolist(), strict=True))
    assert len(styles) > 12
    walls, player = env.worlds.wall_style.copy(), ScriptedPlayer(env.action_names)
    info = env.step(np.zeros(24, int))[-1]
    for _ in range(178):
        info = env.step(player.act(info))[-1]
    assert info["trials"].min() >= 4 and (env.worlds.wall_style == walls).all()
    env.reset()
    assert not (env.worlds.wall_style == walls).all()


def test_the_gpu_renderer_draws_the_same_rooms():
    try:
        gpu = make_vec(3, renderer="gpu", depth=True)
    except envs.MissingDependencyError as error:
        pytest.skip(str(error))
    cpu = make_vec(3, depth=True)
    gpu.reset(seed=0), cpu.reset(seed=0)
    for _ in range(16):
        theirs, ours = (env.step(np.zeros(3, int))[0] for env in (gpu, cpu))
        for key in ("frame", "depth"):
            gap = abs(theirs[key].astype(int) - ours[key].astype(int))
            assert gap.mean() < 12 and (gap > 40).mean() < 0.12


def test_training_may_begin_after_the_gpu_renderer():
    """Torch's triton and the driver each bring an LLVM: with CUDA builds of torch the wrong order is a crash."""
    program = f"""
import envs
try:
    envs.make_vec({NAME!r}, 1, engine="embedded", renderer="gpu").reset(seed=0)
except envs.MissingDependencyError as error:
    print("missing", error)
import torch
torch.optim.Adam([torch.zeros(1, requires_grad=True)])
print("trains")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if done.stdout.startswith("missing"):
        pytest.skip(done.stdout)
    assert done.stdout.split() == ["trains"], done.stderr


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(buffers, "_GPU_DEVICES", ())
    assert envs.make_vec(NAME, 1, engine="embedded").metadata["settings"]["renderer"] == "cpu"


@pytest.mark.parametrize(
    ("driver", "chosen"), [("", "cpu"), ("llvmpipe (LLVM 15)", "cpu"), ("NVIDIA H100", "gpu")]
)
def test_auto_takes_a_gpu_only_if_hardware_draws(monkeypatch, driver, chosen):
    monkeypatch.setattr(buffers, "_GPU_DEVICES", ("/dev/null",))
    monkeypatch.setattr(buffers, "_gpu_driver", lambda: driver)
    assert buffers.choose_renderer("auto") == chosen


def test_a_device_without_hardware_drawing_is_asked_in_another_process(monkeypatch):
    monkeypatch.setattr(buffers, "_GPU_DEVICES", ("/dev/null",))
    driver = buffers._gpu_driver().lower()
    if driver and not any(name in driver for name in buffers._SOFTWARE):
        pytest.skip(f"this machine has a GPU: {driver}")
    assert buffers.choose_renderer("auto") == "cpu"


def test_without_a_gpu_auto_falls_back_when_it_draws_and_gpu_is_one_line(monkeypatch):
    monkeypatch.setattr(buffers, "_GPU_DEVICES", ("/dev/null",))
    monkeypatch.setattr(buffers, "_gpu_driver", lambda: "NVIDIA H100")
    monkeypatch.setitem(buffers._LIBRARIES, "gpu", "p3nothing")
    monkeypatch.delitem(buffers._pipes, "gpu", raising=False)
    env = make_vec(1, renderer="auto")
    assert env.reset(seed=0)[0]["frame"].std() > 10
    assert env.metadata["settings"]["renderer"] == "cpu"
    with pytest.raises(envs.MissingDependencyError, match="renderer 'gpu' needs") as error:
        make_vec(1, renderer="gpu")
    assert len(str(error.value).splitlines()) == 1


def test_the_gallery_draws_both_pictures(tmp_path):
    gallery.main([str(tmp_path)])
    for name, least in (("rooms.png", (700, 900)), ("objects.png", (300, 900))):
        picture = cv2.imread(str(tmp_path / name))
        assert picture.shape[0] >= least[0] and picture.shape[1] >= least[1]
        assert picture.std() > 30


def _floor_share(frame):
    """Share of the pixels that are the floor's orange."""
    red, blue = frame[..., 0].astype(int), frame[..., 2].astype(int)
    return (red > blue + 60).mean()


def test_extended_actions_look_up_and_down():
    env = make_vec(1, actions="extended")
    level = env.reset(seed=0)[0]["frame"]
    down = env.step(np.array([8]))[0]["frame"]
    assert _floor_share(down) > _floor_share(level)
    env.step(np.array([9]))
    assert _floor_share(env.step(np.array([9]))[0]["frame"]) < _floor_share(level)


def test_pictures_of_any_size_and_from_above():
    env = make_vec(2, render_mode="rgb_array", render_height=120, render_width=200)
    before = env.reset(seed=0)[0]["frame"]
    pictures = env.render()
    assert [p.shape for p in pictures] == [(120, 200, 3)] * 2 and pictures[0].std() > 20
    top = env.picture(1, size=(64, 64), view="top")
    assert top.shape == (64, 64, 3) and top.std() > 20
    assert (env._observe()["frame"] == before).all()


def test_observations_are_the_callers_to_keep():
    env = make_vec(2)
    first = env.reset(seed=0)[0]
    copy = {key: value.copy() for key, value in first.items()}
    for _ in range(5):
        env.step(np.array([4, 0]))
    assert all((first[key] == copy[key]).all() for key in copy)


@pytest.mark.parametrize("steps", [0, 50])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_goes_on_as_the_original_does(steps, copied):
    env = make_vec(2, textures="random", seconds=6, delay=[0, 3])
    _, info = env.reset(seed=5)
    player = ScriptedPlayer(env.action_names)
    for _ in range(steps):
        *_, info = env.step(player.act(info))
    twin = copied(env)
    if not steps:
        _, info = env.reset(seed=6)
        twin.reset(seed=6)
    for _ in range(60):
        actions = player.act(info)
        (seen, reward, *_, info), (same, equal, *_, told) = env.step(actions), twin.step(actions)
        assert (seen["frame"] == same["frame"]).all() and (reward == equal).all()
        assert (info["position"] == told["position"]).all()
    assert info["teleports"].all()


def test_creators_are_picklable():
    env = pickle.loads(pickle.dumps(partial(envs.make, NAME, engine="embedded", objects=4)))()
    assert isinstance(env, gym.Env) and env.reset(seed=0)[0]["frame"].shape == (72, 96, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 70}, "multiple of 4"),
        ({"objects": 1}, "2 to 36"),
        ({"spawn": (-400, 0)}, r"spawn.*-241 <= lo <= hi <= 25$"),
        ({"spawn": (-230, 25), "room_scale": 0.75}, "-236 <= lo <= hi <= 12 at room_scale=0.75"),
        ({"actions": "ninety"}, "impala, extended"),
        ({"textures": "none"}, "'level' or 'random'"),
        ({"render_mode": "human"}, "rgb_array"),
        ({"render_view": "side"}, "agent, top"),
        ({"renderer": "tpu"}, "cpu, gpu, auto"),
        ({"autoreset_mode": "never"}, "NextStep"),
        ({"seconds": "long"}, "seconds='long': expected a number"),
        ({"distractor": 1}, "true or false"),
        ({"spawn": (1, 2, 3)}, "two numbers"),
        ({"depth": True, "frame_only": True}, "frame_only=False"),
    ],
)
def test_bad_settings_say_what_was_expected(settings, message):
    with pytest.raises(ValueError, match=message):
        make_vec(1, **settings)


def test_bad_calls_say_what_was_expected():
    with pytest.raises(TypeError, match="did you mean 'objects'"):
        make_vec(1, objectss=3)
    env = make_vec(2)
    with pytest.raises(ValueError, match="reset"):
        env.step(np.array([0, 0]))
    env.reset(seed=0)
    for bad in (np.array([0]), np.array([0.0, 1.0]), np.array([0, 9]), 3):
        with pytest.raises(ValueError, match="expected"):
            env.step(bad)
    with pytest.raises(ValueError, match="dmlab_rooms_select"):
        envs.make_vec("dmlab_rooms_selekt", 1)
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.reset()


def test_every_object_is_the_match_as_often():
    env = envs.make_vec("dmlab_rooms_select", 256, engine="embedded", objects=4)
    matches = env.reset(seed=1)[1]["match"]
    env.close()
    assert np.all(abs(np.bincount(matches, minlength=4) / 256 - 0.25) < 0.1)


@pytest.mark.parametrize("per_trial", [False, True])
def test_the_match_stays_for_an_episode_or_is_drawn_for_every_trial(per_trial):
    env = envs.make_vec("dmlab_rooms_select", 8, engine="embedded", match_per_trial=per_trial)
    player = ScriptedPlayer(env.action_names, "right")
    _, infos = env.reset(seed=3)
    seen = [{int(match)} for match in infos["match"]]
    for _ in range(178):
        _, _, over, _, infos = env.step(player.act(infos))
        for world, match in enumerate(infos["match"]):
            seen[world].add(int(match))
        assert not over.any()
    assert infos["correct"].min() >= 5  # who reads the match is right in every trial either way
    assert infos["wrong"].max() == 0
    assert {len(matches) for matches in seen} == {1} if not per_trial else min(map(len, seen)) >= 3
    env.close()
