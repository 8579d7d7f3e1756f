"""Any gymnasium environment as one whose observations and actions our networks read and write.

Observations become a flat Dict of Box, Discrete, MultiDiscrete and MultiBinary parts; actions become Discrete,
MultiDiscrete or a flat Box. Nothing is stacked over time: remembering is the network's part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces

from envs.dmlab.instruction import hash_words, instruction_space

SMALLEST = 36  # frames with a shorter side are read as numbers, not by convolutions [pixels]
LARGEST, SHRUNK = 128, 96  # frames with a longer side than the first get one of the second [pixels]
LARGE = 100.0  # numbers that can be larger are put on a logarithmic scale
_GRID = (11, 6, 3)  # MiniGrid's codes of objects, colours and states
# A part's space as the network sees it, and how a value gets there.
Part = tuple[gym.Space, Callable[[Any], Any]]


class Adapted(gym.Wrapper):
    """Maps the spaces of `env`, as the module says; text becomes hashed words under "instruction".

    Raises:
        ValueError: for an action space that no policy here covers.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._parts: dict[str, tuple[tuple[Any, ...], Callable[[Any], Any]]] = {}
        found: dict[str, gym.Space] = {}
        for path, space in _leaves(env.observation_space):
            part = observation_part(space, _is_grid(env, path))
            name = _name(path, space)
            found[name], self._parts[name] = part[0], (path, part[1])
        self.observation_space = spaces.Dict(found)
        self.action_space, self._action = action_part(env.action_space)

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        return self._observe(observation), info

    def step(self, action: Any) -> tuple[Any, ...]:
        observation, reward, terminated, truncated, info = self.env.step(self._action(action))
        return self._observe(observation), float(reward), bool(terminated), bool(truncated), info

    def _observe(self, observation: Any) -> dict[str, Any]:
        return {name: read(_at(observation, path)) for name, (path, read) in self._parts.items()}


def observation_part(space: gym.Space, grid: bool = False) -> Part:
    """The space that the network sees for a part of an observation, and the function to it.

    Args:
        grid: whether the part holds MiniGrid's codes.

    Raises:
        ValueError: for Sequence, Graph and OneOf.
    """
    if _is_text(space):
        return instruction_space(), hash_words
    if grid:
        sizes = np.broadcast_to(np.array(_GRID), space.shape).flatten()
        return spaces.MultiDiscrete(sizes), lambda image: np.minimum(image.flatten(), sizes - 1)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return space, _same
    if isinstance(space, spaces.Box):
        return _frame(space) if _is_frame(space) else _vector(space)
    raise ValueError(f"no network here reads observations of {space}")


def action_part(space: gym.Space) -> Part:
    """The action space that a policy has, and the function from its actions to those of `space`.

    Raises:
        ValueError: for spaces with discrete and continuous parts, Sequence, Graph and Text.
    """
    if isinstance(space, spaces.Discrete):
        if space.start == 0:
            return space, int
        return spaces.Discrete(space.n), lambda action: int(action) + int(space.start)
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
        low, high, kind = space.low, space.high, space.dtype
        flat = spaces.Box(low.flatten(), high.flatten(), dtype=np.float32)
        # A Gaussian's actions have no bounds; the environment's have.
        return flat, lambda a: np.clip(np.reshape(a, low.shape), low, high).astype(kind)
    if isinstance(space, spaces.Tuple | spaces.Dict):
        return _joint(space)
    raise ValueError(f"no policy here gives actions of {space}")


def _joint(space: spaces.Tuple | spaces.Dict) -> Part:
    """Several discrete actions at once as one MultiDiscrete."""
    keys = list(space.spaces) if isinstance(space, spaces.Dict) else range(len(space.spaces))
    parts = [action_part(space[key]) for key in keys]
    sizes: list[np.ndarray] = []
    for part, _ in parts:
        if not isinstance(part, spaces.Discrete | spaces.MultiDiscrete):
            raise ValueError(
                f"no policy here gives discrete and continuous actions at once: {space}"
            )
        sizes.append(np.atleast_1d(part.n if isinstance(part, spaces.Discrete) else part.nvec))
    ends = np.cumsum([len(size) for size in sizes])

    def apply(action: Any) -> Any:
        pieces = np.split(np.asarray(action), ends[:-1])
        values = [
            read(piece[0] if isinstance(part, spaces.Discrete) else piece)
            for (part, read), piece in zip(parts, pieces, strict=True)
        ]
        return dict(zip(keys, values, strict=True)) if isinstance(keys, list) else tuple(values)

    return spaces.MultiDiscrete(np.concatenate(sizes)), apply


def _leaves(
    space: gym.Space, path: tuple[Any, ...] = ()
) -> list[tuple[tuple[Any, ...], gym.Space]]:
    """The spaces inside nested Dicts and Tuples, each with the keys that lead to it."""
    if isinstance(space, spaces.Dict):
        inner = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        inner = list(enumerate(space.spaces))
    else:
        return [(path, space)]
    return [leaf for key, part in inner for leaf in _leaves(part, (*path, key))]


def _name(path: tuple[Any, ...], space: gym.Space) -> str:
    """A key for a part: its own path, or what it is where the observation has one part only."""
    if _is_text(space):
        return "instruction"
    if not path:
        return "frame" if _is_frame(space) else "vector"
    names = [key if isinstance(key, str) else f"part_{key}" for key in path]
    return "_".join(names).replace(".", "_")  # torch's ModuleDict takes no dots


def _at(observation: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        observation = observation[key]
    return observation


def _is_grid(env: gym.Env, path: tuple[Any, ...]) -> bool:
    """Whether a part is MiniGrid's image, which holds codes, not colours."""
    space = env.observation_space
    if path != ("image",) or not isinstance(space, spaces.Dict) or "mission" not in space.spaces:
        return False
    return env.spec is not None and env.spec.id.startswith(("MiniGrid-", "BabyAI-"))


def _is_text(space: gym.Space) -> bool:
    # MiniGrid's missions are a space of their own, known by name so that MiniGrid need not be installed.
    kinds = {kind.__name__ for kind in type(space).__mro__}
    return isinstance(space, spaces.Text) or "MissionSpace" in kinds


def _is_frame(space: gym.Space) -> bool:
    """Whether a space holds pictures that convolutions can read."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    return len(space.shape) in (2, 3) and sorted(space.shape)[-2] >= SMALLEST


def _frame(space: spaces.Box) -> Part:
    """A picture [H, W, C], the channels last, shrunk by averaging where it is large."""
    shape = space.shape if len(space.shape) == 3 else (*space.shape, 1)
    channels_first = shape[0] < min(shape[1:])
    height, width, channels = (*shape[1:], shape[0]) if channels_first else shape
    factor = SHRUNK / max(height, width) if max(height, width) > LARGEST else 1.0
    size = round(height * factor), round(width * factor)

    def read(frame: np.ndarray) -> np.ndarray:
        if channels_first:
            frame = np.ascontiguousarray(np.moveaxis(frame, 0, -1))
        if factor != 1.0:
            frame = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
        return frame.reshape(*size, channels)

    return spaces.Box(0, 255, (*size, channels), np.uint8), read


def _vector(space: spaces.Box) -> Part:
    """Numbers as float32 [size]: bytes as 0 to 1, large numbers on a logarithmic scale."""
    size = int(np.prod(space.shape))
    if space.dtype == np.uint8:
        return spaces.Box(0, 1, (size,), np.float32), lambda x: _flat(x) / np.float32(255)
    low, high = (_flat(bound) for bound in (space.low, space.high))
    if max(abs(low).max(), abs(high).max()) <= LARGE:
        return spaces.Box(low, high, dtype=np.float32), _flat
    everything = spaces.Box(-np.inf, np.inf, (size,), np.float32)
    # Signs stay, small numbers too, and those of a game's score or ammunition become small.
    return everything, lambda x: np.sign(_flat(x)) * np.log1p(np.abs(_flat(x)))


def _same(value: Any) -> Any:
    return value


def _flat(value: Any) -> np.ndarray:
    return np.asarray(value, np.float32).reshape(-1)
