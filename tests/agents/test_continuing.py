"""A run that goes on: schedules and counters where they were, worlds that nobody has played, ends where it was told."""

import time

import numpy as np
import pytest
import torch
from ray.tune import register_env

from agents import MemoryPPOConfig, RunnerFailed
from agents.rllib.runner import _RESTARTS
from tests.agents.counting import CountingEnv
from tests.agents.test_fragments import make_runner
from tests.agents.test_impala import train_until

SCHEDULE = [[0, 1e-3], [2000, 0.0]]


def due(steps):
    return float(np.interp(steps, *zip(*SCHEDULE, strict=True)))


@pytest.mark.parametrize("algorithm", ["ppo", "impala", "appo"])
def test_schedules_go_on_where_they_were(build, algorithm):
    """Learning rate and entropy bonus are those of the run's steps, before a resume and after it."""
    settings = {"algorithm": algorithm, "runners": 0, "lr": SCHEDULE, "entropy_coeff": SCHEDULE}
    algo = build(**settings)
    report = train_until(algo, lambda r: r["steps"] > 800 and "learning_rate" in r)
    update = 40 / 2000 * 1e-3  # what the rate falls by in the steps of one batch
    assert report["learning_rate"] == pytest.approx(due(report["steps"]), abs=4 * update)
    tensors, meta = algo.training_state()
    assert meta["learning_rates"]["policy"] == pytest.approx(due(meta["steps"]), abs=4 * update)

    other = build(**settings)
    other.load_training_state(tensors, meta)
    learner = other.learner_group._learner
    for name, optimizer in learner.get_optimizers_for_module("default_policy"):
        rate = optimizer.param_groups[0]["lr"]
        assert rate == meta["learning_rates"][name.removeprefix("default_policy_")]
    assert other.steps == meta["steps"]
    used, losses = [], learner.losses

    def watched(given):
        schedule = learner.entropy_coeff_schedulers_per_module["default_policy"]
        used.append(float(schedule.get_current_value()))
        return losses(given)

    learner.losses = watched
    report = train_until(other, lambda r: r["steps"] > meta["steps"] + 200)
    assert report["learning_rate"] == pytest.approx(due(report["steps"]), abs=4 * update)
    entropy = learner.entropy_coeff_schedulers_per_module["default_policy"].get_current_value()
    assert float(entropy) == pytest.approx(due(report["steps"]), abs=8 * update)
    assert used[0] == pytest.approx(due(meta["steps"]), abs=8 * update)
    assert report["updates"] > meta["updates"]


def test_updates_are_all_batches_learned_from(build):
    """Also where there are several between two results, whose figures RLlib puts together."""
    algo = build(algorithm="ppo", runners=0)
    once = algo.sample_and_learn
    algo.sample_and_learn = lambda: [once() for _ in range(3)]
    for _ in range(2):
        report = algo.train()["ct_rl"]
        assert report["updates"] == algo.learner_group._learner._weights_seq_no


def test_a_state_from_before_is_what_runners_act_with(build):
    algo = build(algorithm="ppo", runners=0, lr=1e-2)
    train_until(algo, lambda r: r.get("updates", 0) >= 2)
    tensors, meta = algo.training_state()
    train_until(algo, lambda r: r.get("updates", 0) > meta["updates"] + 2)
    algo.load_training_state(tensors, meta)
    for key, weight in algo.env_runner.module.net.state_dict().items():
        assert torch.equal(weight.cpu(), tensors[f"weights/{key}"]), key
    report = train_until(algo, lambda r: "rho_mean" in r)
    assert report["policy_lag"] == 0 and report["rho_mean"] == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("epochs", [1, 2])
def test_appos_target_follows_every_so_many_batches(build, epochs):
    """However many passes are made over each, and however many of its steps were resets."""
    algo = build(
        algorithm="appo", runners=0, env="serial", num_epochs=epochs, target_network_update_freq=3
    )
    for least in (4, 11):
        train_until(algo, lambda r, least=least: r.get("updates", 0) >= least)
        _, meta = algo.training_state()
        assert meta["target_updated_at_update"] == meta["updates"] // 3 * 3


def test_a_run_ends_within_an_update_of_its_goal(build):
    algo = build(algorithm="ppo", runners=0)
    algo.goal = 500
    train_until(algo, lambda r: r["steps"] >= 500)
    for _ in range(2):
        algo.train()
    assert 500 <= algo.steps <= 500 + 40


@pytest.mark.parametrize("first, then", [(0.0, 0.5), (0.5, 0.0)])
def test_a_run_goes_on_with_an_auxiliary_loss_turned_on_or_off(build, first, then):
    settings = {"algorithm": "ppo", "runners": 0, "auxiliary": ["contrast"]}

    def trained(weight, *state):
        algo = build(loss_coeffs={"contrast": weight}, **settings)
        if state:
            algo.load_training_state(*state)
        updates = algo.learner_group._learner._weights_seq_no
        report = train_until(algo, lambda r: r.get("updates", 0) >= updates + 2)
        assert ("contrast_loss" in report) == (weight > 0)
        return algo.training_state()

    def weights(state):
        return {key: x for key, x in state[0].items() if key.startswith("weights/auxiliary.")}

    before = trained(first)
    after = trained(then, *before)
    assert weights(before).keys() == weights(after).keys() != set()
    moved = [key for key, x in weights(after).items() if not torch.equal(x, weights(before)[key])]
    assert bool(moved) == (then > 0)


def worlds_of(runner):
    """The seeds that a runner gives its worlds at its next beginning."""
    seeds = []
    reset = runner._vector_env.reset
    runner._vector_env.reset = lambda seed=None, **_: seeds.extend(seed) or reset(seed=seed[0])
    runner._actor = None
    runner.sample()
    runner._vector_env.reset = reset
    return seeds


def test_no_life_of_a_runner_plays_what_another_did():
    runner = make_runner("lstm")
    first = worlds_of(runner)
    runner.begin_life(1)
    second = worlds_of(runner)
    third = worlds_of(runner)  # begun anew in the same life, as after an evaluation
    assert len({*first, *second, *third}) == 3 * runner.num_envs


def test_a_resumed_run_and_a_replaced_runner_begin_new_lives(build):
    algo = build(runners=0)
    tensors, meta = algo.training_state()
    other = build(runners=0)
    other.load_training_state(tensors, meta)
    assert other.env_runner._incarnation == 1
    again = build(runners=0)
    again.load_training_state(*other.training_state())
    assert again.env_runner._incarnation == 2


@pytest.mark.parametrize("algorithm", ["ppo", "appo"])
def test_rllibs_own_checkpoint_begins_new_lives_and_keeps_the_weight_of_the_kl_loss(
    build, algorithm, tmp_path
):
    algo = build(algorithm=algorithm, runners=0, use_kl_loss=True)
    train_until(algo, lambda r: r.get("updates", 0) >= 1)
    _, meta = algo.training_state()
    algo.save_to_path(str(tmp_path))
    restored = type(algo).from_checkpoint(str(tmp_path))
    try:
        assert (algo.env_runner._incarnation, restored.env_runner._incarnation) == (0, 1)
        assert restored.training_state()[1]["kl_coeff"] == meta["kl_coeff"] != 0.2
        again = tmp_path / "again"
        restored.save_to_path(str(again))
        restored.restore_from_path(str(again))
        assert restored.env_runner._incarnation == 2
    finally:
        restored.stop()


def test_rllibs_own_checkpoint_holds_whole_updates(build, tmp_path):
    """However far the learner's thread is with the next one."""
    algo = build(algorithm="impala", runners=0)
    learner = algo.learner_group._learner
    apply_gradients = learner.apply_gradients
    learner.apply_gradients = lambda gradients: time.sleep(0.3) or apply_gradients(gradients)
    train_until(algo, lambda r: r.get("updates", 0) >= 2)
    algo.save_to_path(str(tmp_path))
    other = build(algorithm="impala", runners=0)
    other.restore_from_path(str(tmp_path))
    restored = other.learner_group._learner
    for _, optimizer in restored.get_optimizers_for_module("default_policy"):
        done = {int(state["step"]) for state in optimizer.state.values()}
        assert done == {restored._weights_seq_no}


@pytest.mark.parametrize("way", ["ours", "RLlib's"])
def test_a_run_goes_on_with_another_learning_rate_at_once(build, way, tmp_path):
    """As `--resume RUN --training.lr 1e-4` does, or a trial of Tune's whose rate a scheduler changed."""
    algo = build(algorithm="ppo", runners=0, lr=1e-2)
    train_until(algo, lambda r: r.get("updates", 0) >= 1)
    other = build(algorithm="ppo", runners=0, lr=1e-4)
    if way == "ours":
        other.load_training_state(*algo.training_state())
    else:
        algo.save_to_path(str(tmp_path))
        other.restore_from_path(str(tmp_path))
    learner = other.learner_group._learner
    for _, optimizer in learner.get_optimizers_for_module("default_policy"):
        assert optimizer.state and optimizer.param_groups[0]["lr"] == 1e-4


def test_the_module_of_an_algorithm_is_the_learners(build):
    """Where others act, too: RLlib's own has the weights of the beginning then."""
    algo = build(algorithm="impala", runners=1, lr=1e-2)
    train_until(algo, lambda r: r.get("updates", 0) >= 2)
    tensors, _ = algo.training_state()
    for key, weight in algo.get_module().net.state_dict().items():
        assert torch.equal(weight.cpu(), tensors[f"weights/{key}"]), key


class Never(CountingEnv):
    """Fails in its third step, always."""

    def step(self, actions):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 2:
            raise OSError("the simulator is gone")
        return super().step(actions)


def test_an_environment_that_always_fails_ends_in_one_line(build):
    register_env("never", lambda context: Never(context["num_envs"]))
    runner = make_runner("lstm", env="never")
    runner.config.restart_failed_sub_environments = True
    with pytest.raises(RuntimeError) as caught:
        runner.sample()
    (line,) = str(caught.value).splitlines()
    assert f"failed {_RESTARTS} times" in line and "OSError: the simulator is gone" in line


def test_an_environment_that_fails_in_an_evaluation_is_named():
    register_env("never", lambda context: Never(context["num_envs"]))
    runner = make_runner("lstm", env="never")
    with pytest.raises(RunnerFailed, match="stopped: OSError: the simulator is gone"):
        runner.sample(num_episodes=1)


def test_an_environment_that_fails_in_an_evaluation_elsewhere_is_named(cluster):
    register_env("never", lambda context: Never(context["num_envs"]))
    config = make_runner("lstm").config.copy(copy_frozen=False)
    config.evaluation(
        evaluation_interval=1, evaluation_num_env_runners=1, evaluation_config={"env": "never"}
    )
    algo = config.build_algo()
    try:
        with pytest.raises(RunnerFailed, match="stopped: OSError: the simulator is gone"):
            algo.evaluate()
    finally:
        algo.stop()


def test_an_evaluation_may_last_as_long_as_training(cluster):
    config = make_runner("lstm", config_class=MemoryPPOConfig).config.copy(copy_frozen=False)
    config.training(train_batch_size_per_learner=44).reporting(min_time_s_per_iteration=2)
    config.evaluation(
        evaluation_interval=1,
        evaluation_num_env_runners=1,
        evaluation_duration="auto",
        evaluation_parallel_to_training=True,
    )
    algo = config.build_algo()
    try:
        played = (algo.train()["evaluation"]["env_runners"] for _ in range(10))
        assert any(found.get("episode_len_mean", 0) > 0 for found in played)
    finally:
        algo.stop()


class Holes(CountingEnv):
    """Shows NaN in the part "step" of world 1, in the fifth step of its episode."""

    def _observe(self):
        shown = super()._observe()
        shown["step"] = np.where((self.t == 5)[:, None] & (np.arange(self.num_envs) == 1)[:, None],
                                 np.float32("nan"), shown["step"])  # fmt: skip
        return shown


def test_nan_in_an_observation_is_named(build):
    register_env("holes", lambda context: Holes(context["num_envs"]))
    algo = build(env="holes", algorithm="ppo")
    with pytest.raises(RunnerFailed, match=r"part 'step' of world 1 holds NaN .* in step 5"):
        train_until(algo, lambda r: False)


def test_broken_weights_are_not_blamed_on_the_environment():
    runner = make_runner("lstm")
    with torch.no_grad():
        runner.module.net.policy.bias.fill_(float("nan"))
    with pytest.raises(RunnerFailed, match="the weights are broken"):
        runner.sample()


def test_an_evaluation_without_a_runner_names_the_setting(build):
    algo = build(algorithm="ppo", runners=1)
    with pytest.raises(ValueError) as caught:
        algo.evaluate()
    (line,) = str(caught.value).splitlines()
    assert line.startswith("evaluate() has no runner") and "evaluation(evaluation_interval=" in line
    assert build(algorithm="ppo", runners=0).evaluate()["env_runners"]["num_episodes"] > 0
