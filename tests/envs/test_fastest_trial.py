"""The search for fast trials: what it plans is what the environment plays, and what its report says."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def planner(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("fastest_trial")
    sys.modules.pop("fastest_trial", None)


def test_a_small_search_is_faster_than_straight_play_and_is_played_as_planned(
    planner, monkeypatch, tmp_path, capsys
):
    out = tmp_path / "found.json"
    words = ["--beam", "30", "--trials", "2", "--actions", "impala", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["fastest_trial.py", *words])
    planner.main()
    report = json.loads(out.read_text())
    assert "--beam 30 --trials 2" in report["command"] and report["commit"] and report["machine"]
    assert report["engine"] == "embedded" and "the embedded level" in capsys.readouterr().out
    (found,) = report["sets"]
    first, second = found["episodes"]["seed 0"]["choice_frames"]
    assert 90 < first < 111 and 90 < second - first < 112
    played = found["replay"]["rewarded_frames"]
    assert second in played and found["replay"]["return"] >= 22
    for side in ("left", "right"):
        trial = found["first_trial"][side]
        assert trial["pad_frame"] <= 56
        assert trial["agent_steps"] - len(trial["actions"]) in (0, 1)  # one more if any action does


def test_a_plan_that_the_environment_does_not_play_is_an_error(planner):
    steps = planner.Planner("impala", 10).trials(planner.sides_of(0, 1))
    pad, choice, actions = steps[0]
    idle = (8,) * (180 - len(actions))
    assert planner._proof("impala", 0, actions + idle, steps)["return"] >= 11
    with pytest.raises(RuntimeError, match="planned"):
        planner._proof("impala", 0, actions + idle, [(pad, choice + 1, actions)])


def test_sides_are_those_of_the_episode(planner):
    import envs

    sides = planner.sides_of(5, 3)
    env = envs.make_vec("dmlab_rooms_select", 1, engine="embedded", height=4, width=4)
    info = env.reset(seed=5)[1]
    assert ("right", "left").index(info["match_side"][0]) == sides[0]


def test_the_committed_report_is_what_the_page_says():
    report = json.loads((ROOT / "benchmarks" / "fastest_trial.json").read_text())
    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    assert {row["actions"] for row in report["sets"]} == {"impala", "extended"}
    for row in report["sets"]:
        trial, episode = row["first_trial"]["left"], row["episodes"]["seed 0"]
        cells = (
            trial["pad_frame"],
            trial["choice_frame"],
            trial["agent_steps"],
            episode["choice_frames"][-1],
            f"{row['replay']['return']:g}",
        )
        assert f"| `{row['actions']}` | " + " | ".join(map(str, cells)) + " |" in page
        assert row["first_trial"]["right"]["choice_frame"] == trial["choice_frame"]
