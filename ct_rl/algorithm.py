"""From a configuration to the things it names: environment, network and RLlib algorithm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import gymnasium as gym

from ct_rl.config import EnvConfig, MemoryConfig, TrainConfig
from ct_rl.errors import UserError, one_line
from ct_rl.memory import memory_options
from ct_rl.scores import EnvFacts, env_facts

_MACHINE = ("dataset_path", "level_cache")  # where deepmind_lab finds its files on this machine
# Settings of DeepMind Lab's levels that a network is built for.
_INTERFACE = (
    "height",
    "width",
    "action_repeat",
    "actions",
    "depth",
    "frame_only",
    "instruction",
    "words",
    "vocabulary",
)


@dataclass(frozen=True)
class EnvProbe:
    """What one look at the training environment tells: its spaces, its facts, the engine that runs."""

    observation_space: gym.Space
    action_space: gym.Space
    facts: EnvFacts


def env_settings(env: EnvConfig, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Keyword arguments for `envs.make` and `envs.make_vec`; `options` in place of the training ones."""
    settings = dict(env.options if options is None else options)
    if env.name.startswith("dmlab_"):
        settings.setdefault("engine", env.engine)
    return settings


def lasting_options(config: TrainConfig) -> dict[str, Any]:
    """Settings of training that an evaluation keeps: what the network was built for, not an easier start.

    Any other environment's settings say which environment it is, so all of them last.
    """
    if not config.env.name.startswith("dmlab_"):
        return dict(config.env.options)
    kept = _INTERFACE if config.env.engine == "embedded" else (*_INTERFACE, *_MACHINE)
    return {key: value for key, value in config.env.options.items() if key in kept}


def probe_env(env: EnvConfig) -> EnvProbe:
    """Make the training environment once and look at it, before any process starts.

    Raises UserError for what `envs` refuses: an unknown name or setting, an engine or library not there.
    """
    import envs

    with env_errors(env.name):
        made = envs.make_vec(env.name, 1, **env_settings(env))
    try:
        facts = env_facts(made.metadata)
        return EnvProbe(made.single_observation_space, made.single_action_space, facts)
    finally:
        made.close()


@contextlib.contextmanager
def env_errors(name: str) -> Iterator[None]:
    """What `envs` raises about names, settings, engines and libraries becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, ImportError, RuntimeError, gym.error.Error) as error:
        text = one_line(error)
        if isinstance(error, ImportError) and "libX11" in text:
            text = f"{text}; install it, for example with: apt-get install libx11-6"
        raise UserError(text if name in text else f"--env {name}: {text}") from error


def memory_settings(memory: MemoryConfig) -> dict[str, Any]:
    """The fields that this kind of memory takes, without those left to its own default.

    Raises UserError for an unknown kind.
    """
    try:
        taken = fields(memory_options(memory.kind))
    except ValueError as error:
        raise UserError(f"--memory: {error}") from None
    values = {item.name: getattr(memory, item.name, None) for item in taken}
    return {name: value for name, value in values.items() if value is not None}


def network_settings(config: TrainConfig) -> dict[str, Any]:
    """Keyword arguments of `agents.ActorCritic` beside the spaces."""
    network = config.network
    return {
        "memory": config.memory.kind,
        "memory_options": memory_settings(config.memory),
        "encoder": network.encoder,
        "width": network.width,
        "around": network.around,
        "head": network.head,
        "reward_clip": network.reward_clip,
    }


def check_network(config: TrainConfig, probe: EnvProbe) -> int:
    """Build the network once and return its number of parameters; raises UserError when it cannot be."""
    from agents import ActorCritic

    settings = network_settings(config)
    try:
        net = ActorCritic(probe.observation_space, probe.action_space, **settings)
    except ValueError as error:
        raise UserError(str(error)) from error
    return sum(parameter.numel() for parameter in net.parameters())


def use_gpu(device: str) -> bool:
    """Whether the learner computes on a CUDA device; raises UserError when one is asked for and absent."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device here; use --device cpu or auto")
    return device != "cpu" and torch.cuda.is_available()


def build_algorithm(config: TrainConfig) -> Any:
    """The RLlib algorithm that the configuration describes, ready for `train()`; Ray must run.

    Raises UserError for settings that RLlib or the fast path refuses.
    """
    from agents import MemoryAPPOConfig, MemoryIMPALAConfig, MemoryPPOConfig

    configs = {"impala": MemoryIMPALAConfig, "appo": MemoryAPPOConfig, "ppo": MemoryPPOConfig}
    network = network_settings(config)
    runners, training = config.runners, config.training
    built = (
        configs[training.algorithm]()
        .environment(config.env.name, env_config=env_settings(config.env))
        .memory(network.pop("memory"), **network.pop("memory_options"))
        .network(**network)
        .env_runners(
            num_env_runners=runners.num_env_runners,
            num_envs_per_env_runner=runners.envs_per_runner,
            rollout_fragment_length=runners.fragment,
        )
        .training(
            lr=_schedule(training.lr),
            entropy_coeff=_schedule(training.entropy_coeff),
            gamma=training.gamma,
            vf_loss_coeff=training.vf_loss_coeff,
            loss_coeffs={"compression": training.compression_coeff},
            grad_clip=training.grad_clip,
            train_batch_size_per_learner=training.batch // max(1, runners.num_learners),
            minibatch_size=training.minibatch,
            num_epochs=training.epochs,
            opt_type=training.optimizer,
            epsilon=training.epsilon,
            adam_epsilon=training.epsilon,
            decay=0.99,
            momentum=0.0,
        )
        .learners(
            num_learners=runners.num_learners,
            num_gpus_per_learner=int(use_gpu(config.run.device)),
        )
        .reporting(min_time_s_per_iteration=1)
        .debugging(seed=config.run.seed, log_level="ERROR")
    )
    try:
        return built.build_algo()
    except ValueError as error:
        raise UserError(one_line(error)[:400]) from error


def _schedule(value: float | list[list[float]]) -> Any:
    """RLlib wants whole numbers for steps."""
    if isinstance(value, list):
        return [[int(step), at] for step, at in value]
    return value
