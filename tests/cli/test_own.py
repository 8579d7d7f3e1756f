"""Somebody's own environment and memory by `--import`: trained in a runner's process, resumed, evaluated, filmed."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import envs
from agents import ActorCritic
from ct_rl import command_line, evaluate, train
from ct_rl.algorithm import (
    build_algorithm,
    check_network,
    drop_unused_encoder,
    network_settings,
    probe_env,
)
from ct_rl.config import EnvConfig, TrainConfig
from ct_rl.errors import RunFailed, UserError, run_command
from ct_rl.evaluation import load_network
from ct_rl.memory import GRUMemory, memory_options, register_memory
from ct_rl.sections import memory_section
from envs import registry
from tests.cli.conftest import command

MODULE = """
from dataclasses import dataclass
from typing import Annotated
import gymnasium as gym
import numpy as np
from annotated_types import Ge, Le
from ct_rl.memory import GRUMemory, register_memory

class Odd(gym.Env):
    \"\"\"Six steps; draws floats with an alpha channel; `rare` is given now and then, `steps` is a name of ours.\"\"\"
    metadata = {"episode_metrics": ("hits", "rare", "steps"), "render_modes": ["rgb_array"]}
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length=6, render_mode=None):
        self.length, self.render_mode, self.t, self.played = length, render_mode, 0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.played = 0, self.played + 1
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        over = self.t >= self.length
        info = {"hits": float(action), "steps": 3.0} if over else {}
        if over and self.played % 2:
            info["rare"] = 5.0
        return np.zeros(2, np.float32), float(action), over, False, info

    def render(self):
        return np.full((40, 50, 4), self.t / 10, np.float32)

gym.register("OddPictures-v0", Odd)

@dataclass(frozen=True)
class Options:
    d_model: Annotated[int, Ge(1), Le(64)] = 8
    \"\"\"Width [units].\"\"\"
    cells: Annotated[int, Ge(1), Le(64)] = 4
    \"\"\"State [units].\"\"\"

class Own(GRUMemory):
    def __init__(self, d_model=8, cells=4):
        super().__init__(d_model, cells)

register_memory("own_memory", Own, Options)
"""
WORDS = [
    *("--env", "OddPictures-v0", "--memory", "own_memory", "--memory.cells", 6),
    *("--envs-per-runner", 4, "--fragment", 10, "--batch", 40, "--network.width", 8),
    *("--steps", 200, "--run.report-seconds", 0.1, "--device", "cpu"),
]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own folder")  # with a blank in it
    (folder / "own_module_of_a_test.py").write_text(MODULE)
    run = folder / "the run"
    imported = ["--import", "own_module_of_a_test"]
    status, out, err = command("ct_rl.train", *WORDS, *imported, "--run-dir", run, cwd=folder)
    assert (status, err) == (0, ""), out + err
    return folder, run, out


def test_it_trains_where_runners_live_and_says_how_to_go_on(own):
    _, run, out = own
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["steps"] >= 200 and {"hits", "episode_steps"} <= set(rows[-1])
    assert rows[-1]["rare"] == 5.0  # over the episodes that gave it
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["memory"] == {"kind": "own_memory", "d_model": 8, "cells": 6}
    assert config["run"]["imports"] == ["own_module_of_a_test"]
    assert config["network"]["reward_clip"] == "none"
    assert "rewards      clipped for learning: none" in out
    last = out.strip().splitlines()[-1]
    assert "'" in last and last.endswith("--import own_module_of_a_test")  # paste and run


def test_a_file_that_names_modules_imports_nothing_and_says_which_flag_is_missing(own, capsys):
    _, run, _ = own
    for words in (["--resume", str(run), "--steps", "900"], [str(run)]):
        main = train.command if "--resume" in words else evaluate.command
        assert run_command(lambda words=words, main=main: main(words)) == 2
        assert "would import own_module_of_a_test: add --import" in capsys.readouterr().err


def test_it_is_evaluated_and_its_odd_pictures_are_filmed(own):
    folder, run, _ = own
    status, out, err = command(
        *("ct_rl.evaluate", run, "--episodes", 3, "--actions", "greedy", "--video"),
        *("--video-episodes", 1, "--import", "own_module_of_a_test"),
        cwd=folder,
    )
    assert status == 0, out + err
    (path,) = (run / "evaluations").glob("*.json")
    found = json.loads(path.read_text())
    assert found["scores"]["greedy"]["length"] == 6 and Path(found["video"]).stat().st_size > 500


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("(", "SyntaxError"),
        ("import no_such_thing", "no_such_thing"),
    ],
)
def test_a_module_that_breaks_is_one_line(tmp_path, monkeypatch, text, says):
    (tmp_path / f"broken_{says.lower()}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=says) as error:
        command_line.import_modules([f"broken_{says.lower()}"])
    assert "\n" not in str(error.value) and str(error.value).startswith("--import broken_")


@pytest.mark.parametrize(
    "error", ["KeyError('map')", "AttributeError('map')", "AssertionError('map')"]
)
def test_an_environment_that_cannot_be_made_is_one_line(monkeypatch, error):
    def broken(**settings):
        raise eval(error)

    monkeypatch.setattr(registry, "_ENVIRONMENTS", dict(registry._ENVIRONMENTS))
    envs.register("mine", broken)
    with pytest.raises(UserError, match=r"--env mine: .*Error: .*map.* line \d+, in broken"):
        probe_env(EnvConfig(name="mine"))


def test_a_runner_that_cannot_begin_is_one_line(monkeypatch):
    def fails(config):
        raise KeyError("map")

    monkeypatch.setattr("ct_rl.algorithm.algorithm_config", fails)
    with pytest.raises(RunFailed, match=r"no environment runner could be started: KeyError: 'map'"):
        build_algorithm(TrainConfig())


def test_an_encoder_of_images_is_refused_where_there_is_none_and_left_out_of_an_earlier_run(capsys):
    config = TrainConfig(env=EnvConfig(name="CartPole-v1"), memory=memory_section("gru")())
    config.network.reward_clip, config.network.encoder = "none", "spots"
    probe = probe_env(config.env)
    with pytest.raises(UserError, match="encoder 'spots' reads images, and there is none in"):
        check_network(config, probe)
    saved = network_settings(config)
    drop_unused_encoder(config, probe)
    check_network(config, probe)
    assert "--network.encoder spots reads images, and there is none" in capsys.readouterr().out
    weights = ActorCritic(
        probe.observation_space, probe.action_space, **network_settings(config)
    ).state_dict()
    checkpoint = SimpleNamespace(meta={"network": saved}, weights=weights, path="x")
    load_network(checkpoint, probe.observation_space, probe.action_space)


@pytest.mark.parametrize(
    "error", [KeyError("size"), AssertionError("size"), AttributeError("size")]
)
def test_a_memory_that_cannot_be_built_is_one_line(monkeypatch, error):
    class Broken(GRUMemory):
        def run(self, x, state, resets, attention):
            raise error

    monkeypatch.setattr(sys.modules["ct_rl.memory.registry"], "_CORES", {})
    register_memory("broken", Broken, memory_options("gru"))
    config = TrainConfig(env=EnvConfig(name="CartPole-v1"), memory=memory_section("broken")())
    config.network.reward_clip = "none"
    with pytest.raises(UserError, match=r"cannot (be built|read .*): .*size.* line \d+, in run"):
        check_network(config, probe_env(config.env))
