"""The page on extending: every example runs, obeys the contract of its kind, and trains."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import envs
from agents import ActorCritic, auxiliary_names, encoder_names
from agents.auxiliary import Experience
from ct_rl.memory import build_memory, memory_names
from tests.memory.cuts import assert_steps_are_one_call

PAGE = Path(__file__).parent.parent / "docs" / "extend.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def registered():
    for code in EXAMPLES:
        exec(compile(code, str(PAGE), "exec"), {"__name__": "example"})


def test_the_examples_are_known_by_their_names():
    assert "leaky" in memory_names() and "slowness" in auxiliary_names()
    assert "colours" in encoder_names() and "echo" in envs.names()


def test_the_memory_obeys_cuts_and_resets():
    torch.manual_seed(0)
    assert_steps_are_one_call(build_memory("leaky", d_model=8, leak=0.3))


@pytest.mark.slow
def test_the_contract_tests_take_a_memory_from_a_file_elsewhere(tmp_path):
    """As the page says: `python -m pytest -p my_module tests/memory -k my_name`."""
    (tmp_path / "my_module.py").write_text(EXAMPLES[0])
    root, kept = PAGE.parents[1], os.environ.get("PYTHONPATH", "")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "my_module", "tests/memory/test_structure.py"),
            *("-k", "leaky", "-q", "-p", "no:cacheprovider"),
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}{os.pathsep}{kept}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d passed", done.stdout)


def test_an_option_of_the_memory_is_checked():
    with pytest.raises(ValueError, match="leak"):
        build_memory("leaky", leak=2.0)
    with pytest.raises(ValueError, match=r"(?s)leaky.*d_model, leak"):
        build_memory("leaky", rate=4)


def test_the_loss_and_the_encoder_work_in_an_actor_critic():
    space = envs.make("dmlab_rooms_select", engine="embedded", frame_only=True).observation_space
    actions = envs.make("echo").action_space
    net = ActorCritic(
        space, actions, memory="leaky", encoder="colours", width=16, auxiliary={"slowness": {}}
    )
    frames = torch.randint(0, 255, (2, 6, *space.shape), dtype=torch.uint8)
    out = net(frames, net.initial_state(2))
    nothing = torch.zeros(2, 6, dtype=torch.bool)
    seen = Experience(
        frames, out.features, out.outputs, nothing.long(), nothing.float(), nothing, nothing
    )
    loss = net.auxiliary["slowness"](seen)
    assert loss > 0
    loss.backward()
    assert net.encoder.project.weight.grad.any()


def test_the_environment_plays_in_a_batch():
    env = envs.make_vec("echo", 3)
    env.reset(seed=0)
    for _ in range(40):
        _, rewards, *_ = env.step(np.zeros(3, np.int64))
    assert set(np.unique(rewards)) <= {0.0, 1.0}
    env.close()
