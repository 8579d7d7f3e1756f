"""Every setting of RLlib on the fast path is honoured or refused; a new one of a new Ray is found."""

import dataclasses
import functools
import re
import warnings

import gymnasium as gym
import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from agents import check_stock, with_memory
from agents.rllib.module import MemoryRLModule
from agents.rllib.settings import HONOURED, REFUSED, check_settings
from tests.agents.conftest import CONFIGS

LISTED = {name for names in HONOURED.values() for name in names} | set(REFUSED)
# What RLlib keeps of its old stack, of offline data and of TensorFlow: refused once it is changed.
ELSEWHERE = [
    "actions_in_input_normalized",
    "always_attach_evaluation_results",
    "auto_wrap_old_gym_envs",
    "buffer_size",
    "broadcast_offline_eval_runner_states",
    "callbacks_on_evaluate_offline_end",
    "callbacks_on_evaluate_offline_start",
    "callbacks_on_offline_eval_runners_recreated",
    "collect_metrics_timeout",
    "compress_observations",
    "custom_async_evaluation_function",
    "custom_resources_per_offline_eval_runner",
    "dataset_num_iters_per_eval_runner",
    "dataset_num_iters_per_learner",
    "eager_max_retraces",
    "eager_tracing",
    "enable_async_evaluation",
    "enable_connectors",
    "enable_tf1_exec_eagerly",
    "entropy_coeff_schedule",
    "env_task_fn",
    "evaluation_num_episodes",
    "exploration_config",
    "fake_sampler",
    "ignore_final_observation",
    "ignore_offline_eval_runner_failures",
    "input_",
    "input_compress_columns",
    "input_config",
    "input_evaluation",
    "input_filesystem",
    "input_filesystem_kwargs",
    "input_read_batch_size",
    "input_read_episodes",
    "input_read_method",
    "input_read_method_kwargs",
    "input_read_sample_batches",
    "input_read_schema",
    "input_spaces_jsonable",
    "iter_batches_kwargs",
    "learner_queue_timeout",
    "learning_starts",
    "local_tf_session_args",
    "lr_schedule",
    "map_batches_kwargs",
    "materialize_data",
    "materialize_mapped_data",
    "max_num_offline_eval_runner_restarts",
    "max_requests_in_flight_per_aggregator_worker",
    "max_requests_in_flight_per_offline_eval_runner",
    "metrics_smoothing_episodes",
    "min_iter_time_s",
    "min_sample_timesteps_per_reporting",
    "min_time_s_per_reporting",
    "min_train_timesteps_per_reporting",
    "minibatch_buffer_size",
    "monitor",
    "num_aggregation_workers",
    "num_cpus_per_offline_eval_runner",
    "num_gpus_per_offline_eval_runner",
    "num_multi_gpu_tower_stacks",
    "num_offline_eval_runners",
    "observation_filter",
    "observation_fn",
    "off_policy_estimation_methods",
    "offline_data_class",
    "offline_eval_batch_size_per_runner",
    "offline_eval_rl_module_inference_only",
    "offline_eval_runner_class",
    "offline_eval_runner_health_probe_timeout_s",
    "offline_eval_runner_restore_timeout_s",
    "offline_evaluation_duration",
    "offline_evaluation_interval",
    "offline_evaluation_parallel_to_training",
    "offline_evaluation_timeout_s",
    "offline_evaluation_type",
    "offline_loss_for_module_fn",
    "offline_sampling",
    "ope_split_batch_by_episode",
    "optimizer",
    "output",
    "output_compress_columns",
    "output_config",
    "output_filesystem",
    "output_filesystem_kwargs",
    "output_max_file_size",
    "output_max_rows_per_file",
    "output_write_episodes",
    "output_write_method",
    "output_write_method_kwargs",
    "output_write_remaining_data",
    "policy_map_cache",
    "policy_map_capacity",
    "policy_states_are_swappable",
    "postprocess_inputs",
    "prelearner_buffer_class",
    "prelearner_buffer_kwargs",
    "prelearner_class",
    "prelearner_module_synch_period",
    "prelearner_use_recorded_module_states",
    "preprocessor_pref",
    "prioritized_replay",
    "prioritized_replay_alpha",
    "prioritized_replay_beta",
    "prioritized_replay_eps",
    "remote_env_batch_wait_ms",
    "render_env",
    "replay_batch_size",
    "replay_buffer_num_slots",
    "replay_mode",
    "replay_proportion",
    "replay_sequence_length",
    "restart_failed_offline_eval_runners",
    "sample_collector",
    "sampler_perf_stats_ema_coef",
    "sgd_minibatch_size",
    "shuffle_buffer_size",
    "sync_filters_on_rollout_workers_timeout_s",
    "synchronize_filters",
    "target_update_frequency",
    "tf_session_args",
    "timesteps_per_iteration",
    "torch_compile_worker_dynamo_backend",
    "torch_compile_worker_dynamo_mode",
    "update_worker_filter_stats",
    "use_worker_filter_stats",
    "validate_offline_eval_runners_after_construction",
    "vf_share_layers",
    "worker_cls",
    "_disable_action_flattening",
    "_disable_execution_plan_api",
    "_disable_initialize_loss_from_dummy_batch",
    "_disable_preprocessor_api",
    "_dont_auto_sync_env_runner_states",
    "_enable_rl_module_api",
    "_is_atari",
    "_prior_exploration_config",
    "_tf_policy_handles_more_than_one_loss",
]


@pytest.mark.parametrize("algorithm", CONFIGS)
def test_every_setting_of_rllib_has_been_looked_at(algorithm):
    found = set(vars(CONFIGS[algorithm]()))
    assert found <= LISTED | set(ELSEWHERE), found - LISTED - set(ELSEWHERE)
    assert not LISTED & set(ELSEWHERE)


@pytest.mark.parametrize("algorithm", CONFIGS)
def test_a_setting_that_would_do_nothing_is_refused_in_one_line(algorithm):
    check_settings(CONFIGS[algorithm]())
    for name in vars(CONFIGS[algorithm]()):
        if name in REFUSED or name in ELSEWHERE:
            config = CONFIGS[algorithm]()
            setattr(config, name, "something else")
            with pytest.raises(ValueError) as caught:
                check_settings(config)
            (line,) = str(caught.value).splitlines()
            assert f"{name.lstrip('_')}='something else' would be ignored" in line


def refusal(config):
    with pytest.raises(ValueError) as caught:
        config.environment("CartPole-v1").validate()
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize("algorithm", CONFIGS)
def test_what_people_set_is_honoured_or_refused(algorithm):
    new = CONFIGS[algorithm]

    class Mine(RLlibCallback):
        def on_episode_end(self, **kwargs):
            pass

    for maker in (
        Mine,
        functools.partial(Mine),
        functools.partial(functools.partial(Mine)),
        lambda: Mine(),
    ):
        assert "Mine.on_episode_end would never be called" in refusal(new().callbacks(maker))
    mine = lambda **kwargs: None  # noqa: E731
    assert "callbacks_on_episode_start" in refusal(new().callbacks(on_episode_start=mine))
    connector = lambda *args: []  # noqa: E731
    assert "wrap the environment" in refusal(new().env_runners(env_to_module_connector=connector))
    assert "normalize_actions=False" in refusal(new().environment(normalize_actions=False))
    assert "use memory(...)" in refusal(new().rl_module(model_config={"fcnet_hiddens": [4]}))
    tolerance = {"num_consecutive_env_runner_failures_tolerance": 3}
    assert "max_num_env_runner_restarts" in refusal(new().fault_tolerance(**tolerance))
    other = RLModuleSpec(module_class=RLModuleSpec)
    assert "trains MemoryRLModule" in refusal(new().rl_module(rl_module_spec=other))


@pytest.mark.parametrize(
    ("algorithm", "settings", "said"),
    [
        ("appo", {"circular_buffer_num_batches": 8}, "circular_buffer_num_batches=8 .* leave it at 1"),
        (
            "appo",
            {"circular_buffer_iterations_per_batch": 2},
            "circular_buffer_iterations_per_batch=2 .* use num_epochs",
        ),
        ("ppo", {"shuffle_batch_per_epoch": False}, "shuffle_batch_per_epoch=False .* True"),
        ("impala", {"shuffle_batch_per_epoch": False}, "shuffle_batch_per_epoch=False .* True"),
        (
            "ppo",
            {"model": {"fcnet_hiddens": [3], "max_seq_len": 20}},
            r"model={'fcnet_hiddens': \[3\]} would .* set by memory\(...\), network\(...\)",
        ),
    ],
)  # fmt: skip
def test_what_rllib_has_and_the_fast_path_has_not_is_refused(algorithm, settings, said):
    line = refusal(CONFIGS[algorithm]().training(**settings))
    assert re.search(said, line) and "would be ignored" in line


@pytest.mark.parametrize("hook", ["on_sample_end", "on_train_result", "on_environment_created"])
def test_a_callback_that_is_called_passes(hook):
    config = CONFIGS["ppo"]().environment("CartPole-v1").callbacks(**{hook: lambda **_: None})
    config.training(train_batch_size_per_learner=1920)
    config.validate()


@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize("algorithm", CONFIGS)
def test_dropout_which_only_learning_has_is_said(algorithm, rate):
    config = CONFIGS[algorithm]().environment("CartPole-v1").memory("compressive", dropout=rate)
    config.training(train_batch_size_per_learner=1920)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        config.validate()
    assert any("on in learning and off in acting" in str(each.message) for each in said) == (
        rate > 0
    )


@pytest.mark.parametrize("algorithm", CONFIGS)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"opt_type": "sgd"}, "unknown opt_type 'sgd': choose one of adam, rmsprop"),
        ({"momentum": 0.9}, "momentum=0.9 would be ignored .* it is rmsprop's: set opt_type"),
        ({"opt_type": "rmsprop", "adam_epsilon": 1.0}, "adam_epsilon=1.0 would be ignored"),
        (
            {"minibatch_size": 7},
            "no whole number of rows|`minibatch_size` .7. must",
        ),  # ours; RLlib's
    ],
    ids=str,
)
def test_what_no_update_would_read_is_refused(algorithm, settings, said):
    config = CONFIGS[algorithm]().environment("CartPole-v1").training(**settings)
    with pytest.raises(ValueError, match=said):
        config.validate()


@pytest.mark.parametrize("algorithm", CONFIGS)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_epochs": 0}, "num_epochs=0: give a whole number from 1"),
        ({"num_epochs": 1.5}, "num_epochs=1.5: give"),
        ({"minibatch_size": 0}, "minibatch_size=0: give a multiple of rollout_fragment_length"),
        ({"grad_clip": 0.0}, "grad_clip=0.0: give a number above 0, or None to clip nothing"),
        ({"grad_clip": -1.0}, "grad_clip=-1.0: give"),
        ({"grad_clip": float("nan")}, "grad_clip=nan: give"),
        ({"train_batch_size_per_learner": 0}, "train_batch_size_per_learner=0: give"),
    ],
    ids=str,
)
def test_a_value_that_nothing_can_be_trained_with_is_refused(algorithm, settings, said):
    assert said in refusal(CONFIGS[algorithm]().training(**settings))


def test_advantages_are_divided_by_no_negative_number():
    config = CONFIGS["ppo"]()
    assert "least_advantage_std=-0.1: give" in refusal(config.training(least_advantage_std=-0.1))
    config.training(least_advantage_std=0.0, grad_clip=None).validate()


@pytest.mark.parametrize(
    ("algorithm", "runners", "learners", "batch", "give"),
    [
        ("impala", 1, 0, 100, "fragments of 64 steps (4 environments x 16 steps): give 64 or 128,"),
        ("appo", 3, 0, 100, "fragments of 64 steps (4 environments x 16 steps): give 64 or 128,"),
        ("impala", 1, 0, 10, "give 64,"),
        ("impala", 1, 2, 100, "as many for each of 2 learners): give 64 or 128,"),
        ("ppo", 0, 0, 100, "fragments of 64 steps (4 environments x 16 steps): give 64 or 128,"),
        ("ppo", 3, 0, 256, "as many from each of 3 runners): give 192 or 384,"),
        ("ppo", 3, 2, 64, "runners, as many for each of 2 learners): give 192,"),
        ("impala", 3, 0, 64, None),
        ("ppo", 3, 0, 192, None),
        ("ppo", 2, 2, 64, None),
        ("ppo", 3, 2, 192, None),
    ],
)  # fmt: skip
def test_a_batch_is_a_whole_number_of_fragments(algorithm, runners, learners, batch, give):
    config = CONFIGS[algorithm]().learners(num_learners=learners)
    config.env_runners(
        num_env_runners=runners, num_envs_per_env_runner=4, rollout_fragment_length=16
    )
    config.training(train_batch_size_per_learner=batch)
    if give is None:
        config.environment("CartPole-v1").validate()
    else:
        line = refusal(config)
        assert line.startswith(f"train_batch_size_per_learner={batch} is no whole number of")
        assert give in line


@pytest.mark.parametrize("algorithm", CONFIGS)
@pytest.mark.parametrize(
    ("runners", "rows", "batch", "give"),
    [(3, 1, 100, "99 or 102"), (0, 3, 100, "99 or 102"), (3, 1, 2, "3"), (3, 2, 96, None)],
)
def test_an_automatic_fragment_is_as_long_for_every_runner(algorithm, runners, rows, batch, give):
    config = CONFIGS[algorithm]().env_runners(
        num_env_runners=runners, num_envs_per_env_runner=rows, rollout_fragment_length="auto"
    )
    config.training(train_batch_size_per_learner=batch)
    if give is not None:
        line = refusal(config)
        assert "fragments of unequal length" in line
        assert f"give train_batch_size_per_learner={give}, or" in line
        return
    config.environment("CartPole-v1").validate()
    lengths = {config.get_rollout_fragment_length(worker) for worker in range(runners + 1)}
    assert lengths == {16}


@pytest.mark.parametrize("algorithm", CONFIGS)
def test_a_minibatch_of_automatic_fragments_is_ppos_alone(algorithm):
    config = CONFIGS[algorithm]().env_runners(rollout_fragment_length="auto")
    config.training(train_batch_size_per_learner=96, minibatch_size=96)
    if algorithm == "ppo":
        config.environment("CartPole-v1").validate()
    else:
        assert "minibatch_size=96 needs rollout_fragment_length as a number" in refusal(config)


@pytest.mark.parametrize("algorithm", CONFIGS)
def test_a_config_without_a_batch_of_its_own_stands(algorithm):
    config = CONFIGS[algorithm]().environment("CartPole-v1")
    config.env_runners(num_env_runners=2, num_envs_per_env_runner=2).validate()


def test_the_weight_of_a_loss_that_is_not_there_is_refused():
    box, two = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2)
    module = {"observation_space": box, "action_space": two}
    given = {"memory": "compressive", "auxiliary": {"contrast": {}}}
    known = {"compression": 0.0, "contrast": 2.0}
    assert MemoryRLModule(**module, model_config={**given, "loss_coeffs": known})
    with pytest.raises(
        ValueError, match=r"unknown loss .* 'compresion': did you mean 'compression'"
    ):
        MemoryRLModule(**module, model_config={**given, "loss_coeffs": {"compresion": 0.0}})


RLLIBS = {
    "fcnet_hiddens": [3],
    "use_lstm": True,
    "lstm_cell_size": 999,
    "conv_filters": [[1, 1, 1]],
    "head_fcnet_activation": "tanh",
}


@pytest.mark.parametrize("key", RLLIBS)
@pytest.mark.parametrize("fast", [True, False])
def test_a_setting_of_rllibs_own_networks_is_refused(fast, key):
    own = {"memory": "gru", "max_seq_len": 61}
    for given in (RLLIBS[key], getattr(DefaultModelConfig(), key)):
        spec = RLModuleSpec(module_class=MemoryRLModule, model_config={**own, key: given})
        config = (CONFIGS["ppo"] if fast else PPOConfig)().environment("CartPole-v1")
        config.env_runners(rollout_fragment_length=60).rl_module(rl_module_spec=spec)
        look = config.validate if fast else functools.partial(check_stock, config)
        if given != RLLIBS[key]:
            look()  # RLlib's own default, which it may put in
            continue
        with pytest.raises(ValueError) as caught:
            look()
        (line,) = str(caught.value).splitlines()
        assert f"model_config['{key}']={given!r} is of RLlib's own networks" in line


def test_what_rllib_puts_into_every_modules_config_is_accepted():
    box, two = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2)
    for own in (DefaultModelConfig(), {**dataclasses.asdict(DefaultModelConfig()), "width": 8}):
        spec = RLModuleSpec(
            module_class=MemoryRLModule,
            observation_space=box,
            action_space=two,
            model_config=own,
        )
        assert spec.build().net
    with pytest.raises(ValueError, match="model_config\\['use_lstm'\\]=True"):
        dataclasses.replace(spec, model_config=DefaultModelConfig(use_lstm=True)).build()


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda c: c.memory("compresive"), "unknown memory 'compresive'"),
        (lambda c: c.memory("lstm", rate=4), "memory 'lstm' has no option 'rate'"),
        (lambda c: c.memory("lstm", hidden=0), "hidden=0: expected"),
        (lambda c: c.network(encoder="x"), "unknown encoder 'x'"),
        (lambda c: c.auxiliary("contrast", horizon=0), "horizon=0: expected"),
        (lambda c: c.auxiliary("contrats"), "unknown auxiliary loss 'contrats'"),
        (lambda c: c.training(learner_class=PPOTorchLearner), "leave learner_class as it is"),
    ],
)
@pytest.mark.parametrize("algorithm", CONFIGS)
def test_what_a_runner_would_refuse_out_of_sight_is_refused_in_the_driver(algorithm, change, said):
    config = CONFIGS[algorithm]().environment("CartPole-v1").env_runners(num_env_runners=2)
    with pytest.raises(ValueError, match=said):
        change(config).validate()


def test_a_stock_config_is_looked_at_in_the_driver_too():
    with pytest.raises(ValueError, match="memory 'lstm' has no option 'rate'"):
        with_memory(PPOConfig().environment("CartPole-v1"), "lstm", rate=4)
