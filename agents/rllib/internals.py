"""Every private part of RLlib that this package touches, named once.

tests/agents/test_internals.py holds each of them to what is relied on, and the code of this package to this list: a
new release of Ray that moves one, or a new use of one, fails there and says which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo.appo_learner import APPOLearner
from ray.rllib.algorithms.impala.impala import IMPALA
from ray.rllib.algorithms.impala.impala_learner import (
    IMPALALearner,
    _GPULoaderThread,
    _LearnerThread,
)
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.tune.registry import ENV_CREATOR, _global_registry

# Methods that are called or overridden: the names of their parameters, as they are relied on.
METHODS: dict[tuple[type, str], tuple[str, ...]] = {
    (IMPALA, "_sample_and_get_connector_states"): ("self",),
    (_GPULoaderThread, "_to_device_safe"): ("self", "batch"),
    (Learner, "_make_batch_if_necessary"): ("self", "training_data"),
    (TorchLearner, "_set_optimizer_lr"): ("optimizer", "lr"),
    (TorchLearner, "_update"): ("self", "batch"),
    (TorchLearner, "_uncompiled_update"): ("self", "batch", "kwargs"),
    (TorchLearner, "_compute_off_policyness"): ("self", "batch"),
    (TorchRLModule, "_forward"): ("self", "batch", "kwargs"),
    (TorchRLModule, "_forward_train"): ("self", "batch", "kwargs"),
    (SingleAgentEnvRunner, "_sample"): (
        "self",
        "num_timesteps",
        "num_episodes",
        "explore",
        "random_actions",
        "force_reset",
    ),
    (SingleAgentEnvRunner, "_increase_sampled_metrics"): (
        "self",
        "num_steps",
        "num_episodes_completed",
    ),
    (SingleAgentEnvRunner, "_log_episode_metrics"): ("self", "length", "ret", "sec"),
}
# Attributes that are read or written: whose source sets them.
ATTRIBUTES: dict[str, type] = {
    "_agg_event": IMPALALearner,
    "_device": Learner,
    "_gpu_loader_threads": IMPALALearner,
    "_last_update_ts_by_mid": APPOLearner,
    "_learner_thread": IMPALALearner,
    "_learner_thread_in_queue": IMPALALearner,
    "_module": Learner,
    "_needs_initial_reset": SingleAgentEnvRunner,
    "_optimizer_parameters": Learner,
    "_train_batch_size_per_learner": AlgorithmConfig,
    "_update_method": _LearnerThread,
    "_weights_seq_no": Learner,
    "_worker_manager": EnvRunnerGroup,
    "_workers": LearnerGroup,
}
# Properties that are overridden.
PROPERTIES: dict[str, type] = {"_model_config_auto_includes": AlgorithmConfig}


def environment_creator(name: str) -> Callable[[Any], Any] | None:
    """What Tune's registry makes an environment of that name with; None where it knows none."""
    if not _global_registry.contains(ENV_CREATOR, name):
        return None
    return _global_registry.get(ENV_CREATOR, name)


def leave_tensors_unfilled() -> None:
    """Keeps torch, in this process, from filling every new tensor before it is written, which RLlib's seeding brings.

    With a seed, RLlib turns torch's deterministic algorithms on, and those fill, too: an aid to find code that reads
    what nobody wrote. It costs a tenth of learning and changes no result.
    """
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
