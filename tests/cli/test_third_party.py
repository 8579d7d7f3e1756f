"""Third-party benchmarks through the whole training path, with the real command."""

import importlib.util
import json

import pytest

from ct_rl import train
from ct_rl.errors import run_command
from tests.cli.conftest import command

SETTINGS = {
    "--memory": "gru",
    "--memory.d-model": 16,
    "--memory.hidden": 16,
    "--network.width": 16,
    "--steps": 160,
    "--device": "cpu",
    "--envs-per-runner": 4,
    "--fragment": 20,
    "--batch": 80,
    "--minibatch": 80,
    "--run.report-seconds": 0.1,
}


@pytest.mark.parametrize(
    ("module", "name", "runners", "algorithm"),
    [
        ("minigrid", "MiniGrid-MemoryS7-v0", 0, "ppo"),
        ("popgym", "popgym-AutoencodeEasy-v0", 0, "appo"),
        ("vizdoom", "VizdoomMyWayHome-v1", 1, "ppo"),
    ],
)
def test_a_few_steps_of_training(module, name, runners, algorithm, tmp_path):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install 'ct_rl[{module}]'")
    run = tmp_path / "run"
    words = [word for pair in SETTINGS.items() for word in pair]
    words += ["--num-env-runners", runners, "--algorithm", algorithm, "--run-dir", run]
    status, _, err = command("ct_rl.train", "--env", name, *words, cwd=tmp_path)
    assert (status, err) == (0, ""), err
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["steps"] >= 160 and rows[-1]["updates"] >= 1
    assert rows[-1]["policy_loss"] is not None
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


def test_a_missing_extra_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "minigrid", None)
    assert run_command(lambda: train.command(["--env", "MiniGrid-MemoryS7-v0"])) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert line.startswith("error: ") and "pip install 'ct_rl[minigrid]'" in line
