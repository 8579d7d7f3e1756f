"""Names: environments in Tune's registry."""

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
    """Enters every environment of `envs` in Tune's registry, under its own name."""
    import envs

    for name in envs.names():
        register_environment(name)
