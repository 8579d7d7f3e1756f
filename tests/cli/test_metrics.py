"""One table of figures: everything that reports reads it, and what nobody listed appears by itself."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from ct_rl import metrics
from ct_rl.comparison import _label
from ct_rl.curves import draw_curves
from ct_rl.display import LiveDisplay, plain_line
from ct_rl.events import EventFile
from ct_rl.progress import Progress
from ct_rl.scores import EnvFacts, env_facts

ROOT = Path(__file__).parents[2]
COUNTS = ("gems", "loss")
ROW = {
    "steps": 10,
    "frames": 40,
    "steps_per_second": 5.0,
    "seconds": 3.0,
    "episodes": 2,
    "return": 1.5,
    "gems": 4.25,
    "policy_loss": 0.125,
    "surprise_loss": 0.75,
    "warmth": 12.5,
}


def test_keys_are_unique_and_every_row_is_complete():
    assert len({row.key for row in metrics.METRICS}) == len(metrics.METRICS)
    for row in metrics.METRICS:
        assert row.label and row.meaning.endswith(".") and row.text(1.0)
        assert row.panel in ("", *metrics.PANELS)


def test_the_page_is_the_table():
    assert (ROOT / "docs" / "metrics.md").read_text() == metrics.page()


def test_figures_that_nobody_listed_are_described():
    loss, count, other = (
        metrics.metric(key, COUNTS) for key in ("surprise_loss", "gems", "warmth")
    )
    assert (loss.panel, loss.group, loss.short) == (metrics.LOSSES, "learner", "surprise")
    assert (count.panel, count.group, count.label) == (metrics.COUNTS, "episode", "gems / episode")
    assert (other.panel, other.group) == ("", "learner")
    assert metrics.metric("gems").group == "learner"  # where no environment names it


def test_they_appear_in_lines_tables_curves_events_and_comparisons(tmp_path, monkeypatch):
    line = plain_line(ROW, 100, counts=COUNTS)
    assert "gems 4.25" in line and "surprise 0.7500" in line and "policy 0.1250" in line
    console = Console(file=io.StringIO(), width=100)
    console.print(LiveDisplay(100, "t", console, COUNTS).render(ROW))
    shown = console.file.getvalue()
    assert "gems / episode" in shown and "surprise loss" in shown and "warmth" in shown

    drawn = []
    from matplotlib.axes import Axes

    plot = Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda self, *a, **k: drawn.append((self.get_title(), k["label"])) or plot(self, *a, **k)
    )  # fmt: skip
    draw_curves(tmp_path / "c.png", [ROW, {**ROW, "steps": 20}], "a $title", 4, COUNTS)
    assert (metrics.COUNTS, "gems") in drawn and (metrics.LOSSES, "surprise") in drawn
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventFile(tmp_path / "board", counts=COUNTS)
    events.add(ROW, 10)
    events.close()
    read = EventAccumulator(str(tmp_path / "board")).Reload()
    assert {"episode/gems", "learner/surprise_loss", "run/frames"} <= set(read.Tags()["scalars"])
    assert read.Scalars("episode/gems")[0].value == 4.25
    assert _label("gems") == "gems / episode" and _label("return") == "return"


def test_a_resumed_event_file_takes_later_points_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, steps in ((0, (10, 20, 30)), (10, (15,))):
        events = EventFile(tmp_path, first)
        for step in steps:
            events.add({"steps": step, "return": float(step)}, step)
        events.close()
    points = EventAccumulator(str(tmp_path)).Reload().Scalars("episode/return")
    assert [point.step for point in points] == [10, 15]


def test_curves_leave_out_what_has_no_value(tmp_path):
    draw_curves(tmp_path / "none.png", [], "t", 1)
    assert not (tmp_path / "none.png").exists()
    draw_curves(tmp_path / "c.png", [{"steps": 1, "return": None}, {"steps": 2}], "t", 1)
    assert (tmp_path / "c.png").exists()


def report(steps, *episodes, **figures):
    return {"steps": steps, "episodes": list(episodes), **figures}


def test_progress_counts_and_means_over_the_last_hundred_episodes():
    facts = EnvFacts(action_repeat=4, episode_metrics=("gems", "steps"), score_range=(0.0, 10.0))
    progress = Progress(facts)
    progress.add(report(100, *({"return": 0.0, "length": 5} for _ in range(10)), updates=3))
    for i in range(100):
        gems = {"gems": 2.0} if i % 2 else {}
        progress.add(
            report(200 + i, {"return": 5.0, "length": 7, "steps": 9.0, **gems}, value_loss=0.5)
        )
    row = progress.row()
    assert (row["steps"], row["frames"], row["episodes"], row["updates"]) == (299, 1196, 110, 3)
    assert row["return"] == 5.0 and row["length"] == 7 and row["human_normalised"] == 50.0
    assert row["gems"] == 2.0  # over the episodes that gave it
    assert row["episode_steps"] == 9.0  # an environment's count of the name of a figure of ours
    assert row["value_loss"] == 0.5 and row["return_best_mean"] == 5.0 == row["return_best_episode"]


def test_progress_goes_on_from_its_state():
    facts = EnvFacts()
    before = Progress(facts)
    before.add(report(50, *({"return": float(i), "length": 1} for i in range(30)), updates=2))
    before.row()
    after = Progress(facts)
    after.load(before.state())
    assert after.state() == {**before.state(), "seconds": pytest.approx(after.seconds, abs=5)}
    assert after.seconds >= before.state()["seconds"] - 1
    after.add(report(40))  # a counter never falls
    assert after.steps == 50 and after.score == before.score == pytest.approx(14.5)
    for broken in (
        {},
        {**before.state(), "recent": [{"length": 1}]},
        {**before.state(), "steps": "x"},
    ):
        with pytest.raises((KeyError, ValueError)):
            Progress(facts).load(broken)


def test_a_score_needs_enough_episodes():
    progress = Progress(EnvFacts())
    progress.add(report(1, *({"return": 1.0, "length": 1} for _ in range(19))))
    assert progress.score is None and "return_best_mean" not in progress.row()
    progress.add(report(2, {"return": 1.0, "length": 1}))
    assert progress.score == 1.0 and progress.row()["return_best_mean"] == 1.0


def test_facts_of_an_environment_have_defaults():
    assert env_facts({}) == EnvFacts()
    assert env_facts({"score_range": (1, 2), "action_repeat": 4}).score_range == (1.0, 2.0)
    for bounds in ((1, 1), (1,), (), 3, (0.0, float("nan")), ("low", "high")):
        with pytest.raises(ValueError, match="two different numbers"):
            env_facts({"score_range": bounds})
