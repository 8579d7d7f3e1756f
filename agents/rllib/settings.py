"""Every setting of RLlib's configs on the fast path: honoured, or refused where it would do nothing.

A setting that stands in neither table is refused, too, once it is changed: nothing that is set is ignored in silence.
docs/rllib.md shows what is refused most often; a test fails where a new Ray brings a setting.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ray.rllib.algorithms.algorithm_config import (
    AlgorithmConfig,
    TorchCompileWhatToCompile,
)
from ray.rllib.callbacks.callbacks import RLlibCallback

from agents.errors import unknown

# Settings that do here what RLlib says they do, by what they are about.
HONOURED: dict[str, tuple[str, ...]] = {
    "resources": (
        "placement_strategy",
        "num_gpus",
        "_fake_gpus",
        "num_cpus_for_main_process",
        "custom_resources_for_main_process",
        "num_cpus_per_env_runner",
        "num_gpus_per_env_runner",
        "custom_resources_per_env_runner",
        "num_learners",
        "num_gpus_per_learner",
        "num_cpus_per_learner",
        "custom_resources_per_learner",
        "num_aggregator_actors_per_learner",
        "max_requests_in_flight_per_aggregator_actor",
        "max_requests_in_flight_per_learner",
        "local_gpu_idx",
        "num_gpu_loader_threads",
        "extra_python_environs_for_driver",
        "extra_python_environs_for_worker",
    ),
    "torch": (
        "framework_str",
        "torch_compile_learner",
        "torch_compile_learner_dynamo_backend",
        "torch_compile_learner_dynamo_mode",
        "torch_ddp_kwargs",
    ),
    "environment": (
        "env",
        "env_config",
        "observation_space",
        "action_space",
        "disable_env_checking",
        "gym_env_vectorize_mode",
    ),
    "runners": (
        "env_runner_cls",
        "num_env_runners",
        "num_envs_per_env_runner",
        "create_local_env_runner",
        "create_env_on_local_worker",
        "validate_env_runners_after_construction",
        "max_requests_in_flight_per_env_runner",
        "sample_timeout_s",
        "rollout_fragment_length",
        "batch_mode",
        "merge_env_runner_states",
        "broadcast_env_runner_states",
        "use_env_runner_state_server",
        "env_runner_state_server_max_concurrency",
        "explore",
        "count_steps_by",
    ),
    "training": (
        "gamma",
        "lr",
        "grad_clip",
        "_train_batch_size_per_learner",
        "num_epochs",
        "minibatch_size",
        "vf_loss_coeff",
        "entropy_coeff",
        "opt_type",
        "decay",
        "momentum",
        "epsilon",
        "vtrace_clip_rho_threshold",
        "vtrace_clip_pg_rho_threshold",
        "learner_queue_size",
        "simple_queue_size",
        "timeout_s_sampler_manager",
        "timeout_s_aggregator_manager",
        "broadcast_interval",
        "clip_param",
        "use_kl_loss",
        "kl_coeff",
        "kl_target",
        "target_worker_clipping",
        "target_network_update_freq",
        "tau",
        "vf_clip_param",
        "lambda_",
        "_learner_class",
        "_env_runners_only",
        "_skip_learners",
        "learner_config_dict",  # for a learner class of one's own
    ),
    "callbacks and evaluation": (
        "callbacks_class",
        "callbacks_on_algorithm_init",
        "callbacks_on_env_runners_recreated",
        "callbacks_on_checkpoint_loaded",
        "callbacks_on_environment_created",
        "callbacks_on_evaluate_start",
        "callbacks_on_evaluate_end",
        "callbacks_on_sample_end",
        "callbacks_on_train_result",
        "evaluation_interval",
        "evaluation_duration",
        "evaluation_sample_timeout_s",
        "evaluation_auto_duration_min_env_steps_per_sample",
        "evaluation_auto_duration_max_env_steps_per_sample",
        "evaluation_parallel_to_training",
        "evaluation_unhealthy_workers_timeout_s",
        "evaluation_error_after_n_consecutive_skips",
        "evaluation_force_reset_envs_before_iteration",
        "evaluation_config",
        "evaluation_num_env_runners",
        "custom_evaluation_function",
        "in_evaluation",
    ),
    "reporting, debugging, faults": (
        "metrics_num_episodes_for_smoothing",
        "metrics_episode_collection_timeout_s",
        "min_time_s_per_iteration",
        "min_train_timesteps_per_iteration",
        "min_sample_timesteps_per_iteration",
        "stats_cls_lookup",
        "log_level",
        "log_sys_usage",
        "seed",
        "restart_failed_env_runners",
        "ignore_env_runner_failures",
        "max_num_env_runner_restarts",
        "delay_between_env_runner_restarts_s",
        "restart_failed_sub_environments",
        "env_runner_health_probe_timeout_s",
        "env_runner_restore_timeout_s",
        "_use_msgpack_checkpoints",
    ),
    "RLlib's own bookkeeping": (
        "algo_class",
        "_is_frozen",
        "_is_online",
        "_validate_config",
        "_rl_module_spec",  # its class is checked
        "policies",
        "policy_mapping_fn",
        "add_default_connectors_to_learner_pipeline",
        "enable_rl_module_and_learner",
        "enable_env_runner_and_connector_v2",
        "train_batch_size",
        "simple_optimizer",  # RLlib's validate() sets it
    ),
    "this project's": (
        "network_settings",
        "loss_coeffs",
        "imported_modules",
        "adam_epsilon",
        "mixed_precision",
        "least_advantage_std",
        "vectorize_mode_from",
    ),
}
# Settings of the new stack that the fast path does not have, and what to do instead.
REFUSED: dict[str, str] = {
    "_env_to_module_connector": "fragments pass no connectors: wrap the environment, or use a stock config",
    "_module_to_env_connector": "fragments pass no connectors: wrap the environment, or use a stock config",
    "_learner_connector": "fragments pass no connectors: override MemoryLearner.prepare, or use a stock config",
    "add_default_connectors_to_env_to_module_pipeline": "evaluation needs them: leave it at True",
    "add_default_connectors_to_module_to_env_pipeline": "evaluation needs them: leave it at True",
    "normalize_actions": "actions are always stretched to the space's bounds: leave it at True",
    "clip_actions": "actions are always kept within the space's bounds: leave it at False",
    "clip_rewards": "use network(reward_clip=...)",
    "action_mask_key": "a mask is the observation's part 'action_mask'",
    "callbacks_on_episode_created": "there are no episode objects: read result['ct_rl']['episodes']",
    "callbacks_on_episode_start": "there are no episode objects: read result['ct_rl']['episodes']",
    "callbacks_on_episode_step": "there are no episode objects: read result['ct_rl']['episodes']",
    "callbacks_on_episode_end": "there are no episode objects: read result['ct_rl']['episodes']",
    "episodes_to_numpy": "fragments are numpy arrays: leave it at True",
    "episode_lookback_horizon": "fragments carry the memory instead: leave it as it is",
    "remote_worker_envs": "use num_env_runners",
    "num_consecutive_env_runner_failures_tolerance": "training goes on while a runner is left or is started anew: "
    "use max_num_env_runner_restarts",
    "grad_clip_by": "gradients are clipped by their global norm: leave it at 'global_norm'",
    "torch_skip_nan_gradients": "a gradient that is not finite ends training with NonFinite",
    "torch_compile_worker": "RLlib's runners do not compile: leave it at False",
    "torch_compile_learner_what_to_compile": "use 'forward_train'",
    "_torch_grad_scaler_class": "use training(mixed_precision=True): bfloat16 needs no scaling",
    "_torch_lr_scheduler_classes": "give lr as a schedule: [[0, 5e-4], [1000000, 1e-5]]",
    "log_gradients": "the report has grad_norm",
    "policies_to_train": "there is one policy, and it trains",
    "algorithm_config_overrides_per_module": "there is one policy: set it directly",
    "_per_module_overrides": "there is one policy: set it directly",
    "_model_config": "use memory(...), network(...) and auxiliary(...)",
    "evaluation_duration_unit": "evaluation plays whole episodes: leave it at 'episodes'",
    "keep_per_episode_custom_metrics": "read result['ct_rl']['episodes']",
    "checkpoint_trainable_policies_only": "there is one policy",
    "export_native_model_files": "use training_state()",
    "vtrace": "there is no IMPALA without V-trace here",
    "use_gae": "advantages are always GAE's; lambda_=1.0 is the plain return",
    "use_critic": "there is no PPO without a critic here",
    "use_circular_buffer": "batches are learned from in the order they come, num_epochs times each",
    "circular_buffer_num_batches": "the circular buffer is off: leave it at 1",
    "circular_buffer_iterations_per_batch": "the circular buffer is off: use num_epochs",
    "shuffle_batch_per_epoch": "rows are shuffled wherever there are several minibatches: leave it at True",
    "model": "the network is set by memory(...), network(...) and auxiliary(...)",
    "_separate_vf_optimizer": "policy and value share a network",
    "_lr_vf": "policy and value share a network",
}
# Optimisers by `opt_type`, each with the settings that are its own.
OPTIMIZERS = {"adam": ("adam_epsilon",), "rmsprop": ("decay", "momentum", "epsilon")}
_EPISODE_HOOKS = (
    "on_episode_created",
    "on_episode_start",
    "on_episode_step",
    "on_episode_end",
)
_HONOURED = {name for names in HONOURED.values() for name in names}


def check_settings(config: AlgorithmConfig) -> None:
    """Refuses a setting that was changed and would do nothing.

    Raises:
        ValueError: one line that names the setting, its value and what to do.
    """
    usual = vars(type(config)())
    if config.opt_type not in OPTIMIZERS:
        raise ValueError(unknown("opt_type", str(config.opt_type), OPTIMIZERS))
    others = {
        name: f"it is {kind}'s: set opt_type={kind!r}, or leave it out"
        for kind, names in OPTIMIZERS.items()
        if kind != config.opt_type
        for name in names
    }
    for name, value in vars(config).items():
        honoured = name in _HONOURED and name not in others
        if honoured or name not in usual or _same(value, usual[name]):
            continue
        what = (REFUSED | others).get(
            name, "it is of RLlib's old stack, of offline data or of another framework"
        )
        raise ValueError(
            f"{type(config).__name__}: {name.lstrip('_')}={_changed(value, usual[name])!r} would be "
            f"ignored on the fast path: {what}"
        )
    given = config.callbacks_class
    for maker in given if isinstance(given, list | tuple) else [given]:
        cls = _made_by(maker)
        for hook in _EPISODE_HOOKS:
            if getattr(cls, hook, None) is not getattr(RLlibCallback, hook):
                raise ValueError(
                    f"{type(config).__name__}: {cls.__name__}.{hook} would never be called on the "
                    f"fast path: {REFUSED[f'callbacks_{hook}']}"
                )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, TorchCompileWhatToCompile) and isinstance(other, TorchCompileWhatToCompile):
        return one.value == other.value
    return one is other or bool(one == other)


def _changed(value: Any, usual: Any) -> Any:
    """What of a setting was changed: of a dict, the entries that differ."""
    if not (isinstance(value, dict) and isinstance(usual, dict)):
        return value
    new = object()
    return {key: x for key, x in value.items() if not _same(x, usual.get(key, new))}


def _made_by(maker: Callable[[], Any]) -> type:
    """The class of the callbacks that RLlib makes by calling `maker`."""
    while isinstance(maker, functools.partial):
        maker = maker.func
    return maker if isinstance(maker, type) else type(maker())
