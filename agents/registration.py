"""Names: environments in Tune's registry, the model in the old stack's catalog."""

from __future__ import annotations

from typing import Any

from ray.tune.registry import ENV_CREATOR, _global_registry, register_env


def register_environment(name: str) -> bool:
    """Makes `name` of `envs` known to RLlib as a natively batched environment.

    Returns:
        False where Tune knows the name already from someone else, who then decides how it is built.
    """
    if _global_registry.contains(ENV_CREATOR, name) and name not in _ours:
        return False
    _ours.add(name)
    register_env(name, _Creator(name))
    return True


def is_ours(name: str) -> bool:
    """Whether Tune makes `name` by `envs`."""
    return name in _ours


_ours: set[str] = set()


class _Creator:
    """Builds one environment, or N at once where RLlib asks for a vector; importable, hence picklable."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, context: dict[str, Any]) -> Any:
        import envs

        settings = dict(context)
        num_envs = settings.pop("num_envs", None)
        if num_envs is None:
            return envs.make(self.name, **settings)
        return envs.make_vec(self.name, num_envs, **settings)


def register() -> None:
    """Enters every environment of `envs` in Tune's registry, under its own name.

    Also enters the model "compressive_transformer" in the catalog of RLlib's old API stack, for those
    who train there with `custom_model`; the new stack is the way (see docs/rllib.md).
    """
    import envs
    from agents.old_stack import register_model

    for name in envs.names():
        register_environment(name)
    register_model()
