"""Seeds of worlds: drawn, never added up, so that no two worlds, runners, restarts or runs play the same tasks."""

from __future__ import annotations

import numpy as np

# Environments in C take 31 bits; training draws from the first range, evaluation from the second.
_TRAINING, _EVALUATION = (0, 2_000_000_000), (2_000_000_000, 2**31)


def world_seeds(
    seed: int, count: int, *, runner: int = 0, incarnation: int = 0, evaluation: bool = False
) -> list[int]:
    """The seeds of `count` worlds, each from `SeedSequence([seed, runner, incarnation, world])`.

    World i's seed does not depend on `count`. Those of an evaluation are never those of training.

    Args:
        seed: of the run, 0 or more.
        runner: the process that plays them, from 0.
        incarnation: how often that process, or the run, was started anew.

    Raises:
        ValueError: for a negative number.
    """
    for name, value in (("seed", seed), ("runner", runner), ("incarnation", incarnation)):
        if value < 0:
            raise ValueError(f"{name}={value}: expected 0 or more")
    low, high = _EVALUATION if evaluation else _TRAINING
    drawn = (
        np.random.SeedSequence([seed, runner, incarnation, world]).generate_state(1, np.uint64)[0]
        for world in range(count)
    )
    return [low + int(word) % (high - low) for word in drawn]
