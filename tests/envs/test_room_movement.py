"""How the embedded room moves and scores, against what was measured on the real engine."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import envs
from envs.dmlab import compare
from envs.room.layout import PICKUP, STANDING
from envs.room.movement import accelerate, apply_friction
from envs.seeding import world_seeds

make_vec = partial(
    envs.make_vec, "dmlab_rooms_select", engine="embedded", renderer="cpu", height=4, width=4
)
RECORDED = compare.recording()
FORWARD, STRAFE_LEFT, LOOK_LEFT, RUN_LEFT, NOTHING = 0, 2, 4, 6, 8


@pytest.fixture(scope="module")
def measured():
    return compare.measure(make_vec)


@pytest.mark.parametrize("name", RECORDED["figures"])
def test_every_recorded_figure_is_met(measured, name):
    figure = RECORDED["figures"][name]
    assert compare.gap(measured[name], figure["value"]) <= figure["within"]


def test_every_recorded_figure_says_where_it_was_measured():
    parts = [*RECORDED["figures"].values(), RECORDED["reach"], RECORDED["random_play"]]
    assert all("snapshot b1db91a" in part["source"] for part in parts)


def test_a_figure_that_is_off_is_printed_as_off(monkeypatch, capsys):
    monkeypatch.setattr(compare, "why_missing", lambda: "it is not installed")
    monkeypatch.setattr("envs.room.dynamics.PAD_FRAMES", 1)
    compare.main([])
    said = capsys.readouterr().out
    assert "OFF by 1" in said.split("reward_frames")[1].split("first_frame")[0]
    assert "OFF" not in said.split("look_frame")[1]


@pytest.mark.parametrize(
    ("dx", "dy", "taken"),
    [
        (43.9, 0, True),
        (44.1, 0, False),
        (0, 35.9, True),
        (0, 36.1, False),
        (0, -35.9, True),
        (0, -36.1, False),
        (-24, 0, True),
    ],
)
def test_an_object_is_taken_within_the_measured_reach_one_frame_later(dx, dy, taken):
    env = make_vec(1, action_repeat=1)
    env.reset(seed=0)
    worlds = env.worlds
    worlds._arrive(0)
    worlds.x[0], worlds.y[0], worlds.z[0], worlds.vx[0] = 600 - dx, 64 - dy, STANDING, 0
    assert (env.step(np.array([LOOK_LEFT]))[1][0] != 0) == taken
    assert RECORDED["reach"]["value"] == list(PICKUP)


def test_the_reach_is_in_the_worlds_axes_however_one_looks():
    for yaw in (0, 900_000, 1_800_000, 2_700_000):
        env = make_vec(1, action_repeat=1)
        env.reset(seed=0)
        worlds = env.worlds
        worlds._arrive(0)
        worlds.x[0], worlds.y[0], worlds.vx[0], worlds.yaw[0] = 600 - 43, 64, 0, yaw
        assert env.step(np.array([NOTHING]))[1][0] != 0


def test_a_choice_is_rewarded_once_and_the_next_frame_is_at_the_spawn():
    env = make_vec(1, action_repeat=1)
    played = compare.Played(env)
    assert played.walk(112) == [56, 111]
    assert played.positions[-1].tolist() == [-232, -64] and played.yaws[-1] == 0
    played.play([FORWARD])
    assert played.xs[-1] - played.xs[-2] == pytest.approx(0.6272)


def test_turning_while_running_in_the_air_or_on_the_ground_follows_the_models_equations():
    def after_friction(vx, friction):
        return apply_friction(np.array([[vx], [0.0]]), np.array([friction]))[:, 0]

    def pushed(velocity, wish, push):
        return accelerate(np.array(velocity)[:, None], np.array(wish)[:, None], np.array([push]))[
            :, 0
        ]

    # On the ground, along the wish: friction takes 320 * 6 * dt, acceleration gives up to 10 * 320 * dt.
    slower = after_friction(320.0, 6 * 0.017)
    assert slower == pytest.approx([320 * (1 - 6 * 0.017), 0])
    assert pushed(slower, (1.0, 0.0), 3200 * 0.017) == pytest.approx([320, 0])
    # Across the wish nothing is taken away, so the speed grows above 320.
    assert pushed((320.0, 0.0), (0.0, 1.0), 3200 * 0.017) == pytest.approx([320, 54.4])
    # In the air there is no friction and a tenth of the push; below 100 units a second friction is that of 100.
    assert after_friction(400.0, 0.0)[0] == 400
    assert pushed((0.0, 0.0), (1.0, 0.0), 320 * 0.014)[0] == pytest.approx(4.48)
    assert after_friction(50.0, 6 * 0.01)[0] == pytest.approx(44)
    assert after_friction(0.0, 6 * 0.01)[0] == 0


def test_frames_on_the_pad_are_counted_for_each_world_alone():
    worlds = make_vec(2, action_repeat=1).worlds
    for i in (0, 1):
        worlds.seed(i, 0)
        worlds.begin_episode(i)
    everyone = np.ones(2, bool)
    worlds._arrive(1)
    worlds.x[0] = 40.0  # on the pad
    for x in (40.0, -100.0):  # and off it again
        worlds.x[0] = x
        worlds.step(np.array([NOTHING, NOTHING]), everyone)
    assert worlds.on_pad[0] == 0
    alone = make_vec(1, action_repeat=1).worlds
    alone.seed(0, 0)
    alone.begin_episode(0)
    for x in (40.0, -100.0):
        alone.x[0] = x
        alone.step(np.array([NOTHING]), everyone[:1])
    assert alone.on_pad[0] == 0


def test_who_turns_while_running_becomes_faster_than_who_runs_straight():
    env = make_vec(2, action_repeat=1)
    env.reset(seed=[0, 0])
    fastest = np.zeros(2)
    for k in range(40):
        env.step(np.array([FORWARD, RUN_LEFT if k > 15 else FORWARD]))
        fastest = np.maximum(fastest, np.hypot(env.worlds.vx, env.worlds.vy))
    assert fastest[0] == 320 and 321 < fastest[1] < 400


def test_the_plinth_under_the_pad_lifts_who_walks_over_its_edge_and_lets_him_fall():
    env = make_vec(1, action_repeat=1, seconds=60.0)
    env.reset(seed=0)
    worlds = env.worlds
    worlds.y[0] = -64 + 43  # on the plinth, beside the trigger
    heights = []
    for _ in range(60):
        worlds.y[0], worlds.vy[0] = -64 + 43, 0
        env.step(np.array([FORWARD]))
        heights.append(worlds.z[0])
    assert worlds.room[0] == 0 and max(heights) == STANDING + 10
    for _ in range(80):
        env.step(np.array([1]))  # back over the edge
    assert worlds.z[0] == STANDING and worlds.x[0] < 17


def test_a_player_stops_an_eighth_of_a_unit_before_a_wall():
    env = make_vec(1, action_repeat=4)
    env.reset(seed=0)
    for _ in range(40):
        info = env.step(np.array([STRAFE_LEFT]))[-1]
    assert info["position"][0] == pytest.approx([-232, 128 - 15.125])


def test_yaw_is_told_from_minus_180_to_180():
    env = make_vec(1)
    env.reset(seed=0)
    yaws = [env.step(np.array([LOOK_LEFT]))[-1]["yaw"][0] for _ in range(60)]
    assert -180 <= min(yaws) < -160 and 160 < max(yaws) < 180
    turned = (np.diff(yaws) + 180) % 360 - 180
    assert turned == pytest.approx(4 * 2.112)


def test_an_int_seeds_every_world_from_the_one_rule_and_world_0_is_the_single_environments():
    def first(env, seed):
        info = env.reset(seed=seed)[1]
        keys = ("match", "other", "match_side", "example_side")
        return [tuple(info[key][i] for key in keys) for i in range(env.num_envs)]

    many = first(make_vec(6), 3)
    assert many == first(make_vec(6), world_seeds(3, 6))
    assert many[:2] == first(make_vec(2), 3) and many[:1] == first(make_vec(1), 3)
    assert many[1] != first(make_vec(1), 4)[0] or many[2] != first(make_vec(1), 5)[0]
    assert [first(make_vec(1), [s])[0] for s in (7, 9)] == first(make_vec(2), [7, 9])
    with pytest.raises(ValueError, match="seed=-1"):
        make_vec(2).reset(seed=-1)


def test_uniform_random_play_scores_as_measured():
    n = 256
    env, rng = make_vec(n), np.random.default_rng(0)
    env.reset(seed=0)
    returns = np.zeros(n)
    for _ in range(180):
        _, reward, _, _, info = env.step(rng.integers(9, size=n))
        returns += reward
    for name, values in (
        ("return", returns),
        ("teleports", info["teleports"]),
        ("choices", info["trials"]),
    ):
        mean, error = RECORDED["random_play"][name]
        spread = np.hypot(error, values.std() / n**0.5)
        assert abs(values.mean() - mean) < 3 * spread
