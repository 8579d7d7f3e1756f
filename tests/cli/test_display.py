"""The live table of a terminal; plain lines are tested with the run that prints them."""

import io

import pytest
from rich.console import Console

from ct_rl.display import LiveDisplay, counting, open_display, time_left
from ct_rl.metrics import duration

ROW = {
    "steps": 500,
    "frames": 2000,
    "steps_per_second": 50.0,
    "seconds": 61.0,
    "episodes": 7,
    "return": 6.5,
    "human_normalised": 9.4,
    "policy_lag": 1.0,
}


def test_the_table_has_every_number_whole_on_a_narrow_terminal():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    console.print(LiveDisplay(1000, "title", console).render(ROW))
    lines = console.file.getvalue().splitlines()
    text = "\n".join(lines)
    for part in ("500 of 1,000 agent steps", "2,000 frames", "50 steps/s", "10s left", "6.50"):
        assert part in text.replace("\n", " ") or part in text
    assert "return (mean of 100)" in text and "human-normalised" in text
    assert not any("━" in line and "return" in line for line in lines)


def test_closed_standard_output_is_no_terminal(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    with open_display(10, "a run") as display:
        display.note("nobody reads it")
    with counting("episodes", 5, "episodes") as count:
        count()


@pytest.mark.parametrize(("seconds", "shown"), [(9.9, "9s"), (310, "5m 10s"), (3900, "1h 05m")])
def test_durations_read_well(seconds, shown):
    assert duration(seconds) == shown


def test_the_time_left_is_the_nearer_of_goal_and_clock():
    assert time_left(ROW, 1000, None) == "10s"
    assert time_left(ROW, 1000, 4.0) == "4s"
    assert time_left({**ROW, "steps_per_second": 0.0}, 1000, None) == "?"
