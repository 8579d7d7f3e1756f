"""Actions of any space as those that a policy has, and back: into the environment, and into its next observation."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space, spaces

from envs.observations import Part

_FLOAT32 = float(np.finfo(np.float32).max)


def action_part(space: Space) -> Part:
    """The action space that a policy has, and the function from its actions to those of `space`.

    A Box whose bounds are all finite (in float32) stays in its own units (a policy's [-1, 1] is stretched to them by
    `agents.distributions.for_env`, or by RLlib). In any other Box, elements with two bounds are [-1, 1], stretched
    here; those with one bound are unbounded and softly kept within it (softplus); those without stay as they are.

    Raises:
        ValueError: for spaces with discrete and continuous parts, Sequence, Graph and Text.
    """
    if isinstance(space, spaces.Discrete):
        if space.start == 0:
            return space, int
        return spaces.Discrete(int(space.n)), lambda action: int(action) + int(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        if len(space.shape) == 1 and not np.any(space.start):
            return space, _same
        shape, start = space.shape, space.start
        flat = spaces.MultiDiscrete(space.nvec.flatten())
        return flat, lambda action: np.asarray(action).reshape(shape) + start
    if isinstance(space, spaces.MultiBinary):
        shape, kind = space.shape, space.dtype
        flat = spaces.MultiDiscrete(np.full(int(np.prod(shape)), 2))
        return flat, lambda action: np.asarray(action, kind).reshape(shape)
    if isinstance(space, spaces.Box):
        return _box(space)
    if isinstance(space, spaces.Tuple | spaces.Dict):
        return _joint(space)
    raise ValueError(f"no policy here gives actions of {space}")


def seen_action(space: Space) -> Part:
    """The space of the last action in an observation, and the function from the action taken to it.

    Of a Box [A] it is the policy's own action: elements with two bounds as [-1, 1] whatever their units, others on a
    logarithmic scale, which a policy's large outputs do not leave. Discrete actions are counted from 0.
    Arrays may be of one world or of several: [A] or [N, A].
    """
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return spaces.Discrete(int(space.n)), lambda action: np.asarray(action, np.int64) - first
    if isinstance(space, spaces.MultiDiscrete):
        start = space.start
        return spaces.MultiDiscrete(space.nvec), lambda action: np.asarray(action) - start
    if not isinstance(space, spaces.Box):
        return space, np.asarray
    low, high, bounded = _bounds(space)

    def read(action: Any) -> np.ndarray:
        a = np.asarray(action, np.float64)
        inside = np.clip(2.0 * (a / 2 - low / 2) / _span(low, high) - 1.0, -1.0, 1.0)
        return np.where(bounded, inside, np.sign(a) * np.log1p(np.abs(a))).astype(np.float32)

    edge = np.where(bounded, 1.0, np.inf)
    return spaces.Box((-edge).astype(np.float32), edge.astype(np.float32), dtype=np.float32), read


def _box(space: spaces.Box) -> Part:
    low, high, bounded = (x.reshape(-1) for x in _bounds(space))
    above, below = np.isfinite(space.low).reshape(-1), np.isfinite(space.high).reshape(-1)
    if bounded.all() and max(abs(low).max(initial=0), abs(high).max(initial=0)) < _FLOAT32:
        flat = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        # A Gaussian's actions have no bounds; the environment's have.
        return flat, lambda a: within(a, space)

    edge = np.where(bounded, 1.0, np.inf).astype(np.float32)

    def apply(action: Any) -> np.ndarray:
        a = np.asarray(action, np.float64).reshape(-1)
        inside = (np.clip(a, -1.0, 1.0) + 1.0) / 2.0
        soft = np.logaddexp(0.0, a), np.logaddexp(0.0, -a)
        value = np.where(above & ~below, low + soft[0], np.where(below & ~above, high - soft[1], a))
        return within(np.where(bounded, low * (1 - inside) + high * inside, value), space)

    return spaces.Box(-edge, edge, dtype=np.float32), apply


def within(value: Any, space: spaces.Box) -> np.ndarray:
    """`value` in the shape and type of `space`, cut at its bounds; whole numbers are rounded, not cut off."""
    kind = np.dtype(space.dtype)
    x = np.reshape(np.asarray(value, np.float64), space.shape)
    x = np.clip(x, space.low.astype(np.float64), space.high.astype(np.float64))
    if kind.kind == "f":
        return x.astype(kind)
    x = np.rint(x)
    if kind.kind == "b":
        return x.astype(bool)
    limit = np.iinfo(kind)
    # The largest int64 has no float64: the next one below has.
    top = np.nextafter(float(limit.max), 0.0) if float(limit.max) > limit.max else float(limit.max)
    return np.clip(x, float(limit.min), top).astype(kind)


def _bounds(space: spaces.Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Low and high as float64 (0 where there is none), and where there are both."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high)
    return np.where(np.isfinite(low), low, 0.0), np.where(np.isfinite(high), high, 0.0), bounded


def _span(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Half the distance of the bounds, which has no overflow; 1 where they are one."""
    half = high / 2 - low / 2
    return np.where(half > 0, half, 1.0)


def _joint(space: spaces.Tuple | spaces.Dict) -> Part:
    """Several discrete actions at once as one MultiDiscrete, or several Boxes as one."""
    named = list(space.spaces) if isinstance(space, spaces.Dict) else None
    inner = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
    parts = [action_part(part) for part in inner]
    kinds = {isinstance(part, spaces.Box) for part, _ in parts}
    if len(kinds) != 1:
        what = "discrete and continuous actions at once" if kinds else "actions of nothing"
        raise ValueError(f"no policy here gives {what}: {space}")
    if kinds == {True}:
        whole = spaces.flatten_space(space)
        assert isinstance(whole, spaces.Box)
        flat, read_all = _box(whole)
        return flat, lambda action: spaces.unflatten(space, read_all(action))
    sizes = [
        np.atleast_1d(part.n if isinstance(part, spaces.Discrete) else part.nvec)
        for part, _ in parts
        if isinstance(part, spaces.Discrete | spaces.MultiDiscrete)
    ]
    ends = np.cumsum([len(size) for size in sizes])

    def apply(action: Any) -> Any:
        pieces = np.split(np.asarray(action), ends[:-1])
        values = [
            read(piece[0] if isinstance(part, spaces.Discrete) else piece)
            for (part, read), piece in zip(parts, pieces, strict=True)
        ]
        return tuple(values) if named is None else dict(zip(named, values, strict=True))

    return spaces.MultiDiscrete(np.concatenate(sizes)), apply


def choices(space: Space) -> int | None:
    """How many numbers a mask of a policy's actions has: n of Discrete, all options of MultiDiscrete, else None."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return int(space.nvec.sum()) if isinstance(space, spaces.MultiDiscrete) else None


def _same(value: Any) -> Any:
    return value
