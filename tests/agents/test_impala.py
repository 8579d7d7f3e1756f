"""The algorithm end to end: real runners, a real learner, on the counting environment."""

import time

import numpy as np
import pytest
import ray
import torch

from agents import LearnerFailed, NonFinite, RunnerFailed
from agents.rllib.impala import MemoryIMPALALearner
from tests.agents.conftest import CONFIGS


def train_until(algo, ready, seconds=900):
    """Reports until `ready(report)`; fails after `seconds`, a bound for what would hang."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        report = algo.train()["ct_rl"]
        if ready(report):
            return report
    raise AssertionError(f"not within {seconds} s; the last report was {report}")


@pytest.mark.parametrize("algorithm", CONFIGS)
def test_without_learning_acting_and_learning_agree(build, algorithm):
    algo = build(lr=0.0, algorithm=algorithm)
    for _ in range(5):
        report = train_until(algo, lambda r: "rho_mean" in r)
        assert report["rho_mean"] == pytest.approx(1.0, abs=1e-5)


def test_the_report_counts_steps_and_episodes(build):
    algo = build()
    report = train_until(algo, lambda r: r["steps"] >= 400)
    before = report["steps"]
    report = train_until(algo, lambda r: len(r["episodes"]) > 0)
    assert report["steps"] >= before
    for episode in report["episodes"]:
        assert 7 <= episode["length"] <= 10
        assert episode["return"] == episode["hits"]
    assert report["memory_bytes_per_runner"] == 4 * 2 * 16 * 4  # h and c of 4 rows, float32
    report = train_until(algo, lambda r: "policy_loss" in r)
    for key in (
        "policy_loss",
        "value_loss",
        "entropy",
        "rho_mean",
        "policy_lag",
        "target_mean",
        "grad_norm",
        "learning_rate",
    ):
        assert np.isfinite(report[key]), key
    assert report["updates"] >= 1


def test_the_agent_learns_to_remember_its_cue(build):
    # What is right now decides the reward now: looking further ahead only adds noise.
    algo = build(lr=1e-2, gamma=0.5, entropy_coeff=0.01, envs=16)
    scores = []

    def solved(report):
        scores.extend(e["return"] / e["length"] for e in report["episodes"])
        return len(scores) > 100 and sum(scores[-100:]) > 75  # chance is 50

    train_until(algo, solved)


@pytest.mark.parametrize("algorithm", ["impala", "appo"])
def test_a_training_state_continues_elsewhere(build, algorithm):
    algo = build(algorithm=algorithm, runners=0)
    train_until(algo, lambda r: r.get("updates", 0) >= 3)
    tensors, meta = algo.training_state()
    assert any(key.startswith("optimizer/policy/") for key in tensors)
    assert any(key.startswith("target/") for key in tensors) == (algorithm == "appo")
    other = build(algorithm=algorithm)
    other.load_training_state(tensors, meta)
    again, meta_again = other.training_state()
    assert meta_again == {**meta, "lives": meta["lives"] + 1}
    for key, value in tensors.items():
        torch.testing.assert_close(again[key], value, msg=key)
    runner_weights = ray.get(
        other.env_runner_group.foreach_env_runner(
            lambda runner: ray.put(runner.module.net.state_dict()), local_env_runner=False
        )[0]
    )
    for key, value in runner_weights.items():
        torch.testing.assert_close(value, tensors[f"weights/{key}"])
    report = train_until(other, lambda r: r["steps"] > meta["steps"])
    assert report["steps"] < meta["steps"] + 10_000


def test_another_networks_state_is_refused(build):
    algo = build(runners=0)  # the learner refuses; no runner takes part
    tensors, meta = algo.training_state()
    tensors["weights/inlet.weight"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"another network.*inlet.weight is \(3, 3\)"):
        algo.load_training_state(tensors, meta)


class _Broken(MemoryIMPALALearner):
    def compute_loss_for_module(self, **kwargs):
        raise KeyError("a mistake in the loss")


def test_a_learners_error_is_raised_instead_of_hanging(build):
    algo = build(learner=_Broken, runners=0)
    with pytest.raises(LearnerFailed, match="a mistake in the loss"):
        train_until(algo, lambda r: False)


@pytest.mark.parametrize(("algorithm", "runners"), [("impala", 1), ("impala", 0), ("ppo", 0)])
def test_an_environments_error_is_raised_instead_of_tried_for_ever(build, algorithm, runners):
    algo = build(env="broken", algorithm=algorithm, runners=runners)
    said = "an environment runner stopped: KeyError: 'a mistake in the environment'"
    with pytest.raises(RunnerFailed, match=said):
        train_until(algo, lambda r: False)


def test_a_nan_is_named(build):
    algo = build(runners=0)
    train_until(algo, lambda r: r.get("updates", 0) >= 1)

    def poison(learner):
        with torch.no_grad():
            learner.module["default_policy"].unwrapped().net.value.bias.fill_(float("nan"))

    algo.learner_group.foreach_learner(poison)
    with pytest.raises(NonFinite) as caught:
        train_until(algo, lambda r: False)
    assert caught.value.term == "policy_loss"
    assert caught.value.update >= 1


@pytest.mark.parametrize(
    "precision, able", [(torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)]
)
def test_learning_and_sight_in_bfloat16_keep_weights_and_acting_memory_in_float32(
    build, precision, able, monkeypatch
):
    """A processor that is slow in bfloat16, beside a GPU or asked for it, still acts in float32."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able}, raising=False)
    algo = build(algorithm="ppo", runners=0, mixed_precision=precision == torch.bfloat16)
    seen = {"learned": set(), "acted": set(), "saw": set()}

    def note(where):
        return lambda module, given, out: seen[where].add(out.dtype)

    net = algo.learner_group._learner.module["default_policy"].unwrapped().net
    net.inlet.register_forward_hook(note("learned"))
    algo.env_runner.module.net.inlet.register_forward_hook(note("acted"))
    sight = algo.env_runner.module.net.encoder.modules()
    next(part for part in sight if isinstance(part, torch.nn.Linear)).register_forward_hook(
        note("saw")
    )
    train_until(algo, lambda r: r.get("updates", 0) >= 2)
    assert seen == {
        "learned": {precision},
        "acted": {torch.float32},
        "saw": {precision if able else torch.float32},
    }
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert all(p.isfinite().all() for p in net.parameters())
