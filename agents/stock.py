"""`MemoryRLModule` under RLlib's stock configs: what would train wrong in silence is refused before it starts.

RLlib shows a module its `model_config` and nothing else, and a config has no hook for the module it is
given; so importing `agents` makes `AlgorithmConfig.validate` look at configs that name `MemoryRLModule`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils import force_list

from agents.config import MemoryConfig
from agents.distributions import parameter_count
from agents.module import MemoryRLModule, network_settings
from agents.runner import check_autoreset, look_at_resets


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

    What only an environment tells is looked at where one is made: here, and by a callback in the runners.

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
    if config.enable_env_runner_and_connector_v2:
        look_at_resets(config)
        callbacks = force_list(config.callbacks_on_environment_created)
        if check_environment not in callbacks:
            config.callbacks_on_environment_created = [*callbacks, check_environment]


def check_environment(*, env_runner: Any, **kwargs: Any) -> None:
    """Refuses an environment whose autoreset mode RLlib's runner misreads; for `on_environment_created`.

    Under SAME_STEP the runner takes the first observation of an episode for the last of the one before, and its
    first step for a reset: that action and its reward are dropped.

    Raises:
        ValueError: one line that says what its mode is, and what is needed.
    """
    # RLlib makes the vectors of several agents itself, always in the right mode.
    if isinstance(env_runner, SingleAgentEnvRunner):
        check_autoreset(env_runner.env)


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
