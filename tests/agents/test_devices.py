"""What a learner computes lies where its network does: torch's meta device, which mixes with no other, stands in.

A whole update of each algorithm is rehearsed on it, through RLlib's own loader of a GPU where there is one: only the
name of the device is faked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.impala.impala_learner import _LearnerThread
from ray.rllib.core.learner.torch import torch_learner
from ray.rllib.core.learner.training_data import TrainingData

import agents.fragment
from agents import LearnerFailed
from agents.fragment import Fragment
from agents.rllib.learner_thread import GuardedLearner
from ct_rl.memory.contract import MemoryCore
from tests.agents.conftest import CONFIGS
from tests.agents.test_fragments import SMALL, make_runner

META, CPU = torch.device("meta"), torch.device("cpu")
LOADED = ["impala", "appo"]  # by a thread of its own, where the learner has a GPU
ON_A_GPU = {"num_gpus_per_learner": 1}


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
        .learners(**ON_A_GPU)
        .debugging(seed=3)
    )
    if algorithm in LOADED:
        config.training(
            broadcast_interval=2
        )  # no weights are sent after one: meta tensors have no values
    spaces = {"default_policy": runner.get_spaces()["__env_single__"]}
    learner = config.build_learner(spaces=spaces)
    learner.update(
        TrainingData(episodes=fragments),
        timesteps={"num_env_steps_sampled_lifetime": 10, "num_env_steps_trained_lifetime": 10},
        num_epochs=2,
        minibatch_size=minibatch,
    )
    try:
        if isinstance(learner, GuardedLearner):
            within(120, learner.settle)
    finally:
        learner.shutdown()
    return learner


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """What `call` gives or raises; a failure where it is still waiting after so many seconds."""
    given: dict[str, Any] = {}

    def run() -> None:
        try:
            given["result"] = call()
        except BaseException as error:
            given["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert given, f"still waiting after {seconds} s"
    if "error" in given:
        raise given["error"]
    return given["result"]


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
    real = Fragment.to_device

    def all_but_rewards(self: Fragment, *args: Any, **kwargs: Any) -> Fragment:
        return dataclasses.replace(real(self, *args, **kwargs), rewards=torch.zeros(8, 11))

    monkeypatch.setattr(Fragment, "to_device", all_but_rewards)
    with pytest.raises(Exception, match="meta"):
        rehearse("impala", "compressive", monkeypatch, None)


@pytest.mark.parametrize("algorithm", CONFIGS)
def test_a_batch_is_copied_to_the_device_once_whatever_is_learned_from_it(
    algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, copied = agents.fragment.as_tensor, []

    def note(x: Any) -> torch.Tensor:
        if isinstance(x, np.ndarray):
            copied.append(x)
        return real(x)

    monkeypatch.setattr(agents.fragment, "as_tensor", note)
    rehearse(algorithm, "gtrxl", monkeypatch, 22)
    assert {len(x) for x in copied} == {8}  # whole columns, not rows of a minibatch
    assert len({id(x) for x in copied}) == len(copied)


def test_rows_of_tensors_are_found_by_one_copy_of_their_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (fragment,) = make_runner("lstm").sample()
    real, copies = torch.as_tensor, []

    def note(x: Any, **kwargs: Any) -> torch.Tensor:
        copies.append(x)
        return real(x, **kwargs)

    there, order = fragment.to_device(CPU), np.array([2, 0])
    monkeypatch.setattr(torch, "as_tensor", note)
    found = there.rows(order)
    assert len(copies) == 1
    for key, column in found.state.items():
        np.testing.assert_array_equal(column, fragment.state[key][order])


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
def test_a_fragment_is_copied_in_the_stream_in_which_its_network_computes(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fragment,) = make_runner("lstm").sample()
    now, copied = ["the loader's"], []

    @contextlib.contextmanager
    def stream(entered: str):
        now.append(entered)
        yield
        now.pop()

    def to(tensor: torch.Tensor, device: Any, **_: Any) -> torch.Tensor:
        copied.append(now[-1])
        return tensor

    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: f"{device}'s own")
    monkeypatch.setattr(torch.Tensor, "to", to)
    fragment.to_device(device)
    assert set(copied) == {"cuda:0's own" if device == "cuda:0" else "the loader's"}


def on_a_gpu(algorithm: str, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """An algorithm whose learner has RLlib's loader of a GPU, and the CPU for the GPU itself."""
    monkeypatch.setattr(torch_learner, "get_device", lambda *_: CPU)
    return build(algorithm=algorithm, memory="gru", runners=0, learners=ON_A_GPU)


@pytest.mark.parametrize("algorithm", LOADED)
def test_a_learner_on_a_gpu_gives_its_state_after_an_update(
    algorithm: str, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    algo = on_a_gpu(algorithm, build, monkeypatch)
    for _ in range(2):
        report = within(60, algo.train)["ct_rl"]
        _, meta = within(60, algo.training_state)
        assert meta["updates"] >= report["updates"] >= 1
    assert len(algo.learner_group._learner._gpu_loader_threads) == 1  # two could change the order


def test_a_state_waits_for_all_that_a_learner_on_a_gpu_was_given(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    algo = on_a_gpu("impala", build, monkeypatch)
    learner, begin, given = algo.learner_group._learner, threading.Event(), []
    learn = learner.learn

    def later(*args: Any, **kwargs: Any) -> None:
        begin.wait()
        learn(*args, **kwargs)

    monkeypatch.setattr(learner, "learn", later)
    training = threading.Thread(target=lambda: given.append(algo.train()), daemon=True)
    training.start()
    while training.is_alive() and learner._given == 0:
        training.join(0.01)
    with pytest.raises(AssertionError, match="still waiting"):
        within(0.3, algo.training_state)
    begin.set()
    training.join(60)
    _, meta = within(60, algo.training_state)
    assert given and meta["updates"] == learner._given


def test_a_batch_that_does_not_fit_on_the_gpu_ends_training_with_its_error(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    algo = on_a_gpu("impala", build, monkeypatch)
    within(60, algo.train)

    def full(*_: Any, **__: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Fragment, "to_device", full)
    with pytest.raises(LearnerFailed, match=r"CUDA out of memory. Tried to allocate 2.00 GiB"):
        within(60, algo.train)
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        within(60, algo.training_state)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_loader_that_ends_for_another_reason_ends_training_too(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    algo = on_a_gpu("impala", build, monkeypatch)

    def break_down(*_: Any) -> None:
        raise KeyError("a mistake in RLlib")

    monkeypatch.setattr(_LearnerThread, "enqueue", break_down)
    with pytest.raises(LearnerFailed, match="_GPULoaderThread ended without a word"):
        within(60, algo.train)
