"""Values that nothing can be trained with: numbers out of bounds, batches that are no whole number of fragments."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig


def _whole(x: Any) -> bool:
    return isinstance(x, numbers.Integral) and not isinstance(x, bool) and x >= 1


def _number(x: Any) -> bool:
    return isinstance(x, numbers.Real) and not isinstance(x, bool) and math.isfinite(x)


# By setting: what is possible, and what to give.
BOUNDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_epochs": (_whole, "give a whole number from 1"),
    "_train_batch_size_per_learner": (
        lambda x: x is None or _whole(x),
        "give a whole number of steps from 1",
    ),
    "minibatch_size": (
        lambda x: x is None or _whole(x),
        "give a multiple of rollout_fragment_length, or None for the whole batch",
    ),
    "grad_clip": (
        lambda x: x is None or (_number(x) and x > 0),
        "give a number above 0, or None to clip nothing",
    ),
    "least_advantage_std": (lambda x: _number(x) and x >= 0, "give a number from 0"),
}


def check_bounds(config: AlgorithmConfig) -> None:
    """Refuses a setting whose value is impossible.

    Raises:
        ValueError: one line that names it, its value and what to give.
    """
    for name, (possible, give) in BOUNDS.items():
        value = getattr(config, name, None)
        if hasattr(config, name) and not possible(value):
            raise ValueError(f"{type(config).__name__}: {name.lstrip('_')}={value!r}: {give}")


def check_batch(config: Any) -> None:
    """Refuses a batch that is no whole number of fragments, of each learner's share and, for PPO, of all runners'.

    Without a batch of its own, a config on one learner takes as many fragments as reach RLlib's default.

    Raises:
        ValueError: one line that says what a fragment is and which batches are the nearest.
    """
    if config.in_evaluation:
        return
    batch, rows = config.train_batch_size_per_learner, config.num_envs_per_env_runner
    runners, learners = max(1, config.num_env_runners), max(1, config.num_learners)
    if config.rollout_fragment_length == "auto":
        if config.minibatch_size is not None and not config.samples_in_rounds:
            raise ValueError(
                f"minibatch_size={config.minibatch_size} needs rollout_fragment_length as a number, not 'auto': "
                "RLlib's IMPALA and APPO divide by it"
            )
        each = runners * rows
        if batch * learners % each:
            give = _nearest(batch, each // math.gcd(each, learners))
            raise ValueError(
                f"rollout_fragment_length='auto' would cut {batch * learners} steps into fragments of unequal "
                f"length ({runners} runners x {rows} environments): give train_batch_size_per_learner={give}, or "
                "rollout_fragment_length as a number"
            )
    usual = type(config)()
    given = config._train_batch_size_per_learner, config.train_batch_size
    if learners == 1 and given == (usual._train_batch_size_per_learner, usual.train_batch_size):
        return
    steps = config.get_rollout_fragment_length()
    unit, shared = rows * steps, ""
    if config.samples_in_rounds and runners > 1:
        unit *= runners // math.gcd(runners, learners)
        shared += f", as many from each of {runners} runners"
    if learners > 1:
        shared += f", as many for each of {learners} learners"
    if batch % unit:
        raise ValueError(
            f"train_batch_size_per_learner={batch} is no whole number of fragments of {rows * steps} steps "
            f"({rows} environments x {steps} steps{shared}): give {_nearest(batch, unit)}, or change "
            "rollout_fragment_length or num_envs_per_env_runner"
        )


def _nearest(size: int, unit: int) -> str:
    below, above = size // unit * unit, -(-size // unit) * unit
    return f"{below} or {above}" if below else f"{above}"
