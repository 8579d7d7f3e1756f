"""Resets of some worlds of a vector environment: gymnasium's `options={"reset_mask": ...}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def reset_mask(options: Mapping[str, Any] | None, num_envs: int) -> np.ndarray:
    """Which worlds a reset is of, bool [N]: those of options["reset_mask"], all without it.

    Raises:
        ValueError: for a mask of another shape or type, or of no world.
    """
    if options is None or "reset_mask" not in options:
        return np.ones(num_envs, bool)
    mask = np.asarray(options["reset_mask"])
    if mask.dtype != bool or mask.shape != (num_envs,) or not mask.any():
        raise ValueError(
            f"reset_mask must be a bool array of shape ({num_envs},) with a True in it"
        )
    return mask.copy()
