"""Learning rate and the iterations at which weights are updated."""

from __future__ import annotations

import math

from ct_rl.lm.config import OptimiserConfig


def learning_rate(config: OptimiserConfig, step: int, steps: int) -> float:
    """Of iteration `step` of `steps`: a line up from `lr_ends` to `lr`, then a cosine down to it."""
    low, high = min(config.lr_ends, config.lr), config.lr
    if step < config.warmup:
        return low + (high - low) * (step + 1) / config.warmup
    part = (step - config.warmup) / max(steps - 1 - config.warmup, 1)
    return low + (high - low) * (1 + math.cos(math.pi * min(part, 1.0))) / 2


def iterations_per_update(config: OptimiserConfig, step: int) -> int:
    """How many iterations the update that iteration `step` belongs to is the mean of."""
    start = config.update_every_from
    return 1 if start is None or step < start else config.update_every


def ends_update(config: OptimiserConfig, step: int) -> bool:
    """Whether weights move after iteration `step`."""
    every = iterations_per_update(config, step)
    return every == 1 or (step - (config.update_every_from or 0) + 1) % every == 0
