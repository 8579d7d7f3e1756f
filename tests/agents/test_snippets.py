"""Every Python snippet of these pages runs as it is written, each by itself, with less training."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/memory.md", "docs/watching.md", "docs/rllib.md")
SHORTER = {
    "algo.steps < 20_000": "algo.steps < 1",
    '"num_env_steps_sampled_lifetime": 4000': '"num_env_steps_sampled_lifetime": 200',
    "grid_search([1, 2, 4])": "grid_search([1, 2])",
    "train_batch_size_per_learner=512": "train_batch_size_per_learner=256",
    '"runs/NAME"': '"pretrained:rooms_select"',
}
ELSEWHERE = "import onnxruntime"  # tests/cli/test_onnx.py runs that one
GOES_ON = {"core.step(": "core = build_memory("}  # a snippet of its page that comes before it


def snippets():
    for page in PAGES:
        codes = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)
        assert codes, page
        for i, code in enumerate(codes):
            if ELSEWHERE in code:
                continue
            for what, before in GOES_ON.items():
                if what in code and before not in code:
                    code = "".join(c for c in codes[:i] if before in c) + code
            yield pytest.param(code, id=f"{page}-{i}")


@pytest.mark.parametrize("code", list(snippets()))
def test_a_snippet_runs_as_it_is_written(code, cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given, less in SHORTER.items():
        code = code.replace(given, less)
    code = code.replace("tune.RunConfig(", f"tune.RunConfig(storage_path={str(tmp_path)!r}, ")
    found = {}
    exec(compile(code, "snippet", "exec"), found)
    if "algo.stop()" not in code and "algo" in found:
        found["algo"].stop()
    if "algo" not in found and "results" not in found and "config" in found:
        found["config"].validate()
