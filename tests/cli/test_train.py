"""Training as a process: the run folder, its ends by goal, signal and kill, and going on afterwards."""

import json
import os
import signal
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
import yaml

from ct_rl import checkpoint, config_file, reaper, train
from ct_rl.config import TrainConfig
from ct_rl.run_folder import RunFolder
from tests.cli.conftest import SMALL, command, finish, start, wait_for


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def begin(run, *words):
    process = start("ct_rl.train", *SMALL, "--steps", 10**7, "--run-dir", run, *words)
    wait_for(lambda: len(checkpoint.steps(run / "checkpoints")) >= 2, process=process)
    return process


def is_reaper(process):
    return any(word.endswith("reaper.py") for word in process.cmdline())


def folder_of(process):
    """The temporary folder of a running training, from its cleaner's command line."""
    (reaper,) = filter(is_reaper, psutil.Process(process.pid).children())
    return reaper.cmdline()[-2]


def helpers(process):
    """A running training's other processes, without its cleaner."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [child for child in found if not is_reaper(child)]


def test_a_run_folder_is_complete(trained):
    run, out, err = trained
    assert err == ""
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["env"]["engine"] == "embedded" and config["memory"]["rate"] == 4
    facts = config["provenance"]
    assert facts["engine"] == "embedded" and facts["torch"] and facts["ray"] and facts["python"]
    assert facts["env_settings"]["height"] == 72 and facts["env_settings"]["delay"] == 0
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    last = rows(run)[-1]
    assert last["steps"] >= 4000 and last["frames"] == 4 * last["steps"]
    for key in (
        "return",
        "return_best_mean",
        "human_normalised",
        "trials",
        "correct",
        "wrong",
        "policy_loss",
        "value_loss",
        "entropy",
        "compression_loss",
        "rho_mean",
        "policy_lag",
        "memory_bytes_per_runner",
        "steps_per_second",
    ):
        assert key in last, key
    assert f"--resume {run}" in out and f"ct_rl.evaluate {run}" in out


def test_output_that_is_no_terminal_is_plain_lines(trained):
    _, out, _ = trained
    assert "\x1b" not in out
    reports = [line for line in out.splitlines() if line.startswith("steps ")]
    assert reports
    for part in ("frames ", "steps/s", "left ", "return ", "human ", "correct ", "rho ", "lag "):
        assert part in reports[-1]


def test_tensorboard_reads_the_events(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, *_ = trained
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    points = events.Scalars("episode/return")
    assert points[-1].step == rows(run)[-1]["steps"]
    assert points[-1].value == pytest.approx(rows(run)[-1]["return"])


def test_a_run_repeats_from_its_own_configuration(trained):
    run, *_ = trained
    config, _ = config_file.read_recipe(str(run / "config.yaml"))
    assert config.run.run_dir is None and config.memory.d_model == 32


@pytest.mark.parametrize("threads", [1, 2])
def test_several_threads_are_said_with_what_is_faster_beside_other_programs(
    tmp_path, monkeypatch, capsys, threads
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    facts = SimpleNamespace(engine="", action_repeat=1)
    probe = SimpleNamespace(facts=facts)
    train._describe(TrainConfig(), RunFolder(tmp_path), "", probe, 1, gpu=False)
    assert ("OMP_NUM_THREADS=1 is faster" in capsys.readouterr().out) is (threads > 1)


def test_a_finished_run_says_how_to_go_on(trained):
    run, *_ = trained
    status, _, err = command("ct_rl.train", "--resume", run)
    assert status == 2 and f"--resume {run} --steps" in err and len(err.splitlines()) == 1


def test_a_resumed_run_keeps_its_optimiser(trained):
    run, *_ = trained
    status, _, err = command("ct_rl.train", "--resume", run, "--optimizer", "rmsprop")
    assert status == 2 and "training.optimizer = 'adam', not 'rmsprop'" in err


def test_sigterm_then_a_damaged_checkpoint_then_kill_9_then_on_to_the_goal(tmp_path):
    run = tmp_path / "run"
    process = begin(run)
    folder = folder_of(process)
    assert not helpers(process)  # no Ray, where nothing runs elsewhere
    os.kill(process.pid, signal.SIGTERM)
    status, out, err = finish(process, 60)
    assert status == 130 and "Traceback" not in out + err
    assert f"python -m ct_rl.train --resume {run}" in out
    saved, damaged = checkpoint.load_last(run / "checkpoints")
    assert saved.step == rows(run)[-1]["steps"] and not damaged
    assert not os.path.exists(folder) and not reaper.processes_of(folder, os.getpid())

    weights = saved.path / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    before, _ = checkpoint.load_last(run / "checkpoints")
    with open(run / "metrics.jsonl", "a") as file:  # a line cut short
        file.write('{"steps": 99')
    process = start("ct_rl.train", "--resume", run, "--num-env-runners", 1)
    wait_for(lambda: checkpoint.steps(run / "checkpoints")[-1] > saved.step, process=process)
    folder = folder_of(process)
    environments = [child.environ() for child in helpers(process)]
    assert {env["TMPDIR"] for env in environments if "TMPDIR" in env} == {folder}
    os.killpg(process.pid, signal.SIGKILL)
    _, out, err = finish(process, 30)
    assert f"warning: {weights}" in err and f"going on from {before.path}" in out
    wait_for(lambda: not os.path.exists(folder), 20)
    assert not reaper.processes_of(folder, os.getpid())

    kept, _ = checkpoint.load_last(run / "checkpoints")
    with open(run / "metrics.jsonl", "a") as file:  # a report past the checkpoint
        file.write(json.dumps({"steps": kept.step + 1, "episodes": 1}) + "\n")
    more = ("--steps", kept.step + 200, "--num-env-runners", 0)
    began = config_file.read_provenance(run / "config.yaml")
    status, out, err = command("ct_rl.train", "--resume", run, *more)
    assert status == 0, out + err
    told = config_file.read_provenance(run / "config.yaml")
    assert [again["step"] for again in told.pop("resumed")] == [before.step, kept.step]
    began.pop("resumed")
    assert told == began and told["recipe"]
    steps = [row["steps"] for row in rows(run)]
    assert steps == sorted(set(steps)) and kept.step + 1 not in steps
    assert steps[0] <= before.step and steps[-1] >= kept.step + 200
    last, _ = checkpoint.load_last(run / "checkpoints")
    for count in ("steps", "updates", "seconds"):
        assert last.meta["progress"][count] > kept.meta["progress"][count], count
    assert any(not torch.equal(last.weights[k], kept.weights[k]) for k in kept.weights)


def test_signals_again_and_again_do_not_corrupt(tmp_path):
    run = tmp_path / "run"
    process = begin(run)
    folder = folder_of(process)
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.1)
    status, out, err = finish(process, 60)
    assert "Traceback" not in out + err and status == 130
    found, damaged = checkpoint.load_last(run / "checkpoints")
    assert found is not None and not damaged
    wait_for(lambda: not reaper.processes_of(folder, os.getpid()), 20)


def test_a_resumed_algorithm_has_the_optimiser_and_the_counters_of_the_checkpoint(trained):
    """Through the algorithm itself: what a fresh one is given it holds, and a step later it has moved on."""
    import ray

    from ct_rl.algorithm import build_algorithm
    from ct_rl.ray_session import ray_session

    run, *_ = trained
    config = config_file.read(run / "config.yaml")
    config.runners.num_env_runners = 0
    config.run.steps *= 2
    saved, _ = checkpoint.load_last(run / "checkpoints")
    assert any(key.startswith("optimizer/") for key in saved.tensors)
    ray.shutdown()  # whatever tests before this one in the same process left running
    with ray_session(0):
        algorithm = build_algorithm(config)
        try:
            fresh, before = algorithm.training_state()
            assert before["steps"] == 0 and saved.step >= 4000
            weights = [key for key in fresh if key.startswith("weights/")]
            assert any(not torch.equal(fresh[key], saved.tensors[key]) for key in weights)
            algorithm.load_training_state(saved.tensors, saved.meta["algorithm"])
            tensors, meta = algorithm.training_state()
            assert set(tensors) == set(saved.tensors)
            for key, value in saved.tensors.items():
                assert torch.equal(tensors[key], value), key
            assert meta["steps"] == saved.step == saved.meta["algorithm"]["steps"]
            report = algorithm.train()["ct_rl"]
            assert report["steps"] > saved.step
            assert report["updates"] > saved.meta["progress"]["updates"]
            assert not ray.is_initialized()  # no process that nobody asked for
        finally:
            algorithm.stop()
