"""What `fault_tolerance(...)` says of a runner's process that dies, on the fast path."""

import pytest
import ray

from agents import RunnerFailed
from tests.agents.test_impala import train_until

NO_MORE = {"restart_failed_env_runners": False}
GO_ON = {**NO_MORE, "ignore_env_runner_failures": True}


def kill(algo, count):
    actors = list(algo.env_runner_group._worker_manager.actors().values())
    for actor in actors[:count]:
        ray.kill(actor, no_restart=False)


def trained(build, algorithm, **faults):
    batch = 80 if algorithm == "ppo" else 40
    algo = build(
        runners=2, algorithm=algorithm, train_batch_size_per_learner=batch, fault_tolerance=faults
    )
    train_until(algo, lambda r: r["steps"] > 200)
    return algo


def failure(algo):
    with pytest.raises(RunnerFailed) as caught:
        train_until(algo, lambda r: False, seconds=60)
    (line,) = str(caught.value).splitlines()
    return line


def test_training_ends_with_a_runner_or_goes_on_with_the_others(build):
    algo = trained(build, "impala", **GO_ON)
    kill(algo, 1)
    steps = algo.steps
    report = train_until(algo, lambda r: r["steps"] > steps + 400 and r["runners_away"])
    assert report["runners_away"] == 1 and report["restarted_runners"] == 0
    kill(algo, 2)
    assert "no environment runner is left" in failure(algo)


def test_training_ends_with_a_runner_where_it_may_not_be_missed(build):
    algo = trained(build, "impala", **NO_MORE)
    kill(algo, 1)
    assert "the process of an environment runner died" in failure(algo)


def test_training_ends_when_no_runner_may_be_started_any_more(build):
    algo = trained(build, "ppo", max_num_env_runner_restarts=0)
    kill(algo, 2)
    assert "no environment runner is left" in failure(algo)
