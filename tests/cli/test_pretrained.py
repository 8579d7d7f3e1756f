"""The agents in the box: they load without Ray, and play the level about as well as a person."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import ct_rl
import envs
from ct_rl.agent import pretrained_folder, pretrained_names
from ct_rl.errors import UserError
from envs.seeding import world_seeds

NAME, EPISODES = "pretrained:rooms_select", 20
# Settings that each plays the level with, and what its return over 20 episodes stays above.
AGENTS = {"rooms_select": ({}, 60), "rooms_select_15_actions": ({"actions": "extended"}, 60)}


def test_every_agent_is_held_to_a_return():
    assert set(pretrained_names()) == set(AGENTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_the_return_over_20_episodes_of_the_level(name):
    settings, least = AGENTS[name]
    agent = ct_rl.load_agent(f"pretrained:{name}")
    env = envs.make_vec("dmlab_rooms_select", EPISODES, engine="embedded", **settings)
    assert env.single_action_space == agent.make_env().action_space == agent.action_space
    observation, infos = env.reset(seed=world_seeds(7, EPISODES, evaluation=True))
    returns, state = np.zeros(EPISODES), None
    for step in range(180):
        action, state = agent.act(observation, state, greedy=True)
        observation, reward, over, _, infos = env.step(action)
        returns += reward
        assert over.all() == (step == 179)
    env.close()
    assert returns.mean() > least, returns
    assert infos["correct"].sum() > 0.85 * (infos["correct"] + infos["wrong"]).sum()


def test_it_makes_the_environment_as_evaluations_play_it():
    agent = ct_rl.load_agent(NAME)
    agent.description["env_options"]["spawn"] = [
        -232.0,
        -170.0,
    ]  # as if training had started nearer
    for options, height in (({}, 72), ({"height": 36, "width": 48}, 36)):
        env = agent.make_env(**options)
        _, info = env.reset(seed=1)
        assert info["position"][0] == -232 and env.observation_space["frame"].shape[0] == height
        env.close()
    agent.description["env"] = "dmlab_nowhere"
    with pytest.raises(UserError, match="dmlab_nowhere"):
        agent.make_env()


def test_it_loads_without_ray_and_names_what_there_is():
    code = f"import sys, ct_rl; ct_rl.load_agent({NAME!r}); assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    with pytest.raises(UserError, match="rooms_select"):
        ct_rl.load_agent("pretrained:rooms_selct")


def test_a_config_that_asks_for_more_than_the_weights_hold_is_refused_before_memory_is_taken(
    tmp_path,
):
    folder = tmp_path / "agent"
    shutil.copytree(pretrained_folder(NAME), folder)
    config = json.loads((folder / "config.json").read_text())
    config["network"]["memory_options"]["d_model"] = 65_536
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"is not what config\.json says"):
        ct_rl.load_agent(folder)


def test_an_exported_agent_has_one_checkpoint():
    for checkpoint, says in (("best", "has one only"), ("nonsense", "choose 'last' or 'best'")):
        with pytest.raises(UserError, match=says):
            ct_rl.load_agent(NAME, checkpoint=checkpoint)
