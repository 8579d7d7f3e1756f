"""Any gymnasium environment as one whose observations and actions our networks read and write.

Observations become a flat Dict of Box, Discrete, MultiDiscrete and MultiBinary parts; actions become Discrete,
MultiDiscrete or a flat Box. Nothing is stacked over time: remembering is the network's part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from envs.observations import Part, is_text, note, note_large, observation_part, picture_axes
from envs.policy_actions import action_part, choices
from envs.wrappers import ACTION, REWARD, LastStep, LastStepVector, Single

__all__ = ["Adapted", "AdaptedVector", "action_part", "adapt", "adapt_vec", "observation_part"]

MASK, INSTRUCTION = "action_mask", "instruction"
_READY = "ct_rl_adapted"  # an attribute of what `mark` was given
_MEND = "mend the environment"
Path = tuple[Any, ...]


def adapt(env: gym.Env) -> gym.Env:
    """One environment with flat observations, the last reward and action beside them, and a policy's actions.

    What was adapted before, or comes from `envs.make`, is given back as it is, but for the last step, which is the
    outermost layer's; so are environments of several agents.

    Raises:
        ValueError: for spaces that no network here reads or writes.
    """
    if any(kind.__name__ == "MultiAgentEnv" for kind in type(env).__mro__):
        return env
    if is_adapted(env):
        whole = isinstance(env, LastStep | Single) or _READY in vars(env)
        return env if whole else LastStep(env)
    return LastStep(env if isinstance(env, Adapted) else Adapted(env))


def adapt_vec(env: VectorEnv) -> VectorEnv:
    """`adapt` for a vector environment, which must reset itself in the next step.

    Raises:
        ValueError: for such spaces, or another autoreset mode.
    """
    if is_adapted(env):
        return env
    return LastStepVector(env if isinstance(env, AdaptedVector) else AdaptedVector(env))


def is_adapted(env: gym.Env | VectorEnv) -> bool:
    """Whether an environment, or one that it wraps, was adapted or made by this package."""
    layer: Any = env
    while layer is not None:
        if isinstance(layer, LastStep | LastStepVector | Single) or getattr(layer, _READY, False):
            return True
        layer = getattr(layer, "env", None)
    if not isinstance(env, VectorEnv):
        return False
    # The worlds inside a vector environment of gymnasium's cannot be seen from here, what they show can.
    space = env.single_observation_space
    found = dict(space.spaces) if isinstance(space, spaces.Dict) else {}
    reward, action = found.pop(REWARD, None), found.pop(ACTION, None)
    found.pop(INSTRUCTION, None)
    if not isinstance(reward, spaces.Box) or reward.shape != (1,) or action is None:
        return False
    flat = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    return all(
        isinstance(part, flat) and observation_part(part)[0] == part for part in found.values()
    )


def mark(env: Any) -> Any:
    """Notes that an environment needs no adapting; gives it back."""
    setattr(env, _READY, True)
    return env


class _Reader(NamedTuple):
    """How a nested observation becomes a flat one."""

    space: spaces.Dict
    parts: dict[str, tuple[Path, Callable[[Any], Any]]]
    mask: Callable[[Any], np.ndarray] | None

    def __call__(self, observation: Any) -> dict[str, Any]:
        flat = {name: read(_at(observation, path)) for name, (path, read) in self.parts.items()}
        if self.mask is not None:
            flat[MASK] = self.mask(observation)
        return flat


class Adapted(gym.Wrapper):
    """Maps the spaces of `env`, as the module says; text becomes hashed words under "instruction".

    A mask of actions (`action_mask` in the observation, in infos as Taxi has it, or from a method `action_masks()`)
    becomes the part "action_mask", int8 [choices]: 1 where an action is allowed.

    Raises:
        ValueError: for an action space that no policy here covers, an observation that no network reads.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.action_space, self._action = action_part(env.action_space)
        self._read = _reader(env.observation_space, self.action_space, _paints(env))
        count = choices(self.action_space)
        self._asks = self._told = False
        if count is not None and self._read.mask is None:
            self._asks = callable(getattr(env.unwrapped, "action_masks", None))
            self._told = not self._asks and hasattr(env.unwrapped, MASK)
        self.observation_space = self._read.space
        if self._asks or self._told:
            assert count is not None
            self._everything = np.ones(count, np.int8)
            self.observation_space = spaces.Dict(
                {**self._read.space.spaces, MASK: spaces.MultiBinary(count)}
            )

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        given: Any = self.env.reset(**kwargs)
        # A tuple: an observation alone, of two rows or parts, would pass for both.
        if not isinstance(given, tuple) or len(given) != 2:
            raise ValueError(f"reset gave {_count(given)}, expected two: observation, info")
        observation, info = given
        return self._observe(observation, info), info

    def step(self, action: Any) -> tuple[Any, ...]:
        given: Any = self.env.step(self._action(action))
        try:
            observation, reward, terminated, truncated, info = given
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"step gave {_count(given)}, expected five: observation, reward, terminated, truncated, info"
            ) from error
        seen = self._observe(observation, info)
        try:
            return seen, float(reward), bool(terminated), bool(truncated), info
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"step gave the reward {reward!r}, terminated {terminated!r}, truncated {truncated!r}: expected one "
                "number and two of True or False"
            ) from error

    def _observe(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        flat = self._read(observation)
        if self._asks:
            flat[MASK] = _bits(cast(Any, self.env.unwrapped).action_masks())
        elif self._told:
            flat[MASK] = _bits(info[MASK]) if MASK in info else self._everything
        return flat


def _count(given: Any) -> str:
    """What a call gave in place of a tuple, or how many it gave."""
    return f"{len(given)} values" if isinstance(given, tuple) else f"one {type(given).__name__}"


class AdaptedVector(VectorWrapper):
    """`Adapted` for a vector environment; masks of actions are read from its observations only.

    Infos pass as they are: gymnasium's `_key` beside each key says in which worlds it was given.
    """

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env)
        self.single_action_space, self._action = action_part(env.single_action_space)
        self.action_space = batch_space(self.single_action_space, env.num_envs)
        self._read = _reader(env.single_observation_space, self.single_action_space)
        self.single_observation_space = self._read.space
        self.observation_space = batch_space(self._read.space, env.num_envs)
        self._leaves = _leaves(env.single_observation_space)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._observe(observations), infos

    def step(self, actions: Any) -> tuple[Any, ...]:
        inner = self.env.single_action_space
        taken = concatenate(
            inner,
            [self._action(action) for action in actions],
            create_empty_array(inner, self.num_envs),
        )
        observations, *rest = self.env.step(taken)
        return self._observe(observations), *rest

    def _observe(self, observations: Any) -> dict[str, Any]:
        self._check(observations, 1)  # gymnasium passes over rows that are too many
        try:
            flat = [self._read(one) for one in iterate(self.env.observation_space, observations)]
            empty = create_empty_array(self.single_observation_space, self.num_envs)
            joined: Any = concatenate(self.single_observation_space, flat, empty)
        except Exception:
            self._check(observations, None)
            raise
        return cast(dict[str, Any], joined)

    def _check(self, observations: Any, dims: int | None) -> None:
        """Raises ValueError for a part whose first `dims` dimensions, or all, are not those of N worlds."""
        for path, space in self._leaves:
            part = f"'s part {'/'.join(map(str, path))!r}" if path else ""
            wanted = (self.num_envs, *(space.shape or ()))
            try:
                given = _at(observations, path)
            except (KeyError, IndexError, TypeError):
                raise ValueError(f"the observation{part} is not there: {_MEND}") from None
            shape = getattr(given, "shape", None)
            if shape is None:  # a list or tuple, whose rows may be anything
                shape = (len(given), *wanted[1:]) if hasattr(given, "__len__") else ()
            if shape[:dims] != wanted[:dims]:
                kind = getattr(given, "dtype", type(given).__name__)
                raise ValueError(
                    f"the observation{part} of {self.num_envs} worlds is {kind} {list(shape)}, expected "
                    f"{list(wanted)}: {_MEND}"
                )


def _reader(space: gym.Space, action: gym.Space, painted: bool = False) -> _Reader:
    leaves = _leaves(space)
    mask, masked = _mask(leaves, action)
    leaves = [leaf for leaf in leaves if leaf[0] not in masked]
    names = _names(leaves, taken=[MASK] if masked else [])
    found: dict[str, gym.Space] = {}
    parts: dict[str, tuple[Path, Callable[[Any], Any]]] = {}
    for (path, leaf), name in zip(leaves, names, strict=True):
        found[name], read = observation_part(leaf, not painted and _is_grid(space, path))
        note_large(name, leaf, found[name])
        parts[name] = path, read
    if mask is not None:
        found[MASK] = mask[0]
    return _Reader(spaces.Dict(found), parts, None if mask is None else mask[1])


def _mask(
    leaves: list[tuple[Path, gym.Space]], action: gym.Space
) -> tuple[Part | None, list[Path]]:
    """The mask at the top of an observation (in one piece or several), and the paths of its pieces."""
    pieces = [(path, space) for path, space in leaves if path[:1] == (MASK,)]
    if not pieces:
        return None, []
    sizes = [int(np.prod(space.shape or ())) if _is_binary(space) else 0 for _, space in pieces]
    wanted = choices(action)
    if not all(sizes) or wanted != sum(sizes):
        note(
            f"the observation's part 'action_mask' is no mask of the actions {action}: it is an ordinary "
            f"part; give {wanted or 'no'} numbers, 1 where an action is allowed"
        )
        return None, []
    paths = [path for path, _ in pieces]

    def read(observation: Any) -> np.ndarray:
        return np.concatenate([_bits(_at(observation, path)) for path in paths])

    return (spaces.MultiBinary(sum(sizes)), read), paths


def _is_binary(space: gym.Space) -> bool:
    if isinstance(space, spaces.Box):
        return bool((space.low >= 0).all() and (space.high <= 1).all())
    return isinstance(space, spaces.MultiBinary)


def _bits(mask: Any) -> np.ndarray:
    return (np.asarray(mask).reshape(-1) != 0).astype(np.int8)


def _leaves(space: gym.Space, path: Path = ()) -> list[tuple[Path, gym.Space]]:
    """The spaces inside nested Dicts and Tuples, each with the keys that lead to it."""
    inner: list[tuple[Any, gym.Space]]
    if isinstance(space, spaces.Dict):
        inner = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        inner = list(enumerate(space.spaces))
    else:
        return [(path, space)]
    return [leaf for key, part in inner for leaf in _leaves(part, (*path, key))]


def _names(leaves: list[tuple[Path, gym.Space]], taken: list[str]) -> list[str]:
    """A key for every part, no two alike: its path joined by "_", or more where that means something else.

    What meets another name is joined by "/" (the part whose own key it is keeps it), what would be taken for the last
    reward, the last action, a mask or an instruction begins with "own_", and texts but a lone one are
    "instruction:PATH", which the encoders read as sentences, too.
    """
    texts = sum(is_text(space) for _, space in leaves)
    used = {REWARD, ACTION, MASK, INSTRUCTION, *taken}
    names = [""] * len(leaves)
    # Those that are spelled as they are called choose first.
    for i in sorted(range(len(leaves)), key=lambda i: len(leaves[i][0])):
        path, space = leaves[i]
        words = [key if isinstance(key, str) else f"part_{key}" for key in path]
        if not path:
            words = ["frame" if picture_axes(space) is not None else "vector"]
        if is_text(space):
            if texts == 1:
                names[i] = INSTRUCTION
                continue
            options = [f"{INSTRUCTION}:{joint.join(words)}" for joint in ("_", "/")]
        else:
            options = [joint.join(words).replace(".", "_") for joint in ("_", "/")]
            if options[0] in (REWARD, ACTION, MASK, INSTRUCTION) or options[0].startswith(
                f"{INSTRUCTION}:"
            ):
                options = [f"own_{option}" for option in options]
        last = options[-1]
        options += [f"{last}#{count}" for count in range(2, len(leaves) + 6)]
        names[i] = next(option for option in options if option not in used)
        used.add(names[i])
    return names


def _at(observation: Any, path: Path) -> Any:
    for key in path:
        observation = observation[key]
    return observation


def _is_grid(space: gym.Space, path: Path) -> bool:
    """Whether a part is MiniGrid's image, which holds codes, not colours: it comes with a mission of MiniGrid's own."""
    if path != ("image",) or not isinstance(space, spaces.Dict):
        return False
    kinds = {kind.__name__ for kind in type(space.spaces.get("mission")).__mro__}
    shape = space["image"].shape or ()
    return "MissionSpace" in kinds and len(shape) == 3 and shape[-1] == 3


def _paints(env: Any) -> bool:
    """Whether one of MiniGrid's wrappers around an environment turns its codes into colours."""
    while env is not None:
        if type(env).__name__.startswith("RGB"):
            return True
        env = getattr(env, "env", None)
    return False
