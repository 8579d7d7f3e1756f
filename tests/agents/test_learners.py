"""Learners in processes of their own: in step, fed through aggregators, and their failures in one line."""

import time

import pytest
import ray
import torch

from agents import LearnerDied, LearnerFailed, NonFinite
from tests.agents.test_impala import train_until


def weights(learner):
    net = learner.module["default_policy"].unwrapped().net
    return {key: x.clone() for key, x in net.state_dict().items()}


def fills(_):
    """Whether torch is deterministic in a process, as RLlib's seeding has it, and whether it fills new tensors."""
    filled = torch.utils.deterministic.fill_uninitialized_memory
    return torch.are_deterministic_algorithms_enabled(), filled


def poison(learner):
    with torch.no_grad():
        learner.module["default_policy"].unwrapped().net.value.bias.fill_(float("nan"))


def test_two_learners_stay_in_step_and_one_that_fails_is_named(build):
    algo = build(
        learners={"num_learners": 2},
        runners=2,
        lr=1e-3,
        auxiliary=["contrast", "recall"],
        loss_coeffs={"contrast": 0.0},
    )
    report = train_until(algo, lambda r: r.get("updates", 0) >= 5)
    assert "recall_loss" in report and "contrast_loss" not in report
    # Nothing new is sampled from here on: the learners come to rest.
    train_until(algo, lambda r: r["steps"] > 600)
    time.sleep(1.0)
    one, other = (answer.get() for answer in algo.learner_group.foreach_learner(weights))
    assert any(key.startswith("policy") for key in one)
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], msg=key)
    runners = algo.env_runner_group.foreach_env_runner(fills, local_env_runner=False)
    learners = [answer.get() for answer in algo.learner_group.foreach_learner(fills)]
    # RLlib's seeding asks only builds of torch without CUDA for deterministic algorithms.
    assert [*runners, *learners] == [(torch.version.cuda is None, False)] * 4
    algo.learner_group.foreach_learner(poison, remote_actor_ids=[0])
    with pytest.raises(NonFinite, match="NaN"):
        train_until(algo, lambda r: False)


def test_aggregators_pass_the_memory_on(build):
    algo = build(
        learners={"num_learners": 1, "num_aggregator_actors_per_learner": 1},
        memory="gru",
        lr=0.0,
    )
    for _ in range(3):
        report = train_until(algo, lambda r: "rho_mean" in r)
        assert report["rho_mean"] == pytest.approx(1.0, abs=1e-5)
    ray.kill(algo.learner_group._workers[0])
    with pytest.raises(LearnerDied, match="go on from the last checkpoint"):
        train_until(algo, lambda r: False)
    with pytest.raises(LearnerFailed):
        algo.training_state()


def test_unequal_shares_are_refused(build):
    with pytest.raises(
        ValueError, match=r"size_per_learner=50 is no whole .* each of 2 learners.: give 40 or 80"
    ):
        build(learners={"num_learners": 2}, train_batch_size_per_learner=50)
