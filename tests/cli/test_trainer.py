"""The training loop around a stand-in for the algorithm, and signals: when it reports, saves, draws and ends."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from agents.errors import NonFinite
from ct_rl import checkpoint
from ct_rl import interrupts as interrupts_module
from ct_rl.config import TrainConfig
from ct_rl.display import PlainDisplay
from ct_rl.errors import RunFailed, UserError
from ct_rl.interrupts import Interrupts
from ct_rl.progress import Progress
from ct_rl.run_folder import RunFolder
from ct_rl.scores import EnvFacts
from ct_rl.trainer import Trainer


class Algorithm:
    """Ten steps a call; `on_call` may do something before one."""

    def __init__(self, on_call=None):
        self.calls, self.steps, self.on_call = 0, 0, on_call or (lambda call: None)

    def train(self):
        self.calls += 1
        self.on_call(self.calls)
        self.steps += 10
        return {"ct_rl": {"steps": self.steps, "episodes": [{"return": 1.0, "length": 3}]}}

    def training_state(self):
        return {"weights/a": torch.full((2,), float(self.steps))}, {"steps": self.steps}

    def load_training_state(self, tensors, meta):
        self.steps = meta["steps"]
        if tensors["weights/a"][0] != self.steps:
            raise ValueError("another network")


@pytest.fixture
def make(tmp_path):
    def build(algorithm, interrupts=None, **run):
        config = TrainConfig()
        config.run.steps, config.run.report_seconds = 50, 1e-9
        for key, value in run.items():
            setattr(config.run, key, value)
        if not (tmp_path / "run").exists():
            made.append(RunFolder.create(tmp_path / "run"))
            made[-1].write_config(config, {})
        display = PlainDisplay(config.run.steps, out=open(os.devnull, "w"))  # noqa: SIM115
        return Trainer(
            config, made[0], algorithm, Progress(EnvFacts()), display, interrupts or Interrupts()
        )

    made = []
    yield build
    for run in made:
        run.close()


def test_it_ends_at_the_goal_with_everything_written(make):
    trainer = make(Algorithm())
    assert trainer.train() is True
    steps = [row["steps"] for row in trainer.run.read_metrics()]
    assert steps == [10, 20, 30, 40, 50]
    assert checkpoint.steps(trainer.run.checkpoints) == [0, 50]
    assert trainer.run.curves.exists() and list(trainer.run.events.iterdir())


def test_the_clock_may_end_it_first(make):
    trainer = make(Algorithm(lambda call: time.sleep(0.05)), minutes=0.002, steps=10**6)
    assert trainer.train() is True
    assert 0 < trainer.progress.steps < 200


def test_a_request_saves_and_ends(make):
    interrupts = Interrupts()

    def ask(call):
        interrupts.requested = call == 3

    trainer = make(Algorithm(ask), interrupts)
    assert trainer.train() is False
    saved, _ = checkpoint.load_last(trainer.run.checkpoints)
    assert saved.step == 30 == trainer.run.read_metrics()[-1]["steps"]
    again = make(Algorithm())
    again.restore(saved)
    assert again.train() is True and again.algorithm.calls == 2
    saved.meta["algorithm"]["steps"] = 31
    with pytest.raises(UserError, match="does not fit this configuration: another network"):
        again.restore(saved)


def test_a_runner_that_dies_and_one_that_is_there_again_are_a_line_each(make, monkeypatch):
    reports = ((0, 2), (1, 2), (1, 2), (0, 3), (0, 3))  # away, and started anew: 2 before a resume

    class Losing(Algorithm):
        def train(self):
            result = super().train()
            away, restarted = reports[self.calls - 1]
            result["ct_rl"] |= {"runners_away": away, "restarted_runners": restarted}
            return result

    trainer, said = make(Losing()), []
    trainer.config.runners.num_env_runners = 4
    monkeypatch.setattr(trainer.display, "note", said.append)
    monkeypatch.setattr(trainer.display, "show", lambda *_: None)
    trainer.train()
    assert said == [
        "environment runners that died: 1 of 4; they are started anew",
        "environment runner started anew: 4 of 4 are there",
    ]


def test_nothing_is_reported_twice(make):
    trainer = make(Algorithm())
    trainer.train()
    trainer.report()
    assert len(trainer.run.read_metrics()) == 5


def test_a_learner_that_fails_is_one_line_with_the_way_back(make):
    def fail(call):
        if call == 3:
            raise NonFinite("value_loss", 7)

    trainer = make(Algorithm(fail))
    with pytest.raises(RunFailed, match=r"value_loss became NaN.*at step 20.*--resume"):
        trainer.train()
    assert "NonFinite" in (trainer.run.path / "error.log").read_text()


@pytest.mark.parametrize("then", ["gone", "another"])
@pytest.mark.parametrize("call", [1, 3])
def test_a_run_folder_that_vanishes_ends_the_run_in_one_line(make, then, call):
    def remove(at):
        if at == call:
            shutil.rmtree(trainer.run.path)
            if then == "another":
                trainer.run.path.mkdir()

    trainer = make(Algorithm(remove), steps=10**6)
    with pytest.raises(UserError, match="was removed or replaced while the run was using it"):
        trainer.train()
    assert not trainer.run.path.exists() or not list(trainer.run.path.iterdir())
    assert trainer.algorithm.calls == call


@pytest.mark.parametrize("moment", ["write_synced", "_write_files", "_sync_folder", "_drop_old"])
def test_a_run_folder_that_vanishes_inside_a_save_is_one_line_too(make, monkeypatch, moment):
    trainer = make(Algorithm(), checkpoint_minutes=1e-9)
    trainer.save()
    real = getattr(checkpoint, moment)

    def vanishing(*args):
        shutil.rmtree(trainer.run.path, ignore_errors=True)
        return real(*args)

    monkeypatch.setattr(checkpoint, moment, vanishing)
    with pytest.raises(UserError, match="was removed or replaced while the run was using it"):
        trainer.train()
    assert not trainer.run.path.exists()


def test_a_folder_is_held_by_one_process_at_a_time(make):
    trainer = make(Algorithm())
    with pytest.raises(UserError, match=f"is being trained by process {os.getpid()}"):
        RunFolder.open(trainer.run.path)


def test_lines_of_metrics_that_are_no_reports_are_left_out(make):
    run = make(Algorithm()).run
    run.metrics.write_text(
        '{"steps": 1, "return": null}\n{"steps": true}\n{"steps": 2, "return": "x"}\n'
        '{"steps": 3, "return": Infinity}\n[]\n{"steps": 4, "return": 1.5}\n{"steps": 5'
    )
    assert [row["steps"] for row in run.read_metrics()] == [1, 4]
    assert [row["steps"] for row in run.cut_metrics(3)] == [1]
    run.append_metrics({"steps": 6, "return": float("nan")})
    assert run.read_metrics()[-1] == {"steps": 6, "return": None}


@pytest.fixture
def signals():
    """The handlers as they were before: a process that was interrupted ends with signals ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    yield lambda: [signal.signal(number, signal.SIG_DFL) for number in numbers]
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_that_come_together_are_one(monkeypatch, signals):
    clock = [100.0]
    monkeypatch.setattr(interrupts_module.time, "monotonic", lambda: clock[0])
    with Interrupts() as interrupts:
        interrupts.arm()
        for after in (0.0, 0.1, 0.19):
            clock[0] = 100.0 + after
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.requested
        clock[0] = 100.21
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_the_first_signal_asks_and_the_second_stops(capsys, signals, monkeypatch):
    monkeypatch.setattr(interrupts_module, "TOGETHER_SECONDS", 0.0)
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)  # nothing to save yet
    signals()
    with Interrupts() as interrupts:
        interrupts.arm()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.requested
        with interrupts.protected():
            os.kill(os.getpid(), signal.SIGINT)
        assert "saving and shutting down" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the way out is not broken off
    signals()
    with Interrupts() as interrupts:
        interrupts.arm()
        interrupts.finish()
        os.kill(os.getpid(), signal.SIGHUP)
        assert interrupts.requested


def test_before_and_after_the_handlers_are_the_old_ones():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Interrupts():
        pass
    assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


HANGS = """
import signal, sys, time
from ct_rl import interrupts
interrupts.LEAVE_SECONDS, interrupts.REMIND_SECONDS = 0.3, 0.2
with interrupts.Interrupts(lambda: "a runner (process 7, stopped)") as given:
    given.arm()
    print("ready", flush=True)
    try:
        while True:
            time.sleep(0.05)
    finally:
        time.sleep(1000)  # a way out that waits for somebody
"""


def test_a_way_out_that_hangs_ends_within_seconds_of_the_second_signal():
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.6)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "still waiting for a runner (process 7, stopped); once more stops" in err
    assert "ended without waiting any longer for a runner (process 7, stopped)" in err
    assert interrupts_module.LEAVE_SECONDS <= 5
