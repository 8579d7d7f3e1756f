"""What RLlib's stock path does with the same module: bytes of state, masked steps, end-to-end cost.

Used by throughput.py. The stock path stores the state after every step in the episode; the fast path ships one snapshot
a fragment.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tree
from delayed_recall import create as create_recall
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.tune import register_env

from agents import MemoryIMPALAConfig, MemoryRLModule, register_environment
from agents.rllib.runner import MemoryEnvRunner

ROWS, STEPS = 8, 32  # 32 rows of 60 steps hold 0.4 GB of state on the stock path
EPISODE = 70


def stock_config(env: str, memory: str, options: dict[str, Any], **env_config: Any) -> IMPALAConfig:
    """RLlib's IMPALA with `MemoryRLModule`, connectors and learner as RLlib has them."""
    register_environment(env)
    return (
        IMPALAConfig()
        .environment(env, env_config=env_config)
        .rl_module(
            rl_module_spec=RLModuleSpec(
                module_class=MemoryRLModule,
                model_config={
                    "memory": memory,
                    "memory_options": {"d_model": 128, **options},
                    "max_seq_len": STEPS + 1,
                },
            )
        )
        .env_runners(
            num_env_runners=1,
            num_envs_per_env_runner=ROWS,
            rollout_fragment_length=STEPS,
            gym_env_vectorize_mode="vector_entry_point",
        )
        .learners(num_learners=0)
        .training(train_batch_size_per_learner=ROWS * STEPS)
        .reporting(min_time_s_per_iteration=1)
        .debugging(seed=0, log_level="ERROR")
    )


def _fast_config(env: str, memory: str, options: dict[str, Any], **env_config: Any) -> Any:
    return (
        MemoryIMPALAConfig()
        .environment(env, env_config=env_config)
        .memory(memory, d_model=128, **options)
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=ROWS,
            rollout_fragment_length=STEPS,
            gym_env_vectorize_mode="vector_entry_point",
        )
    )


def shipped(memory: str, options: dict[str, Any]) -> dict[str, float]:
    """Bytes of state that leave a runner per environment step, and the share of a learner's batch without loss.

    Both paths, the same sizes, episodes of 70 steps, fragments of 32.
    """
    register_env("recall_70", create_recall)
    delay = {"delay": EPISODE - 2}
    fast = MemoryEnvRunner(
        config=_fast_config("recall_70", memory, options, **delay), worker_index=0
    )
    config = stock_config("recall_70", memory, options, **delay).env_runners(num_env_runners=0)
    stock = SingleAgentEnvRunner(config=config, worker_index=0)
    pipeline = config.build_learner_connector(*stock.get_spaces()["__env_single__"])
    spec = config.get_multi_rl_module_spec(spaces=stock.get_spaces(), inference_only=False)
    modules = spec.build()
    ours, theirs, lossless, masked = [], [], [], []
    for _ in range(6):
        (fragment,) = fast.sample()
        ours.append(sum(x.nbytes for x in fragment.state.values()) / len(fragment))
        lossless.append(1 - len(fragment) / fragment.resets.size)
        episodes = stock.sample()
        states = [e.get_extra_model_outputs(Columns.STATE_OUT) for e in episodes if len(e)]
        size = sum(np.asarray(x).nbytes for x in tree.flatten(states))
        theirs.append(size / sum(len(e) for e in episodes))
        batch = pipeline(rl_module=modules, batch={}, episodes=episodes, shared_data={})
        masked.append(1 - float(batch["default_policy"][Columns.LOSS_MASK].float().mean()))
    return {
        "state_bytes_per_step": float(np.mean(ours)),
        "stock_state_bytes_per_step": float(np.mean(theirs)),
        "stock_over_ours": float(np.mean(theirs) / np.mean(ours)),
        "batch_share_without_loss": float(np.mean(lossless)),
        "stock_batch_share_without_loss": float(np.mean(masked)),
    }
