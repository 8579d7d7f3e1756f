"""A counting environment and a counting memory agree, through remote runners and their deaths."""

import numpy as np
import pytest
import ray

from agents import LearnerFailed
from agents.rllib.appo import MemoryAPPOLearner
from agents.rllib.impala import MemoryIMPALALearner
from agents.rllib.ppo import MemoryPPOLearner
from ct_rl.memory.registry import _CORES
from tests.agents.counting import CountingCheck, CountingMemory, CountingOptions
from tests.agents.test_impala import train_until


class IMPALACheck(CountingCheck, MemoryIMPALALearner):
    pass


class APPOCheck(CountingCheck, MemoryAPPOLearner):
    pass


class PPOCheck(CountingCheck, MemoryPPOLearner):
    pass


CHECKS = {"impala": IMPALACheck, "appo": APPOCheck, "ppo": PPOCheck}


@pytest.fixture
def counting(monkeypatch):
    monkeypatch.setitem(_CORES, "counting", (CountingMemory, CountingOptions))


@pytest.mark.parametrize("algorithm, killed", [("impala", True), ("appo", False), ("ppo", True)])
def test_counts_agree_and_no_step_comes_twice(build, counting, algorithm, killed):
    """Even where a runner dies: another takes its place, and training goes on."""
    algo = build(
        memory="counting",
        env="serial",
        runners=1 + killed,
        learner=CHECKS[algorithm],
        algorithm=algorithm,
        num_epochs=1,
        train_batch_size_per_learner=80,
    )
    steps = train_until(algo, lambda r: r["steps"] > 1000)["steps"]
    if killed:
        actor = next(iter(algo.env_runner_group._worker_manager.actors().values()))
        ray.kill(actor, no_restart=False)
        # RLlib may not have noticed the death yet, however many steps the other runner made since.
        report = train_until(algo, lambda r: r["steps"] > steps + 400 and r["restarted_runners"])
        assert report["restarted_runners"] == 1 and report["runners_away"] == 0
        steps = report["steps"]
    learned = len(algo.learner_group._learner.steps_seen)
    # What was sampled and not learned from yet: a batch in each of the queues, and what the dead had.
    assert learned <= steps <= learned + 10 * 80


@pytest.mark.parametrize("damage", ["state", "resets", "twice"])
def test_the_check_has_power(build, counting, damage, monkeypatch):
    """Each of these mistakes in the path from runner to learner is found."""

    class Damaged(IMPALACheck):
        def prepare(self, fragment):
            if damage == "state":
                fragment.state = {k: np.roll(v, 1, 0) for k, v in fragment.state.items()}
            elif damage == "resets":
                fragment.resets = np.roll(fragment.resets, 1, 1)
            return fragment

    epochs = 2 if damage == "twice" else 1
    algo = build(memory="counting", env="serial", runners=0, learner=Damaged, num_epochs=epochs)
    with pytest.raises(LearnerFailed, match="came twice" if epochs == 2 else "counts"):
        train_until(algo, lambda r: False)
