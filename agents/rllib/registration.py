"""Names: environments in Tune's registry, the model in the old stack's catalog."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_context import EnvContext
from ray.tune.registry import register_env

from agents.acting import check_autoreset
from agents.rllib.internals import environment_creator

_SETTINGS = "env_settings"  # where a setting that RLlib has the name of is kept


def register_environment(name: str, imports: Sequence[str] = ()) -> bool:
    """Makes `name` of `envs` known to RLlib as a natively batched environment.

    Args:
        imports: modules that a runner's process imports before it makes one.

    Returns:
        False where Tune knows the name already from someone else, who then decides how it is built.
    """
    known = environment_creator(name)
    if known is not None and not isinstance(known, _Creator):
        return False
    register_env(name, _Creator(name, tuple(imports)))
    return True


def environment_settings(settings: dict[str, Any], ours: bool) -> dict[str, Any]:
    """Settings of an environment as an `env_config`, in which none of `ours` meets a name of RLlib's own.

    Args:
        settings: may be what this function gave, with newer ones beside it.
        ours: whether `envs` makes it, and what this module registers takes the settings out again.
    """
    newer = {key: value for key, value in settings.items() if key != _SETTINGS}
    found = {**settings.get(_SETTINGS, {}), **newer}
    return {_SETTINGS: found} if ours and "num_envs" in found else found


def look_at_resets(config: AlgorithmConfig) -> None:
    """`check_autoreset` in the driver, of environments that make a vector of themselves: one is made and closed.

    A remote runner's refusal would be lost: RLlib only logs what its constructor raises.
    """
    mode = gym.VectorizeMode(config.gym_env_vectorize_mode)
    if mode != gym.VectorizeMode.VECTOR_ENTRY_POINT or not isinstance(config.env, str):
        return
    creator = environment_creator(config.env)
    if creator is None:
        return
    settings = environment_settings(config.env_config, ours=False)
    if isinstance(creator, _Creator) and "autoreset_mode" not in settings:
        return  # right by default, and some are slow to make
    made = creator(EnvContext({**config.env_config, "num_envs": 1}, worker_index=0))
    try:
        check_autoreset(made)
    finally:
        made.close()


def register_class(cls: Callable[..., Any]) -> str:
    """Enters a class or function of one's own, called with RLlib's `env_config`, in Tune's registry; its name there.

    What it makes is adapted, as what is made by name is: the same environment is the same at both doors.
    """
    place = getattr(cls, "__qualname__", "<unnamed>")
    name = (
        f"{cls.__module__ if '__module__' in dir(cls) else type(cls).__module__}.{place} (adapted)"
    )
    if "<" in place:  # a lambda, or made inside a function: others may have the same name
        made = _MADE.setdefault(name, [])
        if cls not in made:
            made.append(cls)
        number = made.index(cls) + 1
        name += f" {number}" if number > 1 else ""
    register_env(name, _Adapted(cls))
    return name


_MADE: dict[str, list[Callable[..., Any]]] = {}  # held, so that no other is taken for one of them


class _Adapted:
    """`cls`'s environments, adapted; importable, hence picklable."""

    def __init__(self, cls: Callable[..., Any]):
        self.cls = cls

    def __call__(self, context: dict[str, Any]) -> Any:
        import envs

        made = self.cls(context)
        return envs.adapt_vec(made) if isinstance(made, VectorEnv) else envs.adapt(made)


class _Creator:
    """Builds one environment, or N at once where RLlib asks for a vector; importable, hence picklable.

    What a script registered, with `envs` or gymnasium, travels along, so that a runner's process knows it, too.
    """

    def __init__(self, name: str, imports: tuple[str, ...]):
        import envs

        self.name, self.imports = name, imports
        self.made_by = envs.registration(name)

    def __call__(self, context: dict[str, Any]) -> Any:
        import envs

        envs.import_modules(self.imports)
        envs.restore(self.name, self.made_by)
        settings = dict(context)
        num_envs = settings.pop("num_envs", None)
        settings |= settings.pop(_SETTINGS, {})
        if num_envs is None:
            return envs.make(self.name, **settings)
        return envs.make_vec(self.name, num_envs, **settings)


def register() -> None:
    """Enters every environment of `envs` in Tune's registry, under its own name.

    Also enters the model "compressive_transformer" in the catalog of RLlib's old API stack, for those
    who train there with `custom_model`; the new stack is the way (see docs/rllib.md).
    """
    import envs
    from agents.rllib.old_stack import register_model

    for name in envs.names():
        register_environment(name)
    register_model()
