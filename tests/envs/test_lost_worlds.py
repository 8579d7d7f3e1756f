"""Worlds that die in training: the run goes on, their episode is lost and counted, in the end it is an error."""

import os
import signal

import numpy as np
import pytest

import envs
from envs.dmlab import pool, process
from envs.seeding import world_seeds
from tests.envs.lab import FIRE, FORWARD, ROOMS, pids, play


def kill(env, i):
    os.kill(pids(env)[i], signal.SIGKILL)


def test_a_world_that_dies_loses_its_episode_and_no_other(open_env, folders, capsys):
    actions = np.random.default_rng(3).integers(9, size=(12, 2))
    undisturbed = play(open_env(num_envs=2, seconds=1), actions, seed=4)
    env = open_env(num_envs=2, seconds=1)
    trace = play(env, actions[:5], seed=4)
    kill(env, 1)
    obs, rewards, terminated, truncated, info = env.step(actions[5])
    assert truncated.tolist() == [False, True] and not terminated.any()
    assert info["lost"].tolist() == [0, 1] and env.lost_worlds == 1 and rewards[1] == 0
    assert (obs["frame"][1] == trace[-1]["frame"][1]).all()  # the last that was seen
    assert obs["last_action"][1] == actions[5, 1] and obs in env.observation_space
    assert len(set(pids(env))) == 2 and len(list(folders.glob("*/dmlab_temp_folder_*"))) == 4
    for t in range(6, 12):
        obs, rewards, terminated, truncated, info = env.step(actions[t])
        assert not (terminated | truncated).any() and info["lost"].tolist() == [0, 0]
        assert (obs["frame"][0] == undisturbed[t + 1]["frame"][0]).all()
        assert rewards[0] == undisturbed[t + 1]["reward"][0]
        if t == 6:  # the next episode begins in the step after, as after any end
            assert not obs["last_reward"][1] and not obs["last_action"][1]
            assert (info["position"][1] == [-232, -64]).all() and info["room"][1] == 1
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {ROOMS}: the engine's process was ended by signal 9")
    assert said.endswith("; world 1 is started anew\n") and said.count("\n") == 1


@pytest.mark.parametrize("seed", [6, [11, 5]])
def test_a_new_life_plays_what_its_seed_says_and_nothing_of_the_life_before(open_env, seed):
    env, twin = open_env(num_envs=2, seconds=1), open_env(seconds=1)
    first = env.reset(seed=seed)[0]["frame"][1]
    of_life = [first.tobytes()]
    for life in (1, 2):
        kill(env, 1)
        env.step(np.full(2, FIRE))
        frame = env.step(np.full(2, FIRE))[0]["frame"][1]
        drawn = (
            world_seeds(6, 2, incarnation=life)[1]
            if seed == 6
            else world_seeds(5, 1, incarnation=life)[0]
        )
        assert (frame == twin.reset(seed=[drawn])[0]["frame"][0]).all()
        of_life.append(frame.tobytes())
    assert len(set(of_life)) == 3
    assert (env.reset(seed=seed)[0]["frame"][1] == first).all()  # a seed begins everything again


def test_a_world_that_dies_between_two_episodes_begins_another_in_the_same_step(open_env):
    env = open_env(num_envs=2, seconds=1)
    env.reset(seed=1)
    for _ in range(15):
        *_, terminated, _, _ = env.step(np.full(2, FIRE))
    assert terminated.all()
    kill(env, 0)
    _, rewards, terminated, truncated, info = env.step(np.full(2, FORWARD))
    assert not (terminated | truncated).any() and not rewards.any()
    assert info["lost"].tolist() == [1, 0] and (info["position"] == [-232, -64]).all()
    *_, info = env.step(np.full(2, FORWARD))
    assert info["lost"].tolist() == [0, 0] and (info["position"][:, 0] > -232).all()


def test_a_world_that_died_before_a_reset_is_counted_by_it(open_env):
    env = open_env(num_envs=2, seconds=1)
    frame = env.reset(seed=1)[0]["frame"]
    kill(env, 1)
    obs, info = env.reset(seed=1)
    assert info["lost"].tolist() == [0, 1] and info["_lost"].all()
    assert (obs["frame"][0] == frame[0]).all() and (obs["frame"][1] != frame[1]).any()


@pytest.mark.parametrize("fault", ["mortal", "stumbles", "balks"])
def test_a_world_that_dies_again_and_again_is_an_error_in_the_end(
    open_env, monkeypatch, capsys, fault
):
    monkeypatch.setenv("DEEPMIND_LAB_DOUBLE", fault)
    env = open_env(num_envs=2, restarts=1)
    _, info = env.reset(seed=1)
    assert not info["lost"].any()
    lost = np.zeros(2, int)
    with pytest.raises(RuntimeError) as caught:
        for _ in range(100):
            *_, truncated, info = env.step(np.full(2, FIRE))
            lost += info["lost"]
            assert (truncated == (info["lost"] > 0)).all()
    assert lost.tolist() == [1, 1]
    assert "(world 0 died 2 times without 100 steps between)" in str(caught.value)
    says = {"mortal": "ended with status 3", "stumbles": "a nil value", "balks": "no such action"}
    assert says[fault] in str(caught.value)
    assert capsys.readouterr().err.count("is started anew") == 2
    with pytest.raises(ValueError, match=r"call reset\(\) first"):
        env.step(np.full(2, FIRE))
    assert env.reset(seed=1)[0]["frame"].any()


def test_resets_between_deaths_do_not_hide_them(lab, folders, monkeypatch):
    monkeypatch.setenv("DEEPMIND_LAB_DOUBLE", "mortal")
    env = envs.make(f"dmlab_{ROOMS}", restarts=1)
    lost = 0
    with pytest.raises(RuntimeError, match=r"world 0 died 2 times"):
        for seed in range(3):
            env.reset(seed=seed)
            over = False
            while not over:
                *_, over, info = env.step(FIRE)
            lost += info["lost"]
    assert lost == 1
    env.close()


def test_a_world_that_dies_at_every_start_is_an_error(open_env, monkeypatch):
    monkeypatch.setenv("DEEPMIND_LAB_DOUBLE", "stillborn")
    env = open_env(restarts=1)
    with pytest.raises(RuntimeError, match=r"status 3.*\(world 0 died 2 times"):
        env.reset(seed=1)


def test_deaths_that_lie_apart_do_not_add_up(open_env, monkeypatch):
    monkeypatch.setattr(pool, "PROGRESS", 4)
    monkeypatch.setenv("DEEPMIND_LAB_DOUBLE", "mortal")
    env = open_env(restarts=1)
    env.reset(seed=1)
    lost = sum(int(env.step(np.array([FIRE]))[-1]["lost"][0]) for _ in range(40))
    assert lost == env.lost_worlds == 6  # every sixth step is lost, four are played before


def test_an_engine_that_hangs_is_lost_too(open_env, monkeypatch):
    env = open_env(seconds=1)
    env.reset(seed=1)
    os.kill(pids(env)[0], signal.SIGSTOP)
    with monkeypatch.context() as patch:
        answer, waits = process.LabProcess.answer, iter((0.2, 60))
        patch.setattr(
            process.LabProcess,
            "answer",
            lambda self: patch.setattr(process, "_PATIENCE", next(waits)) or answer(self),
        )
        *_, truncated, info = env.step(np.array([FIRE]))
    assert truncated[0] and info["lost"][0] == 1
    env.step(np.array([FIRE]))
