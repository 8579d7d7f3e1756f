"""One run of PPO on the fast path, acting and learning in this process: what the learning benchmarks share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from agents import MemoryPPOConfig
from ct_rl.memory import build_memory

POINTS = 40  # of a curve that is kept


def learn(
    environment: str,
    memory: tuple[str, dict[str, Any]],
    score: Callable[[dict[str, float]], float],
    *,
    seed: int,
    steps: int,
    rows: int,
    fragment: int,
    last: int,
    enough: float | None = None,
    width: int = 32,
    d_model: int = 32,
    head: int = 0,
    env_config: dict[str, Any] | None = None,
    auxiliary: dict[str, dict[str, Any]] | None = None,
    **training: Any,
) -> dict[str, Any]:
    """Trains until `steps`, or until the mean score of the last episodes is `enough`.

    Args:
        environment: a name in Tune's registry that gives vector environments.
        memory: its name and options.
        score: of one ended episode, as `result["ct_rl"]["episodes"]` has it.
        last: episodes of which the mean is taken.
        auxiliary: losses beside PPO's and their settings.
        training: settings of `MemoryPPOConfig.training`.
    """
    kind, options = memory
    torch.manual_seed(seed)
    config = (
        MemoryPPOConfig()
        .environment(environment, env_config=env_config or {})
        .memory(kind, d_model=d_model, **options)
        .network(width=width, around=True, head=head, reward_clip="none")
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=rows,
            rollout_fragment_length=fragment,
            gym_env_vectorize_mode="vector_entry_point",
        )
        .training(train_batch_size_per_learner=rows * fragment, **training)
        .reporting(min_time_s_per_iteration=0)
        .debugging(seed=seed, log_level="ERROR")
    )
    for name, settings in (auxiliary or {}).items():
        config.auxiliary(name, **settings)
    algo = config.build_algo()
    begun, scores, curve = (time.monotonic(), time.process_time()), [], []
    try:
        while algo.steps < steps:
            scores += [score(episode) for episode in algo.train()["ct_rl"]["episodes"]]
            curve.append([algo.steps, float(np.mean(scores[-last:])) if scores else 0.0])
            if enough is not None and len(scores) >= last and curve[-1][1] >= enough:
                break
    finally:
        algo.stop()
    return {
        "seed": seed,
        "score": curve[-1][1],
        "steps": algo.steps,
        "episodes": len(scores),
        "seconds": round(time.monotonic() - begun[0], 1),
        "cpu_seconds": round(time.process_time() - begun[1], 1),
        "curve": curve[:: max(1, len(curve) // POINTS)],
    }


def horizon(memory: tuple[str, dict[str, Any]], d_model: int = 32) -> int | None:
    """The furthest step that one layer may reach; None for a recurrent memory."""
    kind, options = memory
    return build_memory(kind, d_model=d_model, **options).context_length
