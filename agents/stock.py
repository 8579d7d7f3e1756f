"""`MemoryRLModule` under RLlib's stock configs: what would train wrong in silence is refused before it starts.

RLlib shows a module its `model_config` and nothing else, and a config has no hook for the module it is
given; so importing `agents` makes `AlgorithmConfig.validate` look at configs that name `MemoryRLModule`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from agents.config import MemoryConfig
from agents.distributions import parameter_count
from agents.module import MemoryRLModule, network_settings


def install() -> None:
    """Makes every config that names `MemoryRLModule` pass `check_stock` when it is validated."""
    if not getattr(AlgorithmConfig.validate, "looks_at_memory", False):
        AlgorithmConfig.validate = _looking(AlgorithmConfig.validate)  # type: ignore[method-assign]


def _looking(validate: Callable[[AlgorithmConfig], None]) -> Callable[[AlgorithmConfig], None]:
    @functools.wraps(validate)
    def looking(self: AlgorithmConfig) -> None:
        validate(self)
        if not isinstance(self, MemoryConfig):
            check_stock(self)

    looking.looks_at_memory = True  # type: ignore[attr-defined]
    return looking


def check_stock(config: AlgorithmConfig) -> None:
    """Refuses a stock config under which a `MemoryRLModule` would not train as it acts.

    Raises:
        ValueError: one line that says what was given, what is needed and what to set.
    """
    specs = dict(_memory_specs(config))
    if not specs:
        return
    for pipeline in ("env_to_module", "module_to_env", "learner"):
        if not getattr(config, f"add_default_connectors_to_{pipeline}_pipeline"):
            raise ValueError(
                f"the {pipeline} pipeline lacks RLlib's default connectors, which carry the memory: "
                f"leave add_default_connectors_to_{pipeline}_pipeline at True"
            )
    for module_id, spec in specs.items():
        settings = dict(spec.model_config or {}) if isinstance(spec.model_config, dict) else {}
        network_settings(settings)
        if spec.action_space or config.action_space:
            parameter_count(spec.action_space or config.action_space)
        if config.batch_mode == "truncate_episodes":
            _check_length(module_id, settings.get("max_seq_len"), config)


def _check_length(module_id: str, given: int | None, config: AlgorithmConfig) -> None:
    # The learner's rows hold a chunk of an episode and one step more, which bootstraps it.
    needed = config.get_rollout_fragment_length() + 1
    if given is None or given < needed:
        has = "no max_seq_len" if given is None else f"max_seq_len={given}"
        raise ValueError(
            f"module {module_id!r} has {has} and fragments have {needed - 1} steps, so what happened "
            f"in a row before would not be learned from: set model_config['max_seq_len'] to {needed} "
            "or more, or rollout_fragment_length to less"
        )


def _memory_specs(config: AlgorithmConfig) -> Iterator[tuple[str, RLModuleSpec]]:
    given = config.rl_module_spec
    if isinstance(given, MultiRLModuleSpec):
        found = given.rl_module_specs
        specs = found if isinstance(found, dict) else {DEFAULT_MODULE_ID: found}
    else:
        specs = {DEFAULT_MODULE_ID: given}
    for module_id, spec in specs.items():
        if isinstance(spec.module_class, type) and issubclass(spec.module_class, MemoryRLModule):
            yield module_id, spec
