"""Environments by name: `make` gives one, `make_vec` gives N in one batch, `names` lists ours, `register` adds one."""

from __future__ import annotations

import copy
import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from envs.adapt import Adapted, adapt, adapt_vec, is_adapted, mark
from envs.dmlab.levels import LEVEL_NAMES
from envs.errors import MissingDependencyError
from envs.third_party import (
    Package,
    check_render_mode,
    draw_off_screen,
    enter,
    package_of,
    wrappers,
)
from envs.wrappers import LastStep, LastStepVector, Single

Factory = Callable[..., Any] | str
# name -> what makes it: "module:function" or "module:function:argument", imported when asked for, or a callable.
_ENVIRONMENTS: dict[str, Factory] = {
    "dmlab_rooms_select": "envs.room.make:make_rooms_select",
    **{f"dmlab_{level}": f"envs.dmlab.make:make_level:{level}" for level in LEVEL_NAMES},
}


def names() -> list[str]:
    """The names of this package's own environments and of those registered; any gymnasium id works beside them."""
    return sorted(_ENVIRONMENTS)


def register(name: str, factory: Factory) -> None:
    """Makes an environment known as `name`: `--env NAME`, `make`, `make_vec`, and the tests of every environment.

    Example:
        >>> import envs, gymnasium as gym
        >>> envs.register("my_cart", lambda **settings: gym.make("CartPole-v1", **settings))
        >>> envs.make("my_cart").action_space
        Discrete(2)

    Args:
        factory: a function or class whose first parameter is `num_envs`, which gives a `VectorEnv` that resets itself
            in the next step; or one that gives a single `gymnasium.Env`; or either as "module:NAME", imported when
            the environment is first made. What it makes is adapted (`envs.adapt`). Settings are its keyword arguments.

    Raises:
        ValueError: for a name that cannot be one, or a factory that cannot make anything.
    """
    if not isinstance(name, str) or not name or ":" in name or name != name.strip():
        raise ValueError(f"environment name {name!r}: expected words without ':' and outer blanks")
    if isinstance(factory, str):
        module, _, attribute = factory.partition(":")
        if not module or not attribute:
            raise ValueError(f"environment {name!r} is {factory!r}: expected 'module:Class'")
    elif not callable(factory):
        raise ValueError(
            f"environment {name!r} is {factory!r}: expected a class, a function or 'module:Class'"
        )
    _ENVIRONMENTS[name] = factory


def import_modules(modules: Sequence[str]) -> None:
    """Imports what registers environments, memories or encoders (`--import MODULE`), also from the current folder.

    Raises:
        ValueError: one line, where a module is not there or fails.
    """
    for module in modules:
        try:
            _import(module)
        except Exception as error:
            why = str(error).split("\n", 1)[0]
            raise ValueError(
                f"cannot import module {module!r}: {type(error).__name__}: {why}"
            ) from error


def has_engines(name: str) -> bool:
    """Whether `name` is of the package's own DeepMind Lab environments, which take `engine`."""
    own = _ENVIRONMENTS.get(name, "envs.")
    return name.startswith("dmlab_") and isinstance(own, str) and own.startswith("envs.")


def registration(name: str) -> Factory | EnvSpec | None:
    """What `name` was registered with, here or in gymnasium, to be carried to another process; None if unknown."""
    return _ENVIRONMENTS.get(name) or gym.registry.get(name)


def restore(name: str, found: Factory | EnvSpec | None) -> None:
    """Enters in this process what `registration` gave in another, unless the name is known here."""
    if isinstance(found, EnvSpec):
        gym.registry.setdefault(name, found)
    elif found is not None:
        _ENVIRONMENTS.setdefault(name, found)


def make_vec(name: str, num_envs: int | None = None, /, **settings: Any) -> VectorEnv:
    """N environments as one `gymnasium.vector.VectorEnv` that resets itself in the next step.

    Args:
        name: one of `names()`, or a gymnasium id, also as "module:Id-v0", where `module` registers it; the latter's
            observations become a flat Dict (`envs.adapt`) that also has the last reward and the last action.
        num_envs: how many (a keyword, too, where no setting has that name).
        settings: the environment's own, of any name.

    Raises:
        ValueError: for a name that nobody knows, with the nearest that exist, or a bad setting.
        MissingDependencyError: where what an id belongs to is not installed.
    """
    if num_envs is None:
        if "num_envs" not in settings:
            raise TypeError("make_vec needs num_envs: how many worlds")
        num_envs = settings.pop("num_envs")
    if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
        raise ValueError(f"num_envs={num_envs!r}: expected a whole number from 1")
    name, package = _look_up(name)
    if settings.get("render_mode") == "rgb_array":
        draw_off_screen()
    factory = _ENVIRONMENTS.get(name)
    if factory is not None:
        made = _resolve(name, factory)
        if _makes_vectors(made):
            return _vector(name, made, num_envs, settings)
        build = partial(_one, name, factory, settings)
        return LastStepVector(_worlds([build] * num_envs))
    apart = package is not None and package.own_process and num_envs > 1
    spec = _spec(name, settings)
    env = _worlds([partial(_bare, spec, package)] * num_envs, apart)
    env.unwrapped.spec = copy.deepcopy(spec)
    return LastStepVector(env)


def make(name: str, /, **settings: Any) -> gym.Env:
    """One environment; the arguments are `make_vec`'s."""
    name, package = _look_up(name)
    if settings.get("render_mode") == "rgb_array":
        draw_off_screen()
    factory = _ENVIRONMENTS.get(name)
    if factory is not None:
        made = _resolve(name, factory)
        if _makes_vectors(made):
            return Single(_vector(name, made, 1, settings))
        return LastStep(_one(name, factory, settings))
    check_render_mode(name, settings.get("render_mode"))
    return LastStep(_bare(_spec(name, settings), package))


def _worlds(builders: list[Callable[[], gym.Env]], apart: bool = False) -> VectorEnv:
    mode = AutoresetMode.NEXT_STEP
    if apart:
        return AsyncVectorEnv(builders, context="spawn", autoreset_mode=mode)
    return SyncVectorEnv(builders, autoreset_mode=mode)


def _bare(spec: EnvSpec, package: Package | None) -> gym.Env:
    """One environment of gymnasium's, adapted but for its last step."""
    try:
        env = gym.make(spec)
    except gym.error.DependencyNotInstalled as error:
        why = str(error).split("\n", 1)[0]
        raise MissingDependencyError(f"{spec.id} needs what is not installed: {why}") from error
    for wrapper in wrappers(package):
        env = wrapper(env)
    return env


def _one(name: str, factory: Factory, settings: dict[str, Any]) -> gym.Env:
    made = _resolve(name, factory)(**settings)
    if not isinstance(made, gym.Env) or is_adapted(made):
        made = _finished(name, made, gym.Env)
        return made.env if isinstance(made, LastStep) else made
    return Adapted(made)


def _vector(
    name: str, factory: Callable[..., Any], num_envs: int, settings: dict[str, Any]
) -> VectorEnv:
    if "num_envs" in settings:
        raise ValueError(
            f"environment {name!r} has no setting 'num_envs': it is how many there are"
        )
    made = _finished(name, factory(num_envs, **settings), VectorEnv)
    if made.num_envs != num_envs:
        raise ValueError(
            f"environment {name!r}: its factory made {made.num_envs} worlds, expected {num_envs} (num_envs)"
        )
    return made


def _finished(name: str, given: Any, kind: type) -> Any:
    """What a factory made, looked at and adapted; this package's own environments are as they are."""
    made: Any = given
    if not isinstance(given, kind):
        raise ValueError(
            f"environment {name!r}: its factory made a {type(made).__name__}: expected a {kind.__name__} "
            "(a factory of vector environments has num_envs as its first parameter)"
        )
    own = _ENVIRONMENTS[name]
    if isinstance(own, str) and own.startswith("envs."):
        return mark(made)
    return adapt(made) if kind is gym.Env else adapt_vec(made)


def _resolve(name: str, factory: Factory) -> Callable[..., Any]:
    if not isinstance(factory, str):
        return factory
    module, attribute, *arguments = factory.split(":")
    if not module.startswith("envs."):
        import_modules([module])
    try:
        found = getattr(importlib.import_module(module), attribute)
    except AttributeError as error:
        raise ValueError(f"environment {name!r}: module {module!r} has no {attribute!r}") from error
    return partial(found, *arguments) if arguments else found


def _makes_vectors(factory: Callable[..., Any]) -> bool:
    """Whether a factory gives vector environments: its first parameter is `num_envs`."""
    if isinstance(factory, type):
        return issubclass(factory, VectorEnv)
    try:
        parameters = list(inspect.signature(factory).parameters)
    except (TypeError, ValueError):  # builtins have no signature
        return False
    return parameters[:1] == ["num_envs"]


def _look_up(name: str) -> tuple[str, Package | None]:
    """The name without its module, which is imported, and the package it belongs to.

    Raises:
        ValueError: for a name that nobody knows.
    """
    if not isinstance(name, str):
        raise ValueError(
            f"environment {name!r}: expected a name; adapt an environment with envs.adapt"
        )
    if ":" in name:
        module, name = name.split(":", 1)
        import_modules([module])
    if name in _ENVIRONMENTS:
        return name, None
    package = enter(name) if package_of(name) else None
    try:
        gym.spec(name)
    except (gym.error.Error, ModuleNotFoundError) as error:
        near = difflib.get_close_matches(name, [*names(), *gym.registry], 3, 0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "envs.names() lists ours"
        raise ValueError(
            f"unknown environment {name!r}: {hint} (one of a user's own needs the module that registers it: "
            "--import MODULE, or module:Id-v0)"
        ) from error
    return name, package


def _spec(name: str, settings: dict[str, Any]) -> EnvSpec:
    """A gymnasium id with its settings in it, so that none meets a parameter of `gymnasium.make`."""
    spec = copy.deepcopy(gym.spec(name))
    settings = dict(settings)
    point = spec.entry_point
    creator = load_env_creator(point) if isinstance(point, str) else point
    # What is both gymnasium's and the environment's is the environment's.
    own = _parameters(creator)
    if "max_episode_steps" in settings and "max_episode_steps" not in own:
        spec.max_episode_steps = settings.pop("max_episode_steps")
    if "disable_env_checker" in settings and "disable_env_checker" not in own:
        spec.disable_env_checker = settings.pop("disable_env_checker")
    spec.kwargs.update(settings)
    return spec


def _parameters(creator: Any) -> set[str]:
    try:
        return set(inspect.signature(creator).parameters)
    except (TypeError, ValueError):
        return set()


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        here = os.getcwd()
        if error.name != module.split(".")[0] or here in sys.path or "" in sys.path:
            raise
        sys.path.append(here)
        importlib.invalidate_caches()
        importlib.import_module(module)
