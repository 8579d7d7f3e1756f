"""The page about runs: well-formed, self-contained, honest about what is missing; whatever the runs hold is text."""

import json
import re
import shlex
from html.parser import HTMLParser

import numpy as np
import pytest

from ct_rl import command_line, config_file, train
from ct_rl.colours import PALETTE, looks
from ct_rl.comparison import iqm, iqm_interval
from ct_rl.config import TrainConfig
from ct_rl.errors import UserError
from ct_rl.evaluation_file import write_evaluation
from ct_rl.report.__main__ import command
from ct_rl.report.charts import band, short, ticks
from ct_rl.report.groups import _names
from ct_rl.report.material import read_run
from ct_rl.sections import memory_section

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Fails on an element that is not closed in order; gathers what the tests ask for."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join("\n".join(self.texts).split())


def make_run(folder, seed=1, kind="gru", rate=None, env="CartPole-v1", rows=4, options=None):
    """A run's folder with reports and a checkpoint's name, as training leaves it."""
    config = TrainConfig()
    config.env.name, config.run.seed = env, seed
    config.memory = memory_section(kind)(**({} if rate is None else {"rate": rate}))
    config.env.options = options or {}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config_file.dump(config, {"torch": "2", "started": "now"}))
    lines = [
        {"steps": 100 * i, "seconds": i, "steps_per_second": 100.0, "return": float(i + seed),
         "entropy": 1 / i, "contrast_loss": 0.5}
        for i in range(1, rows + 1)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "checkpoints" / "step_000000000400").mkdir(parents=True)
    return folder


def evaluate(folder, mean, env="CartPole-v1", name="e", **more):
    score = {"episodes": 5, "mean": mean, "human_normalised": mean, "wins": 2.0}
    (folder / "evaluations").mkdir(exist_ok=True)
    write_evaluation(folder / "evaluations" / f"{name}.json",
                     {"env": env, "steps": 400, "scores": {"greedy": score}, **more})  # fmt: skip


def report(tmp_path, *runs, more=()):
    out = tmp_path / "out.html"
    assert command([*map(str, runs), "--out", str(out), *more]) == 0
    text = out.read_text(encoding="utf-8")
    return text, Page(text)


def test_seeds_are_one_group_with_a_band_and_groups_share_their_axes(tmp_path):
    runs = [make_run(tmp_path / f"g{seed}", seed) for seed in (1, 2, 3)]
    runs.append(make_run(tmp_path / "c", kind="compressive", rows=8))
    text, page = report(tmp_path, *runs)
    assert "4 runs in 2 groups" in page.text and "1, 2, 3" in page.text
    curve = re.search(r"<b>return \(mean of 100\).*?</figure>", text, re.DOTALL)[0]
    assert curve.count('class="band"') == 1 and curve.count('class="run"') == 3
    assert curve.count('class="line"') == 2  # the mean of three, and the single run
    assert "--c:var(--green)" in curve and "--c:var(--blue)" in curve
    for shown in (
        "contrast loss",
        "Settings that differ",
        "memory.kind",
        "no bound",
        "6.00",
        "9.00",
    ):
        assert shown in page.text
    every = re.findall(r'<svg viewBox="0 0 360 210".*?</svg>', text, re.DOTALL)
    assert len(every) == 4 and all(">800<" in chart for chart in every)


def test_the_page_is_self_contained(tmp_path):
    run = make_run(tmp_path / "run", kind="compressive")
    evaluate(run, 9.5)
    (run / "videos").mkdir()
    (run / "videos" / "a.mp4").write_bytes(b"\0\0\0 ftypisom" + b"x" * 5000)
    text, page = report(tmp_path, run)
    assert not re.search(r"https?:|//\w|@import|url\(", text)
    assert "script" not in page.tags and "link" not in page.tags
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name == "src":
            assert value.startswith("data:video/mp4;base64,")
        if name == "href":
            assert value.startswith("#") and ("id", value[1:]) in page.attributes
    assert page.tags.count("video") == 1
    policy = dict(page.attributes)["content"]
    assert "default-src 'none'" in policy


def test_an_evaluation_of_the_level_as_it_is_counts_before_others(tmp_path):
    run = make_run(tmp_path / "run")
    for name, mean, options in (("a", 7.125, {}), ("b", 99.0, {"max_episode_steps": 5})):
        evaluate(run, mean, name=name, env_options=options)
    found = read_run(run, []).evaluations
    assert [each.scores["greedy"]["mean"] for _, each in found[:2]] == [7.125, 99.0]


def test_an_evaluation_of_an_earlier_checkpoint_is_said_to_be_one(tmp_path):
    run = make_run(tmp_path / "gru_seed1" / "run")
    evaluate(run, 7.0)
    assert read_run(run, []).notes == []
    (run / "checkpoints" / "step_000000000900").mkdir()
    found = read_run(run, [])
    (note,) = found.notes
    assert "it was evaluated at 400 steps, and its last checkpoint has 900: python -m" in note
    assert found.name == "gru_seed1/run"  # as an experiment calls the folders of all its runs


def test_texts_of_runs_are_texts(tmp_path):
    bad = '<script>alert("x")</script>&"\u202e'
    run = make_run(tmp_path / "<img src=x onerror=y>", options={"note": bad, "</style>": 1})
    evaluate(run, 1.0, env=bad, env_options={bad: bad}, name="<b>")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"steps": 900, "<i>_loss": 1.0, "x\u0000y": 2.0}) + "\n")
    text, page = report(tmp_path, run)
    assert "script" not in page.tags and "img" not in page.tags and "i" not in page.tags
    assert '<script>alert("x")</script>' in page.text and "\0" not in text
    assert "\u202e" not in text.replace("&#8238;", "")


def test_the_command_on_the_page_repeats_the_run(tmp_path, monkeypatch):
    run = make_run(tmp_path / "a run's", kind="compressive", rate=8)
    _, page = report(tmp_path, run)
    line = next(part for part in page.texts if part.startswith("python -m ct_rl.train"))
    words = shlex.split(line)
    given = []
    monkeypatch.setattr(train, "_train", lambda config, **more: given.append(config) or 0)
    train.command(words[3:])
    (config,) = given
    assert config.run.run_dir == f"{run}_again"
    config.run.run_dir = None
    assert config_file.to_plain(config) == config_file.to_plain(
        config_file.read_run(run / "config.yaml")
    )


def test_what_is_missing_or_broken_is_said_and_the_rest_is_reported(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    (run / "checkpoints" / "step_000000000400").rmdir()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"steps": 5, "ret\n[1]\n\n{"steps": 500, "return": 1e999}\n')
        file.write(json.dumps({"steps": 600, "return": 10**400, "entropy": 0.25}) + "\n")
    (run / "evaluations").mkdir()
    (run / "evaluations" / "e.json").write_text("[]")
    (run / "videos").mkdir()
    (run / "videos" / "large.mp4").write_bytes(b"\0\0\0 ftyp" + b"x" * 3_000_000)
    (run / "videos" / "no.mp4").write_text("no film")
    empty = make_run(tmp_path / "empty", seed=2, rows=0)
    _, page = report(tmp_path, run, empty, more=("--video-mb", "1"))
    err = capsys.readouterr().err
    for said in (
        "run: 3 of the lines in metrics.jsonl are no report and left out",
        "run: it has no checkpoint",
        "an evaluation is left out",
        "large.mp4 (3.0 MB) is left out",
        "no.mp4 is no MP4 file",
        "empty: it has no reports yet",
        "empty: it was not evaluated",
    ):
        assert said in err and said in page.text
    assert all(line.startswith("note: ") for line in err.splitlines())
    assert "0.25" in page.text  # the last report's


def test_different_environments_are_said_and_never_share_a_picture(tmp_path, capsys):
    runs = [make_run(tmp_path / f"{env}{seed}", seed, env=env)
            for env in ("CartPole-v1", "Acrobot-v1") for seed in (1, 2)]  # fmt: skip
    for i, run in enumerate(runs):
        evaluate(run, 10.0 * i, env=runs[i].name[:-1])
    text, page = report(tmp_path, *runs)
    assert "of 2 different environments (CartPole-v1, Acrobot-v1)" in capsys.readouterr().err
    assert text.count("Curves over agent steps: ") == 4  # two headings, two links
    assert len(re.findall(r"<b>return \(mean of 100\)", text)) == 2
    assert "gru, 2 environments" in page.text  # human-normalised scores over both


def test_names_are_as_short_as_tells_groups_apart():
    def one(env="E", **memory):
        return {"env.name": env, **{f"memory.{key}": value for key, value in memory.items()}}

    lstm, four, eight = one(kind="lstm"), one(kind="x", rate=4, w=1), one(kind="x", rate=8, w=1)
    assert _names([four]) == ["x, rate 4"]
    assert _names([lstm, four, eight]) == ["lstm", "x, rate 4", "x, rate 8"]
    assert _names([four, {**four, "memory.w": 2}]) == ["w 1", "w 2"]
    assert _names([lstm, {**lstm, "env.name": "F"}]) == ["lstm, E", "lstm, F"]
    assert len(set(_names([{**four, "memory.w": "long" * 30 + str(i)} for i in range(3)]))) == 3


def test_evaluations_scores_and_memory_are_shown(tmp_path):
    runs = [make_run(tmp_path / f"c{seed}", seed, kind="compressive") for seed in (1, 2)]
    memory = {"buckets": [[0.1] * 6] * 2, "shares": [[0.25, 0.25, 0.5]] * 2,
              "compression_loss": [0.125, 0.25]}  # fmt: skip
    evaluate(runs[0], 3.0, memory=memory, name="old", steps=100)
    evaluate(runs[0], 5.0, memory=memory)
    evaluate(runs[1], 8.0, memory=memory)
    text, page = report(tmp_path, *runs)
    for shown in ("5.00", "8.00", "6.50", "wins / episode", "0.1250", "0.2500",
                  "compressed memory 25 %, memory 25 %, window 50 %", "336 steps a layer, 3 layers"):  # fmt: skip
        assert shown in page.text
    assert text.count('class="part1"') == 4  # two layers, two buckets of the memory
    assert 'class="interval"' in text


def test_a_folder_that_is_no_run_is_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    run = str(make_run(tmp_path / "run"))
    for words, says in (
        ([str(tmp_path / "folder")], "is no run: it holds no config.yaml"),
        ([run, str(tmp_path / "gone")], "not found"),
        ([], "RUNS: is missing"),
        ([run, "--out", str(tmp_path)], "is a folder: give a file"),
        ([run, "--out", str(tmp_path / "no" / "r.html")], "there is no folder"),
        ([run, "--video-mb", "-1"], "is too small"),
    ):
        with pytest.raises(UserError) as caught:
            command(words)
        assert says in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


def test_a_folder_counts_once(tmp_path):
    run = make_run(tmp_path / "run")
    _, page = report(tmp_path, run, f"{run}/", tmp_path / "run" / ".." / "run")
    assert "1 run in 1 group" in page.text


def test_a_strangers_run_imports_nothing(tmp_path):
    run = make_run(tmp_path / "run", env="antigravity:Thing-v0")
    with pytest.raises(UserError, match="add --import antigravity"):
        command([str(run)])
    assert command_line.take_values(["--import", "a", "b"], "--import") == ["a", "b"]


def test_iqm_is_the_mean_of_the_middle_half():
    assert iqm([0, 1, 2, 3, 4, 5, 6, 100]) == 3.5
    assert iqm([1.0, 2.0, 6.0]) == 3.0
    assert iqm_interval([[1.0]]) is None


def test_the_bootstrap_draws_within_each_stratum():
    low, high = iqm_interval([[0.0, 0.0], [1.0, 1.0]])
    assert low == high == 0.5  # runs of one environment never stand in for another's
    low, high = iqm_interval([[0.0, 1.0, 0.0, 1.0]])
    assert low < 0.5 < high


def test_bands_hold_their_mean_and_end_where_the_shortest_run_does():
    curves = [np.array([[0.0, a], [10.0 + 10 * a, a]]) for a in (0.0, 1.0, 2.0)]
    steps, mean, low, high = band(curves).T
    assert steps[-1] == 10 and mean == pytest.approx(1.0)
    assert (low <= mean).all() and (mean <= high).all() and low[0] == 0 and high[0] == 2
    assert band(curves[:1]) is None


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 2e7), (1e-7, 2e-7), (5, 5), (0.1, 0.11)])
def test_ticks_are_round_few_and_inside(low, high):
    marks = ticks(low, high, 5)
    assert 1 <= len(marks) <= 6
    assert all(low - 1e-9 <= at <= high * (1 + 1e-9) for at in marks)
    assert len({short(at) for at in marks}) == len(marks)


def test_a_memory_or_rate_has_one_colour_everywhere():
    alone = looks([("lstm", None)])[0].colour
    beside = looks([("compressive", 4), ("lstm", None), ("compressive", 4)])
    assert beside[1].colour == alone
    assert beside[0].colour == beside[2].colour and beside[0].dash != beside[2].dash
    rates = looks([("compressive", rate) for rate in (1, 2, 4, 8)])
    assert len({look.colour for look in rates}) == 4 and rates[2] == beside[0]
    assert len({look.colour for look in looks([("gru", None)] * 8)}) == len(PALETTE)
