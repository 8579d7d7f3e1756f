"""An exported agent acts as the run's does, without Ray, and nothing of a stranger's folder is executed."""

import inspect
import json
import os
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml

import ct_rl
from agents import ActorCritic
from ct_rl import export
from ct_rl.agent import Agent
from ct_rl.errors import RunFailed, UserError
from ct_rl.evaluation_file import Evaluation
from ct_rl.spaces import from_plain, to_plain

OBSERVATION = gym.spaces.Dict(
    frame=gym.spaces.Box(0, 255, (36, 40, 3), np.uint8),
    last_reward=gym.spaces.Box(-np.inf, np.inf, (1,), np.float32),
    last_action=gym.spaces.Discrete(3),
)
NETWORK = {
    "memory": "compressive",
    "memory_options": {"d_model": 16, "n_layers": 1, "n_heads": 2, "window": 4, "memory": 4,
                       "compressed": 4, "rate": 2},
    "width": 16,
}  # fmt: skip
SPACES = [
    OBSERVATION,
    gym.spaces.Discrete(4, start=-2),
    gym.spaces.MultiDiscrete([2, 5], start=[1, 0]),
    gym.spaces.MultiBinary([2, 3]),
    gym.spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, np.inf]), dtype=np.float32),
    gym.spaces.Box(0, 1, (2, 2), np.uint8),
]


@pytest.fixture
def agent():
    torch.manual_seed(0)
    net = ActorCritic(
        OBSERVATION, gym.spaces.Discrete(3), **NETWORK, auxiliary={"contrast": {"pairs": 4}}
    )
    torch.nn.init.normal_(net.policy.weight)
    network = {**NETWORK, "auxiliary": {"contrast": {"pairs": 4}}}
    description = {"env": "toy", "steps": 1000, "action_repeat": 4, "env_options": {"seconds": 2}}
    return Agent(net, OBSERVATION, gym.spaces.Discrete(3), {**description, "network": network})


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_a_space_survives_json(space):
    assert from_plain(json.loads(json.dumps(to_plain(space)))) == space


def test_an_exported_agent_acts_as_before(agent, tmp_path):
    export.write(tmp_path / "agent", agent, None)
    loaded = ct_rl.load_agent(tmp_path / "agent")
    OBSERVATION.seed(1)
    state = again = None
    for step in range(12):
        seen = OBSERVATION.sample()
        action, state = agent.act(seen, state, greedy=True)
        same, again = loaded.act(seen, again, greedy=True)
        assert action == same and 0 <= action < 3
        before = {key: x.clone() for key, x in again.items()}
        loaded.act(seen, again, resets=step % 3 == 0)
        assert all(torch.equal(before[key], again[key]) for key in before), "act changed its input"


def test_a_batch_acts_as_its_rows_do(agent):
    OBSERVATION.seed(2)
    rows = [OBSERVATION.sample() for _ in range(3)]
    batch = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    actions, _ = agent.act(batch, greedy=True)
    assert [agent.act(row, greedy=True)[0] for row in rows] == list(actions)
    _, state = agent.act(batch)
    for resets in (True, [True] * 3):
        begun, _ = agent.act(batch, state, resets=resets, greedy=True)
        assert list(begun) == list(actions)
    with pytest.raises(ValueError, match="expected one bool, or 3"):
        agent.act(batch, state, resets=[True, False])
    with pytest.raises(ValueError, match="expected"):
        agent.act({**rows[0], "frame": np.zeros((9, 9, 3), np.uint8)})


def test_what_the_network_would_misread_is_refused_and_named(agent):
    OBSERVATION.seed(2)
    seen = OBSERVATION.sample()
    with pytest.raises(ValueError, match="'frame' is of float64, expected uint8"):
        agent.act({**seen, "frame": seen["frame"] / 255})
    own = gym.spaces.Dict({"at": gym.spaces.Discrete(4, start=1), "v": gym.spaces.Box(-1, 1, (2,))})
    net = ActorCritic(own, gym.spaces.Discrete(3), **NETWORK)
    other = Agent(net, own, gym.spaces.Discrete(3), {})
    good = {"at": np.array([1, 4]), "v": np.zeros((2, 2), np.float32)}
    other.act(good)
    for wrong, says in (({"at": np.array([1, 5])}, r"'at' is \[1, 5\], and its space is Discrete\(4, start=1\)"),
                        ({"v": np.full((2, 2), np.nan)}, "'v' holds NaN")):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            other.act(good | wrong)


def test_the_card_is_what_the_hub_reads(agent, tmp_path):
    score = {"mean": 51.25, "standard_error": 2.5, "episodes": 20}
    scores = {"greedy": score, "sampled": {**score, "mean": 1.0}}
    export.write(tmp_path, agent, Evaluation("toy", scores, 1000, {"seconds": 9}))
    _, front, text = (tmp_path / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["library_name"] == "ct_rl" and "deep-reinforcement-learning" in front["tags"]
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0] == {
        "type": "mean_reward", "value": "51.25 +/- 2.50", "name": "mean_reward",
    }  # fmt: skip
    assert "1,000 agent steps = 4,000 frames" in text and "seconds=2" in text
    assert "over 20 episodes, greedy actions, environment with seconds=9" in text


def test_the_card_names_what_must_be_imported(agent, tmp_path):
    agent.description["imports"] = ["my_world"]
    export.write(tmp_path, agent, None)
    text = (tmp_path / "README.md").read_text()
    assert "import ct_rl\nimport my_world\n" in text
    assert "'THIS FOLDER' --episodes 20 --video --import my_world`" in text


def test_an_agent_that_has_a_film_beside_it_takes_it_along(tmp_path, capsys):
    assert export.command(["pretrained:rooms_select", str(tmp_path / "mine")]) == 0
    assert "no film" not in capsys.readouterr().out
    assert (tmp_path / "mine" / "replay.mp4").stat().st_size > 10_000


def test_only_a_score_of_the_same_checkpoint_is_on_the_card(tmp_path):
    (tmp_path / "evaluations").mkdir()
    for age, (steps, mean, options) in enumerate(
        [(10, 10, {}), (20, 20, {}), (10, 99, {"easy": True}), (40, 40, {"easy": True})]
    ):
        file = tmp_path / "evaluations" / f"{age}.json"
        scores = {"scores": {"greedy": {"mean": mean}}, "env_options": options}
        file.write_text(json.dumps({"env": "toy", "steps": steps, **scores}))
        os.utime(file, (age, age))
    (tmp_path / "evaluations" / "broken.json").write_text("[]")

    def found(steps):
        return export.evaluation_of(tmp_path, {"env": "toy", "steps": steps, "imports": ["none"]})

    assert found(10).scores["greedy"]["mean"] == 10  # of the level as it is
    assert found(40).env_options == {"easy": True}  # the card says so
    assert found(30) is None


def test_loading_needs_no_ray_and_executes_nothing(agent, tmp_path):
    export.write(tmp_path, agent, None)
    code = (
        f"import sys, ct_rl; agent = ct_rl.load_agent({str(tmp_path)!r});"
        "print(agent.act(agent.observation_space.sample())[0]); assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "config.json").write_text("[]"),
        lambda folder: (folder / "config.json").write_text("{not json"),
        lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "config.json").write_text(
            (folder / "config.json").read_text().replace('"d_model": 16', '"d_model": 32')
        ),
    ],
    ids=["no config", "no json", "no weights", "weights gone", "other sizes"],
)
def test_a_damaged_folder_is_one_line(agent, tmp_path, damage):
    export.write(tmp_path, agent, None)
    damage(tmp_path)
    with pytest.raises(UserError) as caught:
        ct_rl.load_agent(tmp_path)
    assert len(str(caught.value).splitlines()) == 1 and "holds no agent" in str(caught.value)


def test_what_is_no_agent_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no config"):
        ct_rl.load_agent(tmp_path)
    with pytest.raises(UserError, match="no pretrained agent 'nothing'"):
        ct_rl.load_agent("pretrained:nothing")


class HfApi:
    """Has the two calls of huggingface_hub's class that are used, with its own names of arguments."""

    calls: ClassVar = []
    fails = None

    def create_repo(self, repo_id, *, exist_ok=False):
        HfApi.calls.append(("create", repo_id, exist_ok))

    def upload_folder(self, *, repo_id, folder_path):
        if HfApi.fails:
            raise HfApi.fails
        HfApi.calls.append(("upload", repo_id, sorted(p.name for p in Path(folder_path).iterdir())))
        return f"hub/{repo_id}"


@pytest.fixture
def hub(monkeypatch):
    double = types.SimpleNamespace(HfApi=HfApi, get_token=lambda: "a token")
    monkeypatch.setitem(sys.modules, "huggingface_hub", double)
    monkeypatch.setattr(HfApi, "calls", [])
    return double


def a_run(folder, steps=1000):
    """What export reads of a run beside its network."""
    for name in ("evaluations", "videos"):
        (folder / name).mkdir(parents=True)
    score = {"mean": 7.125, "standard_error": 0.5, "episodes": 20}
    text = json.dumps({"env": "toy", "steps": steps, "scores": {"greedy": score}})
    (folder / "evaluations" / "step_000000001000_seed0.json").write_text(text)
    (folder / "videos" / "step_000000001000_seed0_greedy.mp4").write_bytes(b"the film")
    (folder / "videos" / "step_000000000900_seed0_greedy.mp4").write_bytes(b"an older one")
    return folder


def test_an_export_is_laid_out_as_the_hub_expects_and_uploaded(
    agent, hub, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("ct_rl.agent.load_agent", lambda *_, **__: agent)
    run = a_run(tmp_path / "run")
    status = export.command([str(run), str(tmp_path / "out"), "--upload", "me/agent"])
    files = ["README.md", "config.json", "model.safetensors", "replay.mp4"]
    assert status == 0 and HfApi.calls == [
        ("create", "me/agent", True), ("upload", "me/agent", files),
    ]  # fmt: skip
    assert "uploaded     hub/me/agent" in capsys.readouterr().out
    assert (tmp_path / "out" / "replay.mp4").read_bytes() == b"the film"
    front = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])
    assert front["tags"][0] == "toy" and "reinforcement-learning" in front["tags"]
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == "7.12 +/- 0.50"
    assert result["task"]["type"] == "reinforcement-learning"


def test_what_an_export_has_not_is_said(agent, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ct_rl.agent.load_agent", lambda *_, **__: agent)
    run = a_run(tmp_path / "run", steps=900)
    film = run / "videos" / "step_000000001000_seed0_greedy.mp4"
    film.unlink()
    film.symlink_to("/etc/hostname")  # a stranger's run must not bring along another's file
    (run / "replay.mp4").symlink_to("/etc/hostname")
    assert export.command([str(run), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "no film of this checkpoint" in said and "no score of this checkpoint" in said
    assert said.count(shlex.join(["python", "-m", "ct_rl.evaluate", str(run)])) == 2
    assert not (tmp_path / "out" / "replay.mp4").exists()
    assert "model-index" not in (tmp_path / "out" / "README.md").read_text()


def test_an_upload_that_cannot_begin_is_one_line_before_any_work(hub, tmp_path, monkeypatch):
    for name in ("agent", "/agent", "me/", "me/my/agent"):
        with pytest.raises(UserError, match="expected OWNER/NAME"):
            export.command(["run", str(tmp_path / "out"), "--upload", name])
    hub.get_token = lambda: None
    with pytest.raises(UserError, match="needs a login: set HF_TOKEN"):
        export.command(["run", str(tmp_path / "out"), "--upload", "me/agent"])
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'ct_rl\[hub\]'"):
        export.command(["run", str(tmp_path / "out"), "--upload", "me/agent"])
    assert not (tmp_path / "out").exists()


def test_an_upload_that_fails_keeps_the_folder_and_is_one_line(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(HfApi, "fails", OSError("403 Forbidden:\n no rights"))
    with pytest.raises(RunFailed, match="uploading failed: 403 Forbidden: no rights; the folder"):
        export.upload(tmp_path, "me/agent")


def test_the_double_has_the_arguments_of_the_real_client():
    real = pytest.importorskip("huggingface_hub")
    for name in ("create_repo", "upload_folder"):
        asked = set(inspect.signature(getattr(HfApi, name)).parameters)
        assert asked <= set(inspect.signature(getattr(real.HfApi, name)).parameters)
    assert callable(real.get_token)
    for error in (real.errors.HfHubHTTPError, real.errors.HFValidationError):
        assert issubclass(error, OSError | ValueError)
