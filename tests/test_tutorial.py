"""docs/tutorial.md: its files are written and its commands run in their order, with fewer steps and episodes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ct_rl.experiment_file import read_experiment

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tutorial.md").read_text()
FILES = dict(re.findall(r"`([\w.]+)`:\n\n```(?:python|yaml)\n(.*?)```", PAGE, re.DOTALL))
INSTALL, *COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
SHORTER = {
    "corridor.yaml": {"steps: 160000": "steps: 2048"},
    "memories.yaml": {"seeds: [1, 2, 3]": "seeds: [1]", "episodes: 200": "episodes: 2"},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        for long, short in SHORTER.get(name, {}).items():
            assert text.count(long) == 1
            text = text.replace(long, short)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words, folder):
    """A line of the page in a shell whose `python` is this one."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    settings = {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words,
        shell=True,
        cwd=folder,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def heads(text):
    """The columns of the first table of a comparison."""
    (line, *_) = (line for line in text.splitlines() if line.startswith("┃ variant"))
    return re.findall(r"[\w %]*\w", line)


def test_the_page_is_read_as_it_is_meant():
    assert list(FILES) == ["corridor.py", "corridor.yaml", "memories.yaml", "act.py"]
    assert [words.split()[:3] for words in COMMANDS] == [
        ["python", "-m", "ct_rl.train"],
        ["python", "-m", "ct_rl.experiment"],
        ["python", "-m", "ct_rl.evaluate"],
        ["python", "act.py"],
    ]
    packages = INSTALL.splitlines()[-1]
    assert packages.replace("-e .", "-e '.[dev]'") in (ROOT / "CONTRIBUTING.md").read_text()


def test_three_memories_are_compared(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    experiment = read_experiment("memories.yaml", ["corridor"])
    assert [variant.name for variant in experiment.variants] == ["identity", "compressive", "lstm"]


@pytest.mark.slow
def test_the_files_and_commands_work_one_after_the_other(folder):
    train, experiment, evaluate, act = COMMANDS
    run(train, folder)
    # One variant of three here: starting programs is what takes the time.
    text = (folder / "memories.yaml").read_text()
    (folder / "memories.yaml").write_text(re.sub(r"  (identity|lstm): .*\n", "", text))
    table = run(experiment, folder)
    assert "compressive" in table and heads(table) == heads(PAGE)
    results = json.loads((folder / "runs" / "memories" / "results.json").read_text())
    assert list(results["variants"]) == ["compressive"] and results["chance"] == 0.5
    assert (folder / "runs" / "memories" / "comparison.png").exists()
    run(evaluate, folder)
    (video,) = (folder / "runs" / "first" / "videos").glob("*.mp4")
    assert video.stat().st_size > 1000
    assert re.fullmatch(r"reward [01]\.0\n", run(act, folder))
    example = f"python {ROOT / 'examples' / 'act_without_ray.py'} runs/first --import corridor"
    assert "2 episodes: mean return" in run(f"{example} --episodes 2", folder)
