"""One small Ray for the tests of this folder."""

import inspect
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.rllib.connectors import connector_v2
from ray.tune import register_env

from agents import MemoryAPPOConfig, MemoryIMPALAConfig, MemoryPPOConfig
from agents.auxiliary import AuxiliaryLoss, registry
from tests.agents.counting import create, create_broken, create_serial

ROOT = str(Path(__file__).parents[2])
CONFIGS = {"impala": MemoryIMPALAConfig, "appo": MemoryAPPOConfig, "ppo": MemoryPPOConfig}


def two_frames():
    """What of `inspect.stack()` RLlib's connectors look at: their own frame, and their caller's."""
    return [SimpleNamespace(frame=sys._getframe(1)), SimpleNamespace(frame=sys._getframe(2))]


@pytest.fixture(scope="session", autouse=True)
def shallow_stack():
    """`inspect.stack` finds the source of every frame: under pytest a tenth of a second for each connector, of which
    each of RLlib's runners and learners has several, and half of these tests' time."""
    with pytest.MonkeyPatch.context() as patch:
        quick = SimpleNamespace(**vars(inspect) | {"stack": two_frames})
        patch.setattr(connector_v2, "inspect", quick)
        yield


@pytest.fixture(scope="session")
def cluster():
    paths = [ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # Ray's workers import the tests too
    ray.init(
        address="local",
        num_cpus=8,  # logical: two learners, two runners, an aggregator
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200_000_000,
        # Or eight processes start that nothing may ask for.
        _system_config={"prestart_worker_first_driver": False},
        ignore_reinit_error=True,
    )
    register_env("counting", create)
    register_env("serial", create_serial)
    register_env("broken", create_broken)
    yield
    ray.shutdown()


class LedTo(AuxiliaryLoss):
    """What somebody may write: of each step that was acted on, and the next one of its episode."""

    def forward(self, experience):
        apart = (experience.features[:, 1:] - experience.features[:, :-1]).square().mean(-1)
        counts = experience.episode[:, 1:] == experience.episode[:, :-1]
        counts = counts & ~experience.ignored[:, :-1]
        return (apart * counts).sum() / counts.sum().clamp(min=1)


@pytest.fixture
def led_to(monkeypatch):
    """A loss of somebody's own among the registered ones."""
    monkeypatch.setattr(registry, "_LOSSES", {**registry._LOSSES, "led_to": LedTo})


@pytest.fixture
def build(cluster):
    """Builds an algorithm on the counting environment, and stops it at the end."""
    built = []

    def make(
        memory="lstm",
        runners=1,
        learner=None,
        algorithm="impala",
        envs=4,
        env="counting",
        learners=None,
        network=None,
        auxiliary=(),
        fault_tolerance=None,
        **training,
    ):
        options = {"lstm": {"hidden": 16}}.get(memory, {})
        config = (
            CONFIGS[algorithm]()
            .environment(env)
            .learners(**(learners or {}))
            .memory(memory, d_model=16, **options)
            .network(**(network or {}))
            .fault_tolerance(**(fault_tolerance or {}))
            .env_runners(
                num_env_runners=runners,
                num_envs_per_env_runner=envs,
                rollout_fragment_length=10,
                gym_env_vectorize_mode="vector_entry_point",
            )
            .training(**{"train_batch_size_per_learner": 10 * envs, **training})
            .reporting(min_time_s_per_iteration=0)
            .debugging(seed=5, log_level="ERROR")
        )
        for name in auxiliary:
            config.auxiliary(name)
        if learner is not None:
            config.training(learner_class=learner)
        built.append(config.build_algo())
        return built[-1]

    yield make
    for algo in built:
        algo.stop()
