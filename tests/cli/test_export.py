"""An exported agent acts as the run's does, without Ray, and nothing of a stranger's folder is executed."""

import json
import subprocess
import sys
import types

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml

import ct_rl
from agents import ActorCritic
from ct_rl import export
from ct_rl.agent import Agent
from ct_rl.errors import UserError
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
    with pytest.raises(ValueError, match="expected"):
        agent.act({**rows[0], "frame": np.zeros((9, 9, 3), np.uint8)})


def test_the_card_is_what_the_hub_reads(agent, tmp_path):
    score = {"mean": 51.25, "standard_error": 2.5, "episodes": 20}
    export.write(tmp_path, agent, {"scores": {"greedy": score, "sampled": {**score, "mean": 1.0}}})
    _, front, text = (tmp_path / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["library_name"] == "ct_rl" and "deep-reinforcement-learning" in front["tags"]
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0] == {
        "type": "mean_reward", "value": "51.25 +/- 2.50", "name": "mean_reward",
    }  # fmt: skip
    assert "1,000 agent steps = 4,000 frames" in text and "seconds=2" in text


def test_only_a_score_of_the_same_checkpoint_is_on_the_card(tmp_path):
    (tmp_path / "evaluations").mkdir()
    for name, steps in (("a", 10), ("b", 20)):
        text = json.dumps({"steps": steps, "scores": {"greedy": {"mean": steps}}})
        (tmp_path / "evaluations" / f"{name}.json").write_text(text)
    (tmp_path / "evaluations" / "broken.json").write_text("[]")
    assert export.evaluation_of(tmp_path, 10)["scores"]["greedy"]["mean"] == 10
    assert export.evaluation_of(tmp_path, 30) is None


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


def test_uploading_goes_through_the_hubs_own_client(agent, tmp_path, monkeypatch):
    calls = []

    class HfApi:
        def create_repo(self, name, exist_ok):
            calls.append(("create", name, exist_ok))

        def upload_folder(self, folder_path, repo_id):
            calls.append(("upload", folder_path, repo_id))
            return f"hub/{repo_id}"

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=HfApi))
    assert export.upload(tmp_path, "me/agent") == "hub/me/agent"
    assert calls == [("create", "me/agent", True), ("upload", str(tmp_path), "me/agent")]
