"""The programs in examples/: each runs, with fewer steps, and what they add obeys the contract of its kind."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from agents.auxiliary import Experience, Sizes, build_auxiliary
from ct_rl.memory import build_memory
from tests.memory.cuts import assert_steps_are_one_call

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def example(monkeypatch, capsys, cluster):
    """Runs an example in this process, as `python examples/NAME.py WORDS` would, and gives what it printed."""

    def run(name, *words):
        path = EXAMPLES / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, words)])
        monkeypatch.syspath_prepend(EXAMPLES)
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own_environment", "compression_loss"),
        ("own_memory", "policy_loss"),
        ("own_auxiliary_loss", "inverse_loss"),
    ],
)
def test_an_example_trains(example, name, says):
    lines = example(name, "--steps", 1500).splitlines()
    assert re.match(r" +[\d,]+ steps   return ", lines[-1]) and says in lines[-1]
    assert int(lines[-1].split()[0].replace(",", "")) >= 1500


def start(name, *words):
    """What an example prints as a program of its own, and its warnings."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_the_stock_script_trains_and_restores_its_policy():
    said, warned = start("stock_rllib", "--iterations", 2)
    *trained, restored = said.splitlines()
    assert [line.split(":")[0] for line in trained] == ["iteration 1", "iteration 2"]
    assert restored == "restored: logits differ by 0.0e+00 at most"
    assert "rows are cut" not in warned


@pytest.mark.slow
def test_the_sweep_has_a_trial_for_each_rate(tmp_path):
    said, _ = start("tune_sweep", "--rates", 1, 4, "--steps", 1000, "--folder", tmp_path)
    for rate, reach in ((1, 12), (4, 24)):
        assert f"rate {rate}: {reach} steps seen, mean return 0." in said


def test_the_memory_of_the_example_obeys_cuts_and_resets():
    runpy.run_path(str(EXAMPLES / "own_memory.py"))
    torch.manual_seed(0)
    assert_steps_are_one_call(build_memory("fast_weights", d_model=8, cells=3))


def test_the_loss_of_the_example_leaves_out_pairs_across_episodes():
    import gymnasium as gym

    runpy.run_path(str(EXAMPLES / "own_auxiliary_loss.py"))
    space = gym.spaces.Discrete(3)
    loss = build_auxiliary(
        "inverse", Sizes(4, 4, gym.spaces.Box(-1, 1, (4,)), space), {"hidden": 8}
    )
    resets = torch.tensor([[True, False, True, False]])
    features = torch.randn(1, 4, 4, requires_grad=True)

    def value(actions):
        nothing = torch.zeros(1, 4, dtype=torch.bool)
        seen = Experience(
            None, features, features, torch.tensor([actions]), torch.zeros(1, 4), resets, nothing
        )
        return loss(seen).item()

    assert value([0, 1, 2, 0]) == value([0, 2, 2, 1])  # actions that ended an episode or the row
    assert value([0, 1, 2, 0]) != value([1, 1, 2, 0])


def test_the_page_of_examples_has_each():
    page = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f"| [{path.name}]({path.name}) | " in page
