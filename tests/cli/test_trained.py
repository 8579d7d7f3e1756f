"""What can be evaluated beside a run: an exported folder, an agent that the package ships; and where its files go."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import ct_rl.agent
from agents import ActorCritic
from ct_rl import evaluate, evaluation_file, export
from ct_rl.agent import Agent
from ct_rl.algorithm import portable_options, probe_env
from ct_rl.config import EnvConfig, TrainConfig
from ct_rl.errors import UserError
from ct_rl.run_folder import RunFolder, fresh_path
from ct_rl.trained import open_trained

QUICK = ("--episodes", "2", "--max-steps", "60", "--actions", "sampled")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An agent for CartPole that has learned nothing, exported; some settings and a step count."""
    torch.manual_seed(0)
    probe = probe_env(EnvConfig(name="CartPole-v1"))
    network = {"memory": "gru", "memory_options": {"d_model": 8, "hidden": 8}, "width": 8}
    net = ActorCritic(probe.observation_space, probe.action_space, **network)
    description = {
        "env": "CartPole-v1",
        "env_options": {"sutton_barto_reward": True},
        "eval_options": {"sutton_barto_reward": False},
        "steps": 70,
    }
    agent = Agent(
        net, probe.observation_space, probe.action_space, {**description, "network": network}
    )
    folder = tmp_path_factory.mktemp("exported") / "my agent"
    export.write(folder, agent, None)
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    """The exported folder, to be damaged or written into."""
    folder = tmp_path / "agent"
    folder.mkdir()
    for file in exported.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_fresh_folder_is_taken_by_one_start_and_a_dangling_runs_is_one_line(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda *_: "now")
    config = TrainConfig()
    made = [fresh_path(config) for _ in range(3)]
    assert len(set(made)) == 3 and all(path.is_dir() for path in made)
    shutil.rmtree("runs")
    Path("runs").symlink_to("nowhere")
    with pytest.raises(UserError, match="is a file: choose another --run-dir"):
        RunFolder.create(fresh_path(config))


def described(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config["description"].update(changes)
    (folder / "config.json").write_text(json.dumps(config))


def test_an_exported_folder_is_evaluated_in_its_own_environment(copy, capsys):
    assert evaluate.command([str(copy), *QUICK]) == 0
    (path,) = (copy / "evaluations").iterdir()
    report = json.loads(path.read_text())
    assert path.name == "step_000000000070_seed0.json" and str(path) in capsys.readouterr().out
    assert report["env"] == "CartPole-v1" and report["steps"] == 70
    assert report["env_options"] == {"sutton_barto_reward": False}  # the evaluation's own
    assert report["scores"]["sampled"]["mean"] >= 8  # a reward of 1 for every step


def test_an_exported_agent_tells_which_memory_it_has(copy):
    assert open_trained(str(copy), "last", []).memory == "gru"


def test_training_settings_on_request(copy):
    assert evaluate.command([str(copy), *QUICK, "--as-trained"]) == 0
    (path,) = (copy / "evaluations").iterdir()
    score = json.loads(path.read_text())["scores"]["sampled"]
    assert score["mean"] == -1  # what that setting pays for a fall


def test_files_go_where_out_says_named_after_the_agent(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evaluate.command(["agent", *QUICK, "--out", "else/where"]) == 0
    assert (tmp_path / "else/where/evaluations/agent_step_000000000070_seed0.json").is_file()
    assert not (copy / "evaluations").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out 'file' is a file"):
        evaluate.command(["agent", *QUICK, "--out", "file"])


def test_where_nothing_can_be_written_files_go_to_the_current_folder(copy, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    write = evaluation_file.write_atomically

    def refusing(path, content):
        if copy in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        write(path, content)

    monkeypatch.setattr(evaluation_file, "write_atomically", refusing)
    assert evaluate.command([str(copy), *QUICK]) == 0
    assert [path.name for path in here.glob("evaluations/*.json")] == [
        "agent_step_000000000070_seed0.json"
    ]


def test_an_agent_that_the_package_ships(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "package" / "pretrained").mkdir(parents=True)
    (tmp_path / "package" / "pretrained" / "small").symlink_to(exported)
    monkeypatch.setattr(ct_rl.agent.resources, "files", lambda name: tmp_path / "package")
    assert ct_rl.agent.pretrained_names() == ["small"]
    assert evaluate.command(["pretrained:small", *QUICK]) == 0
    (path,) = (tmp_path / "evaluations").iterdir()
    assert path.name == "small_step_000000000070_seed0.json"
    assert json.loads(path.read_text())["run"] == "pretrained:small"
    assert not (exported / "evaluations").exists()
    with pytest.raises(UserError, match="no pretrained agent 'large': the package ships small"):
        evaluate.command(["pretrained:large"])


@pytest.mark.parametrize("name", ["../secret", "", "small/..", "a\nb"])
def test_a_name_leads_nowhere_else(name):
    with pytest.raises(UserError, match="no pretrained agent"):
        open_trained(f"pretrained:{name}", "last", [])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"env": "os:Thing-v0"}, "would import os: add --import os"),
        ({"imports": ["antigravity"]}, "would import antigravity"),
        ({"env": 7}, "env.name: expected a text"),
        ({"env_options": [1]}, "expected `name: value` lines"),
        ({"steps": "many"}, "no number of steps"),
        ({"env": "Acrobot-v1"}, "does not fit this environment"),
        ({"env": "NoSuchThing-v0"}, "NoSuchThing"),
    ],
)
def test_a_strangers_config_is_read_strictly_and_imports_nothing(copy, changes, says):
    described(copy, **{"env_options": {}, "eval_options": {}, **changes})
    with pytest.raises(UserError) as caught:
        evaluate.command([str(copy), *QUICK])
    assert says in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_what_is_neither_run_nor_agent_is_one_line(tmp_path, copy):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"is no run and no exported agent: it holds no config\."):
        open_trained(str(tmp_path / "empty"), "last", [])
    with pytest.raises(UserError, match="not found"):
        open_trained(str(tmp_path / "gone"), "last", [])
    with pytest.raises(UserError, match="is exported and has one only"):
        open_trained(str(copy), "best", [])
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors").mkdir()
    with pytest.raises(UserError, match="is a folder, not a file"):
        open_trained(str(copy), "last", [])


def test_paths_of_this_machine_are_not_exported():
    env = EnvConfig(name="dmlab_rooms_select")
    env.options = {"seconds": 3, "level_cache": "/home/me/cache", "dataset_path": "/data"}
    assert portable_options(env) == {"seconds": 3}
    assert portable_options(EnvConfig(name="Some-v0"), {"dataset_path": 1}) == {"dataset_path": 1}


def test_an_agent_whose_parts_nobody_imported_says_what_to_import(copy):
    config = json.loads((copy / "config.json").read_text())
    config["network"]["memory"] = "leaky"
    config["description"]["imports"] = ["my_memories"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"unknown memory 'leaky'.*add --import my_memories"):
        open_trained(str(copy), "last", [])


@pytest.mark.parametrize("imports", [5, True, "x", [["x"]], [{}]])
def test_imports_that_are_no_names_are_one_line(copy, imports):
    described(copy, imports=imports)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "format": "x"}))
    with pytest.raises(UserError, match="holds no agent that can be read"):
        open_trained(str(copy), "last", [])


def test_an_evaluation_as_trained_leaves_out_what_the_real_engine_has_not(monkeypatch, capsys):
    monkeypatch.setattr("envs.dmlab.make.available", lambda: True)
    config = open_trained("pretrained:rooms_select", "last", []).config
    assert "spawn" in config.env.options
    given = evaluate.Arguments(run="x", as_trained=True, engine="deepmind_lab")
    assert "spawn" not in evaluate._settings(given, config)
    assert "deepmind_lab has no setting 'spawn'" in capsys.readouterr().out
