"""`MemoryRLModule` under RLlib's stock configs: what would train wrong in silence is refused before it starts.

RLlib shows a module its `model_config` and nothing else, and a config has no hook for the module it is given:
`with_memory` gives a config both, and `check_stock` looks at one that was made by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils import force_list

from agents.acting import check_autoreset
from agents.distributions import parameter_count
from agents.rllib.carried import carry, enter
from agents.rllib.learner import REPORT
from agents.rllib.module import (
    MemoryRLModule,
    check_network_names,
    model_settings,
    network_arguments,
    refuse_for_stock_learners,
)
from agents.rllib.registration import look_at_resets, register_class


def with_memory(
    config: AlgorithmConfig,
    name: str = "compressive",
    /,
    *,
    network: Mapping[str, Any] | None = None,
    auxiliary: Mapping[str, Mapping[str, Any]] | None = None,
    loss_coeffs: Mapping[str, float] | None = None,
    **options: Any,
) -> AlgorithmConfig:
    """A stock config whose policy has a memory: RLlib's own runner, connectors and learner.

    `max_seq_len` is set to the fragment length and one step, which RLlib's learners need, and some more for several
    environments in a runner: `network={"max_seq_len": ...}` sets another. The config is looked at when its algorithm
    is built (`check_stock`), and every loss of the memory and the auxiliaries is in the results under
    `result["ct_rl"]` as NAME_loss. Call it last: it reads what else was set.

    Args:
        config: RLlib's own, such as `PPOConfig()`.
        name, options: a core and its settings, as `ct_rl.memory.build_memory` takes them.
        network: `ActorCritic`'s other settings, such as `{"width": 64}`.
        auxiliary: losses beside the task's, by name, each with its settings.
        loss_coeffs: weights of those losses by name, 1 where none is given.

    Raises:
        ValueError: what `check_stock` raises, and for a config of several agents.
    """
    _refuse_several_agents(config)
    if callable(config.env) and not config.is_multi_agent:
        config.environment(register_class(config.env))
    settings = {
        "memory": name,
        "memory_options": dict(options),
        "auxiliary": {name: dict(own) for name, own in (auxiliary or {}).items()},
        "loss_coeffs": dict(loss_coeffs or {}),
        "max_seq_len": _row_length(config),
        **(network or {}),
    }
    settings["carried"] = carry(settings)
    config.rl_module(
        rl_module_spec=RLModuleSpec(module_class=MemoryRLModule, model_config=settings)
    )
    check_stock(config)
    # Both as functions and as a class: `callbacks(...)` puts what it is given in the place of those of that kind.
    for event, callback in _CALLBACKS.items():
        given = force_list(getattr(config, f"callbacks_{event}"))
        if callback not in given:
            setattr(config, f"callbacks_{event}", [*given, callback])
    theirs = [
        cls
        for cls in force_list(config.callbacks_class)
        if cls not in (RLlibCallback, MemoryCallbacks)
    ]
    # RLlib writes one class down, and no list of them: there is one where nobody else has any.
    config.callbacks(callbacks_class=[*theirs, MemoryCallbacks] if theirs else MemoryCallbacks)
    return config


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
        settings = model_settings(spec)
        network = network_arguments(settings)
        enter(settings.get("carried") or ())
        check_network_names(network, settings.get("imports") or ())
        refuse_for_stock_learners(network.get("value_bins", 0), network.get("reward_clip", "none"))
        space = spec.action_space or config.action_space
        if space is not None:
            parameter_count(space)
            _check_units(space)
        if config.batch_mode == "truncate_episodes":
            _check_length(module_id, settings.get("max_seq_len"), config)
    if config.enable_env_runner_and_connector_v2:
        look_at_resets(config)


def check_environment(*, env_runner: Any, **kwargs: Any) -> None:
    """Refuses an environment whose autoreset mode or actions RLlib's runner misreads; for `on_environment_created`.

    Under SAME_STEP the runner takes the first observation of an episode for the last of the one before, and its
    first step for a reset: that action and its reward are dropped.

    Raises:
        ValueError: one line that says what its mode is, or its actions are, and what is needed.
    """
    # RLlib makes the vectors of several agents itself, always in the right mode.
    if isinstance(env_runner, SingleAgentEnvRunner):
        check_autoreset(env_runner.env)
        _check_units(env_runner.env.single_action_space)


def _check_units(space: gym.Space) -> None:
    """Refuses actions that RLlib gives to an environment in other units than its own."""
    discrete = isinstance(space, spaces.Discrete | spaces.MultiDiscrete)
    if (discrete and np.any(space.start)) or (  # type: ignore[attr-defined]
        isinstance(space, spaces.Box) and np.dtype(space.dtype).kind != "f"
    ):
        raise ValueError(
            f"actions of {space}: RLlib counts discrete ones from 0 and gives numbers that are not whole, so that the "
            "environment would get others than these: wrap it in envs.adapt"
        )


def _refuse_several_agents(config: AlgorithmConfig) -> None:
    if config.is_multi_agent:
        raise ValueError(
            "with_memory is for one policy, and this config has several agents: give each policy an "
            "RLModuleSpec(module_class=MemoryRLModule) in a MultiRLModuleSpec, and call check_stock(config)"
        )


def _check_algorithm(*, algorithm: Any, **kwargs: Any) -> None:
    _refuse_several_agents(algorithm.config)
    check_stock(algorithm.config)


def _report_losses(*, algorithm: Any, result: dict[str, Any], **kwargs: Any) -> None:
    """Puts every loss beside the task's into the results; for `on_train_result`."""
    found = algorithm.learner_group.foreach_learner(_last_losses)
    first = next(iter(found), None)
    losses = first.get() if hasattr(first, "get") and not isinstance(first, dict) else first
    result.setdefault(REPORT, {}).update(losses or {})


_CALLBACKS = {
    "on_algorithm_init": _check_algorithm,
    "on_environment_created": check_environment,
    "on_train_result": _report_losses,
}


class MemoryCallbacks(RLlibCallback):
    """What `with_memory` does beside a config's settings, where the functions of the same were replaced."""

    def on_algorithm_init(self, *, algorithm: Any, **kwargs: Any) -> None:
        _run_where_replaced("on_algorithm_init", algorithm.config, algorithm=algorithm)

    def on_environment_created(self, *, env_runner: Any, **kwargs: Any) -> None:
        _run_where_replaced("on_environment_created", env_runner.config, env_runner=env_runner)

    def on_train_result(self, *, algorithm: Any, result: dict[str, Any], **kwargs: Any) -> None:
        _run_where_replaced("on_train_result", algorithm.config, algorithm=algorithm, result=result)


def _run_where_replaced(event: str, config: AlgorithmConfig, **kwargs: Any) -> None:
    if _CALLBACKS[event] not in force_list(getattr(config, f"callbacks_{event}")):
        _CALLBACKS[event](**kwargs)


def _last_losses(learner: Any) -> dict[str, float]:
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    return {f"{name}_loss": float(loss) for name, loss in module.last_losses.items()}


def _row_length(config: AlgorithmConfig) -> int:
    """Steps in a row of the learner, which RLlib fills up to this length: a chunk of an episode and one more.

    RLlib's runner goes on until its worlds have made so many steps together, and does not count resets: a world makes
    more steps than a fragment while others reset. There is room for others whose episodes last 16 steps; at worst it
    would be twice the fragment.
    """
    steps = config.get_rollout_fragment_length()
    return steps + 1 + (1 + steps // 16 if config.num_envs_per_env_runner > 1 else 0)


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
