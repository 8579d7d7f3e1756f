"""docs/rllib.md on restoring a policy: the program there gives the same actions every time."""

import re
from pathlib import Path

import torch

PAGE = (Path(__file__).parents[2] / "docs" / "rllib.md").read_text()


def test_the_program_of_the_page_ends_in_the_same_place_every_time(trained):
    run, _, _ = trained
    section = PAGE.split("## Restore a policy")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    assert code.count('"runs/NAME"') == 1
    ends = []
    for _ in range(2):
        names = {}
        exec(compile(code.replace('"runs/NAME"', repr(str(run))), "rllib.md", "exec"), names)
        ends.append((names["observation"], names["state"]))
    (seen, state), (again, same) = ends
    assert all((seen[key] == again[key]).all() for key in seen)
    assert all(torch.equal(state[key], same[key]) for key in state)
