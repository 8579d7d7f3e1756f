"""The embedded room task against what was measured on the real level, and the contract of its interface."""

from __future__ import annotations

import multiprocessing
import pickle
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs.room.scripted import ScriptedPlayer

NAME = "dmlab_rooms_select"
make = partial(envs.make, NAME, engine="embedded")
make_vec = partial(envs.make_vec, NAME, engine="embedded")
FORWARD, NOTHING = 0, 8


def play(env, choose, seed=0):
    """Returns [N] and last info of one episode of a scripted player."""
    player = ScriptedPlayer(env.action_names, choose)
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


def test_random_actions_score_as_on_the_real_level():
    env, rng = make_vec(64), np.random.default_rng(0)
    env.reset(seed=0)
    total = 0.0
    for _ in range(180):
        _, reward, _, _, info = env.step(rng.integers(9, size=64))
        total += reward.sum()
    assert -2 < total / 64 < 3  # measured there: 0.76 +- 0.44
    assert 0.3 < info["teleports"].mean() < 1.4  # measured there: 0.81


def test_walking_forward_reaches_the_pad_in_frame_56():
    env = make_vec(1, action_repeat=1)
    env.reset(seed=0)
    rewards = [env.step(np.array([FORWARD]))[1][0] for _ in range(56)]
    assert np.flatnonzero(rewards).tolist() == [55]


def test_episode_has_720_frames_and_ends_as_terminated():
    env = make_vec(1)
    env.reset(seed=0)
    ends = [env.step(np.array([NOTHING]))[2:4] for _ in range(180)]
    assert [bool(t[0]) for t, _ in ends] == [False] * 179 + [True]
    assert not any(t[0] for _, t in ends)


def test_arrival_slides_about_100_units_and_shows_both_objects():
    env = make_vec(1, action_repeat=1)
    _, info = env.reset(seed=0)
    while info["room"][0] == 1:
        info = env.step(np.array([FORWARD]))[-1]
    start = info["position"][0].copy()
    for _ in range(60):
        info = env.step(np.array([NOTHING]))[-1]
    assert start.tolist() == [288, -64]
    assert 90 < info["position"][0, 0] - 288 < 125


def test_turning_by_20_pixels_is_8_4_degrees_a_step():
    env = make_vec(1)
    env.reset(seed=0)
    assert env.step(np.array([4]))[-1]["yaw"][0] == pytest.approx(8.45, abs=0.05)
    assert env.step(np.array([5]))[-1]["yaw"][0] == pytest.approx(0, abs=1e-9)


def test_full_speed_is_320_units_a_second():
    env = make_vec(1, action_repeat=1)
    env.reset(seed=0)
    xs = [env.step(np.array([FORWARD]))[-1]["position"][0, 0] for _ in range(40)]
    assert np.diff(xs)[-5:] == pytest.approx(320 * 0.016)


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
    match, sides, others = env._worlds.match.copy(), set(), set()
    for _ in range(180):
        _, _, _, _, info = env.step(player.act(info))
        assert (env._worlds.match == match).all() and (env._worlds.other != match).all()
        sides |= set(zip(info["match_side"], info["example_side"], strict=True))
        others |= set(env._worlds.other.tolist())
    assert len(sides) == 4 and len(others) > 10


def test_frames_do_not_depend_on_batch_order_or_process():
    rng = np.random.default_rng(0)
    actions = rng.choice([0, 0, 6, 7, 4], size=(80, 5))
    frames, rewards = frames_of(5, 7, actions)
    for i in (0, 3):
        alone, alone_rewards = frames_of(1, 7 + i, actions[:, i : i + 1])
        assert (alone[:, 0] == frames[:, i]).all() and (alone_rewards[:, 0] == rewards[:, i]).all()
    backwards, _ = frames_of(5, [11, 10, 9, 8, 7], actions[:, ::-1])
    assert (backwards[:, ::-1] == frames).all()
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            there, _ = pool.apply(frames_of, (5, 7, actions))
        assert (there == frames).all()
    assert not (frames_of(5, 8, actions)[0] == frames).all()


def test_gymnasium_checker_passes():
    check_env(make(render_mode="rgb_array"), skip_render_check=False)


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


def test_settings_change_what_they_say():
    two = make_vec(64, objects=2)
    two.reset(seed=0)
    assert len(set(two._worlds.match.tolist())) == 2
    spread = make_vec(64, spawn=(-232, -20)).reset(seed=0)[1]["position"][:, 0]
    assert spread.min() < -200 and spread.max() > -60 and spread.max() <= -20
    assert make_vec(1, height=84, width=84).reset(seed=0)[0]["frame"].shape == (1, 84, 84, 3)
    assert make_vec(1, actions="extended").single_action_space.n == 15
    ends = make_vec(4, stagger=True)
    ends.reset(seed=0)
    assert [ends.step(np.zeros(4, int))[2].tolist() for _ in range(45)][-1] == [
        False,
        False,
        False,
        True,
    ]


def test_pictures_of_any_size_and_from_above():
    env = make_vec(2, render_mode="rgb_array", render_height=120, render_width=200)
    env.reset(seed=0)
    pictures = env.render()
    assert [p.shape for p in pictures] == [(120, 200, 3)] * 2 and pictures[0].std() > 20


def test_observations_are_the_callers_to_keep():
    env = make_vec(2)
    first = env.reset(seed=0)[0]
    copy = {key: value.copy() for key, value in first.items()}
    for _ in range(5):
        env.step(np.array([4, 0]))
    assert all((first[key] == copy[key]).all() for key in copy)


def test_creators_are_picklable():
    env = pickle.loads(pickle.dumps(partial(envs.make, NAME, engine="embedded", objects=4)))()
    assert isinstance(env, gym.Env) and env.reset(seed=0)[0]["frame"].shape == (72, 96, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"height": 70}, "multiple of 4"),
        ({"objects": 1}, "2 to 36"),
        ({"spawn": (-400, 0)}, "spawn"),
        ({"actions": "ninety"}, "impala, extended"),
        ({"render_mode": "human"}, "rgb_array"),
    ],
)
def test_bad_settings_say_what_was_expected(settings, message):
    with pytest.raises(ValueError, match=message):
        make_vec(1, **settings)


def test_bad_calls_say_what_was_expected():
    env = make_vec(2)
    with pytest.raises(ValueError, match="reset"):
        env.step(np.array([0, 0]))
    env.reset(seed=0)
    for bad in (np.array([0]), np.array([0.0, 1.0]), np.array([0, 9]), 3):
        with pytest.raises(ValueError, match="expected|not within"):
            env.step(bad)
    with pytest.raises(ValueError, match="dmlab_rooms_select"):
        envs.make_vec("dmlab_rooms_selekt", 1)
