"""What a learner computes lies where its network does: torch's meta device, which mixes with no other, stands in.

A whole update of each algorithm is rehearsed on it, through RLlib's own loader of a GPU where there is one.
"""

from __future__ import annotations

import dataclasses
import queue

import pytest
import torch
from ray.rllib.algorithms.impala.impala_learner import IMPALALearner, _GPULoaderThread
from ray.rllib.core.learner.torch import torch_learner
from ray.rllib.core.learner.training_data import TrainingData

from agents.fragment import Fragment
from agents.rllib.impala import MemoryIMPALALearner
from ct_rl.memory.contract import MemoryCore
from tests.agents.conftest import CONFIGS
from tests.agents.test_fragments import SMALL, make_runner

META = torch.device("meta")


def rehearse(algorithm: str, memory: str, monkeypatch: pytest.MonkeyPatch, minibatch: int | None):
    """A learner whose network lies on the meta device, after an update from a runner's fragments."""
    monkeypatch.setattr(MemoryCore, "check_state", lambda *_: None)  # it asks for values
    monkeypatch.setattr(torch_learner, "get_device", lambda *_: META)
    runner = make_runner(memory, config_class=CONFIGS[algorithm])
    runner.module.float()
    fragments = [f for _ in range(2) for f in runner.sample()]
    config = (
        CONFIGS[algorithm]()
        .environment("counting")
        .memory(memory, d_model=16, **SMALL[memory])
        .auxiliary("contrast", pairs=8, width=8, embedding=4)
        .env_runners(num_envs_per_env_runner=4, rollout_fragment_length=11)
        .training(train_batch_size_per_learner=88)
        .debugging(seed=3)
    )
    spaces = {"default_policy": runner.get_spaces()["__env_single__"]}
    learner = config.build_learner(spaces=spaces)
    fragment = learner.gather(TrainingData(episodes=fragments))
    timesteps = {"num_env_steps_sampled_lifetime": 10, "num_env_steps_trained_lifetime": 10}
    if isinstance(learner, IMPALALearner):
        loaded: queue.Queue = queue.Queue()
        loader = _GPULoaderThread(
            in_queue=queue.Queue(), out_queue=loaded, device=META, metrics_logger=learner.metrics
        )
        loader._in_queue.put((fragment, timesteps))
        loader._step()
        fragment, timesteps = loaded.get()
        assert fragment.rewards.device == META
    learner.learn(fragment, timesteps, num_epochs=1, minibatch_size=minibatch)
    return learner


@pytest.mark.parametrize(
    ("memory", "minibatch"),
    [("compressive", 22), ("gtrxl", None)],
    ids=["compressive, two rows", "gtrxl, whole batch"],
)
@pytest.mark.parametrize("algorithm", CONFIGS)
def test_a_whole_update_stays_on_the_learners_device(
    algorithm: str, memory: str, minibatch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = rehearse(algorithm, memory, monkeypatch, minibatch)
    moments = [x for opt in learner._optimizer_parameters for x in opt.state.values()]
    assert len(moments) == sum(p.requires_grad for p in learner.net.parameters())
    seen = [p for p in learner.net.parameters()] + [m["exp_avg"] for m in moments]
    assert {tensor.device for tensor in seen} == {META}


def test_the_rehearsal_has_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor that lies elsewhere is found."""
    monkeypatch.setattr(
        MemoryIMPALALearner,
        "prepare",
        lambda self, fragment: dataclasses.replace(fragment, rewards=torch.zeros(8, 11)),
    )
    monkeypatch.setattr(Fragment, "to_device", lambda self, *_, **__: self)
    with pytest.raises(Exception, match="meta"):
        rehearse("impala", "compressive", monkeypatch, None)
