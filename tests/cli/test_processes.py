"""A learner in a process of its own, killed; a run on a cluster that someone else started, and without Ray."""

import os
import signal

import psutil
import pytest
import ray
import torch

from ct_rl import checkpoint
from ct_rl.errors import RunFailed
from ct_rl.ray_session import ray_session
from tests.cli.conftest import RAY_HEAD, SMALL, command, finish, start, wait_for


def learner_of(process):
    """The run's learner process; None before it is there."""
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if any("_WrappedExecutable" in word for word in child.cmdline()):
                return child
        except psutil.NoSuchProcess:
            continue
    return None


def test_a_killed_learner_ends_the_run_in_one_line_and_the_run_goes_on_later(tmp_path):
    run = tmp_path / "run"
    process = start("ct_rl.train", *SMALL, "--steps", 10**7, "--run-dir", run, "--num-learners", 1)
    wait_for(lambda: len(checkpoint.steps(run / "checkpoints")) >= 2, 120, process)
    os.kill(learner_of(process).pid, signal.SIGKILL)
    status, out, err = finish(process, 120)
    assert status == 1, out + err
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "a learner process died" in said[0] and f"--resume {run}" in said[0]
    assert "Traceback" not in out + err
    kept, _ = checkpoint.load_last(run / "checkpoints")
    status, out, err = command(
        "ct_rl.train", "--resume", run, "--steps", kept.step + 200, "--num-learners", 0
    )
    assert status == 0, out + err
    assert checkpoint.load_last(run / "checkpoints")[0].step >= kept.step + 200


def test_a_run_joins_a_cluster_leaves_it_as_it_was_and_learns_what_one_without_ray_learns(tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 4, "object_store_memory": 10**8, **RAY_HEAD},
    )
    try:
        ends = []
        for name, words in (("cluster", ("--ray-address", cluster.address)), ("alone", ())):
            run = tmp_path / name
            status, out, err = command(
                "ct_rl.train", *SMALL, "--steps", 400, "--run-dir", run, *words
            )
            assert status == 0, out + err
            ends.append(checkpoint.load_last(run / "checkpoints")[0])
        assert ends[0].step == ends[1].step >= 400
        for key, value in ends[0].tensors.items():
            assert torch.equal(value, ends[1].tensors[key]), key
        assert cluster.head_node.any_processes_alive() and not cluster.head_node.dead_processes()
    finally:
        cluster.shutdown()


def test_an_address_where_no_cluster_answers(tmp_path):
    status, _, err = command(
        "ct_rl.train", *SMALL, "--run-dir", tmp_path / "run", "--ray-address", "127.0.0.1:9"
    )
    assert status == 2 and "--ray-address 127.0.0.1:9" in err.splitlines()[-1]


def test_without_processes_values_are_handed_over_until_somebody_starts_ray(monkeypatch):
    ray.shutdown()  # whatever tests before this one in the same process left running
    started = ray.put, ray.get
    monkeypatch.setattr(ray, "put", lambda value, **_: ("stored", value))
    monkeypatch.setattr(ray, "get", lambda stored, **_: stored[1])
    with ray_session(0):
        value = object()
        assert ray.get(ray.put(value)) is value and not ray.is_initialized()
        monkeypatch.setattr(ray, "is_initialized", lambda: True)  # an environment's own
        assert ray.put(value) == ("stored", value) and ray.get(ray.put(value)) is value
    assert ray.put(value) == ("stored", value)
    monkeypatch.undo()
    assert (ray.put, ray.get) == started


@pytest.mark.parametrize("kind", [RuntimeError, Exception])
def test_a_ray_that_does_not_start_says_why_at_the_end_of_its_trace(kind, monkeypatch):
    import ray

    def fails(**_):
        raise kind("Failed to start.\n" + 'File "node.py"\n' * 100 + "no token was shown")

    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(RunFailed) as error, ray_session(1):
        pass
    said = str(error.value)
    assert said.startswith("Ray did not start: Failed to start.") and len(said) < 450
    assert said.endswith("no token was shown")
