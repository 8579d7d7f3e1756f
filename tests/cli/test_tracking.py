"""Trackers get what TensorBoard gets: the same names, numbers and steps. Doubles stand for the services."""

import os
import sys
import types

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ct_rl import tracking, train
from ct_rl.config import TrainConfig
from ct_rl.display import PlainDisplay
from ct_rl.errors import UserError
from ct_rl.interrupts import Interrupts
from ct_rl.progress import Progress
from ct_rl.run_folder import RunFolder
from ct_rl.scores import EnvFacts
from ct_rl.trainer import Trainer

FACTS = EnvFacts(action_repeat=4, episode_metrics=("gems",))


class Algorithm:
    """Ten steps a call, with a count of the environment's own and a loss that nobody listed."""

    steps = 0

    def train(self):
        self.steps += 10
        episode = {"return": 2.5, "length": 3, "gems": 7.0}
        return {"ct_rl": {"steps": self.steps, "episodes": [episode], "surprise_loss": 0.5}}

    def training_state(self):
        return {}, {"steps": self.steps}


class Run:
    """Takes what wandb's and trackio's runs take, and nothing else; steps must rise."""

    def __init__(self):
        self.rows, self.finished, self.fails = [], 0, None

    def log(self, metrics, step=None):
        if self.fails:
            raise self.fails
        assert not self.finished and type(step) is int
        assert all(type(value) is float and "/" in name for name, value in metrics.items())
        assert not self.rows or step > self.rows[-1][0]
        self.rows.append((step, dict(metrics)))

    def finish(self):
        self.finished += 1


@pytest.fixture(params=tracking.TRACKERS)
def tracker(request, monkeypatch):
    """A double of the package: `begun` has what `init` was given, `run` is what it gave."""
    double = types.ModuleType(request.param)
    double.run, double.begun, double.ended = Run(), [], []

    if request.param == "wandb":

        def init(*, project, group, config, dir, settings):
            assert settings == {"console": "off", "silent": True}
            double.begun.append((project, group, config, dir))
            return double.run

        double.Settings = dict
        double.teardown = lambda: double.ended.append(double.run.finished)
    else:

        def init(*, project, group, config):
            double.begun.append((project, group, config))
            return double.run

    double.init = init
    monkeypatch.setitem(sys.modules, request.param, double)
    return double


def trainer(folder, track, out=None):
    config = TrainConfig()
    config.run.steps, config.run.report_seconds = 50, 1e-9
    run = RunFolder.create(folder)
    run.write_config(config, {})
    display = PlainDisplay(50, out=out or open(os.devnull, "w"))  # noqa: SIM115
    return Trainer(config, run, Algorithm(), Progress(FACTS), display, Interrupts(), None, track)


def test_a_tracker_gets_what_tensorboard_gets(tracker, tmp_path):
    training = trainer(tmp_path / "run", tracker.__name__)
    assert training.train() is True
    project, group, config, *_ = tracker.begun[0]
    assert (project, group, len(tracker.begun), tracker.run.finished) == ("ct_rl", "run", 1, 1)
    assert config["run"]["steps"] == 50 and config["memory"]["kind"] == "compressive"
    assert tracker.ended == ([1] if tracker.__name__ == "wandb" else [])  # after it has finished
    board = EventAccumulator(str(training.run.events)).Reload()
    sent = {
        (step, name): value for step, metrics in tracker.run.rows for name, value in metrics.items()
    }
    shown = {
        (point.step, name): point.value
        for name in board.Tags()["scalars"]
        for point in board.Scalars(name)
    }
    assert sent == {key: pytest.approx(value, rel=1e-6) for key, value in shown.items()}
    assert {step for step, _ in sent} == {10, 20, 30, 40, 50}
    assert sent[50, "episode/gems"] == 7 and sent[50, "learner/surprise_loss"] == 0.5
    assert (50, "run/frames") in sent and not any(name.endswith("/steps") for _, name in sent)


def test_a_tracker_that_fails_ends_itself_and_not_the_run(tracker, tmp_path, capsys):
    tracker.run.fails = ConnectionError("the service\nis down")
    training = trainer(tmp_path / "run", tracker.__name__, out=sys.stdout)
    assert training.train() is True and len(training.run.read_metrics()) == 5
    said = capsys.readouterr().out
    assert said.count("stopped, training goes on: the service is down") == 1


def test_a_tracker_that_does_not_begin_is_one_line(tracker, tmp_path, monkeypatch):
    def init(**_):
        raise RuntimeError("no API key:\n log in first")

    monkeypatch.setattr(tracker, "init", init)
    with pytest.raises(UserError, match="does not begin: no API key: log in first"):
        trainer(tmp_path / "run", tracker.__name__).train()


def test_what_cannot_track_is_one_line_before_anything_is_made(tmp_path, monkeypatch):
    for name in tracking.TRACKERS:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match=rf"pip install 'ct_rl\[{name}\]'"):
            train.command(["--track", name, "--run-dir", str(tmp_path / "run")])
    with pytest.raises(UserError, match="choose one of wandb, trackio"):
        train.command(["--track", "comet", "--run-dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_the_command_that_goes_on_tracks_again(tmp_path):
    run = RunFolder(tmp_path)
    assert train._command(TrainConfig(), run, "wandb", "--steps", "9").endswith(" --track wandb")
    assert "--track" not in train._command(TrainConfig(), run, None)


@pytest.mark.slow
def test_wandb_itself_takes_it_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    training = trainer(tmp_path / "run", "wandb")
    kept = []
    log = wandb.Run.log
    monkeypatch.setattr(
        wandb.Run, "log", lambda self, *a, **k: kept.append(k) or log(self, *a, **k)
    )
    assert training.train() is True and [k["step"] for k in kept] == [10, 20, 30, 40, 50]
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert file.stat().st_size > 500 and b"episode/gems" in file.read_bytes()
    training.run.require()  # what wandb leaves there does not keep the run from being resumed
