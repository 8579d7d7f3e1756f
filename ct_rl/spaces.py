"""gymnasium spaces as plain JSON values and back, so that an agent can be loaded without its environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


def to_plain(space: gym.Space) -> dict[str, Any]:
    """A space as values that JSON holds.

    Raises:
        ValueError: for a space that no network here reads.
    """
    if isinstance(space, spaces.Dict):
        return {"dict": {key: to_plain(part) for key, part in space.items()}}
    if isinstance(space, spaces.Discrete):
        return {"discrete": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"multi_discrete": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"multi_binary": list(space.shape)}
    if isinstance(space, spaces.Box):
        low, high = (_bound(bound) for bound in (space.low, space.high))
        return {"box": list(space.shape), "low": low, "high": high, "dtype": str(space.dtype)}
    raise ValueError(f"a space of type {type(space).__name__} cannot be written: {space}")


def from_plain(plain: Any) -> gym.Space:
    """The space that `to_plain` wrote.

    Raises:
        ValueError: for values that are no space's.
    """
    try:
        if "dict" in plain:
            return spaces.Dict({key: from_plain(part) for key, part in plain["dict"].items()})
        if "discrete" in plain:
            return spaces.Discrete(int(plain["discrete"]), start=int(plain["start"]))
        if "multi_discrete" in plain:
            return spaces.MultiDiscrete(plain["multi_discrete"], start=plain["start"])
        if "multi_binary" in plain:
            return spaces.MultiBinary([int(n) for n in plain["multi_binary"]])
        shape = tuple(int(n) for n in plain["box"])
        dtype = np.dtype(str(plain["dtype"])).type
        low, high = (
            np.broadcast_to(np.asarray(plain[name], np.float64), shape).astype(dtype)
            for name in ("low", "high")
        )
        return spaces.Box(low, high, shape, dtype)
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(plain)[:80]} is no space: {error!r}") from None


def _bound(bound: np.ndarray) -> Any:
    """One number where all are the same; infinities as JSON's own names would not survive elsewhere."""
    values = np.asarray(bound, np.float64)
    if values.size and (values == values.flat[0]).all():
        return _number(values.flat[0])
    return [_number(x) for x in values.flatten()] if values.ndim == 1 else values.tolist()


def _number(x: float) -> float | str:
    return float(x) if np.isfinite(x) else ("inf" if x > 0 else "-inf")
