"""Every program in examples/ runs, and so does every command of the tutorial, on the files that the page prints."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', PAGE, re.DOTALL))
COMMANDS = [
    line
    for block in re.findall(r"^```\n(.*?)```", PAGE, re.DOTALL | re.M)
    for line in block.splitlines()
]
INSTALL = [
    "python -m venv .venv && source .venv/bin/activate",
    "pip install -c constraints.txt -e '.[dev]'",
]
# Flags that make a command short, by how it begins.
SHORTER = {
    "python -m ct_rl.train": "--steps 2048",
    "python -m ct_rl.evaluate": "",
    "python -m ct_rl.experiment": "--quick",
    "python act.py": "",
}
RUNS = {
    "own_environment.py": ("--steps 2000 --memory lstm", r"2,\d\d\d steps +mean return +-?0\.\d\d"),
    "own_memory.py": ("", r"outputs differ by \d\.\de-0[789]|differ by 0\.0e\+00"),
    "own_auxiliary.py": ("--steps 1000", r"1,\d\d\d steps +reward_loss 0\.\d+"),
    "stock_rllib.py": ("--iterations 1", r"restored: .* differ by 0\.0e\+00 at most"),
    "tune_rates.py": ("--steps 2000 --rates 1 4", r"rate 1: .*\nrate 4: "),
}


def run(words, folder):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "rows are cut" not in done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs(name, tmp_path):
    flags, says = RUNS[name]
    assert re.search(says, run([str(EXAMPLES / name), *flags.split()], tmp_path))


def test_every_example_is_run_and_on_the_page_of_examples():
    programs = {path.name for path in EXAMPLES.glob("*.py")}
    assert programs == {*RUNS, "signpost.py", "act_without_ray.py"}  # those two: with the tutorial
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert all(f"(../examples/{name})" in page for name in programs)


def test_the_tutorial_has_the_examples_environment_and_the_readmes_installation():
    assert FILES["signpost.py"] == (EXAMPLES / "signpost.py").read_text(encoding="utf-8")
    assert COMMANDS[:2] == INSTALL and INSTALL[1] in (ROOT / "README.md").read_text()
    assert len(COMMANDS) - 2 == len(SHORTER)


@pytest.mark.slow
def test_every_command_of_the_tutorial_runs(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    said = {}
    for command in COMMANDS[2:]:
        (start,) = (start for start in SHORTER if command.startswith(start))
        words = shlex.split(f"{command} {SHORTER[start]}")
        assert words[0] == "python"
        said[start] = run(words[1:], tmp_path)
    assert "right / episode" in said["python -m ct_rl.evaluate"]
    assert list((tmp_path / "runs" / "first" / "videos").glob("*.mp4"))
    for variant in ("no memory", "compressive", "lstm"):
        assert variant in said["python -m ct_rl.experiment"]
    assert said["python act.py"].strip() in ("right", "wrong")
    act = [str(EXAMPLES / "act_without_ray.py"), "runs/first", "--import", "signpost"]
    assert re.search(r"10 episodes, mean return -?\d\.\d\d", run(act, tmp_path))
