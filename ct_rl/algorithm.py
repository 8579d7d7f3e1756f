"""From a configuration to the things it names: environment, network and RLlib algorithm."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from rich.filesize import decimal

import envs
from ct_rl.config import EnvConfig, NetworkConfig, TrainConfig, check, resolve_reward_clip
from ct_rl.config_file import read_recipe
from ct_rl.errors import RunFailed, UserError, one_line, said, suggestion
from ct_rl.scores import EnvFacts, env_facts
from ct_rl.sections import auxiliary_settings, memory_settings

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
    if envs.has_engines(env.name):
        settings.setdefault("engine", env.engine)
    return settings


def lasting_options(config: TrainConfig) -> dict[str, Any]:
    """Settings of training that an evaluation keeps: what the network was built for, not an easier start.

    Any other environment's settings say which environment it is, so all of them last.
    """
    if not envs.has_engines(config.env.name):
        return dict(config.env.options)
    kept = _INTERFACE if config.env.engine == "embedded" else (*_INTERFACE, *_MACHINE)
    return {key: value for key, value in config.env.options.items() if key in kept}


def evaluation_options(
    config: TrainConfig, as_trained: bool = False, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Settings of an evaluation's environment: the level as it is, or those of training; `more` stands above."""
    options = config.env.options if as_trained else config.eval_env.options
    options = {**lasting_options(config), **options, **(more or {})}
    if as_trained and envs.has_engines(config.env.name) and "stagger" in options:
        options["stagger"] = False  # a first episode cut short is no episode to score
    return options


def fit_options(config: TrainConfig, engine: str | None, source: str) -> None:
    """Leaves out, and names, a recipe's or a run's settings of the room task that the real engine has not."""
    if config.env.name != "dmlab_rooms_select":
        return
    from envs.dmlab.make import available
    from envs.dmlab.settings import setting_names

    chosen = engine or config.env.engine
    if chosen not in ("auto", "deepmind_lab") or not available():
        return  # a missing engine is refused later, in a line of its own
    for options in (config.env.options, config.eval_env.options):
        for key in sorted(set(options) - set(setting_names())):
            print(f"note: deepmind_lab has no setting {key!r}: {source}'s is left out")
            del options[key]


def portable_options(env: EnvConfig, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Settings of an environment without this machine's paths: those of training, or `options`."""
    given = env.options if options is None else options
    machine = _MACHINE if envs.has_engines(env.name) else ()
    return {key: value for key, value in given.items() if key not in machine}


def probe(config: TrainConfig) -> EnvProbe:
    """Make the training environment once, and the evaluation's where it has settings of its own.

    Raises UserError for what `envs` refuses: an unknown name or setting, an engine or library not there.
    """
    env = config.env
    if not envs.has_engines(env.name) and env.engine != "auto":
        raise UserError(f"--engine {env.engine}: {env.name} has no engines: leave it out")
    found = probe_env(env)
    if config.eval_env.options:
        try:
            probe_env(env, evaluation_options(config))
        except UserError as error:
            raise UserError(f"--eval-env-option: {error}") from None
    return found


def probe_env(env: EnvConfig, options: Mapping[str, Any] | None = None) -> EnvProbe:
    """Make an environment once and look at it, before any process starts; raises UserError."""
    with env_errors(env.name):
        made = envs.make_vec(env.name, 1, **env_settings(env, options))
    try:
        with env_errors(env.name):
            facts = env_facts(made.metadata)
        return EnvProbe(made.single_observation_space, made.single_action_space, facts)
    finally:
        made.close()


@contextlib.contextmanager
def env_errors(name: str, flag: str = "--env ") -> Iterator[None]:
    """What `envs` raises about names, settings, engines and libraries becomes a UserError.

    Args:
        flag: that a command gives the environment by; "" where it is the agent's.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, ImportError, RuntimeError, gym.error.Error) as error:
        text = one_line(error)
        if isinstance(error, ImportError) and "libX11" in text:
            text = f"{text}; install it, for example with: apt-get install libx11-6"
        raise UserError(text if name in text else f"{flag}{name}: {text}") from error
    except (RunFailed, MemoryError):
        raise
    except Exception as error:  # whatever somebody's own class raises
        raise UserError(f"{flag}{name}: {said(error)}") from error


def network_settings(config: TrainConfig) -> dict[str, Any]:
    """Keyword arguments of `agents.ActorCritic` beside the spaces."""
    network = config.network
    settings = {
        "memory": config.memory.kind,
        "memory_options": memory_settings(config.memory),
        "encoder": network.encoder,
        "width": network.width,
        "crop": network.crop,
        "around": network.around,
        "head": network.head,
        "bilinear": network.bilinear,
        "value_bins": network.value_bins,
        "reward_clip": network.reward_clip,
    }
    auxiliary = auxiliary_settings(config.auxiliary)
    return settings | ({"auxiliary": auxiliary} if auxiliary else {})


def drop_unused_encoder(config: TrainConfig, probe: EnvProbe) -> None:
    """Takes the encoder of images out of an earlier run's configuration where there is no image: it was ignored."""
    from agents.encoders import has_image

    default = NetworkConfig().encoder
    if config.network.encoder != default and not has_image(probe.observation_space):
        print(
            f"note: --network.encoder {config.network.encoder} reads images, and there is none: it is not used"
        )
        config.network.encoder = default


def check_network(config: TrainConfig, probe: EnvProbe) -> int:
    """Build the network once and return its number of parameters; raises UserError when it cannot be."""
    import torch

    from agents import ActorCritic

    settings = network_settings(config)
    try:
        with torch.device("meta"):  # sizes without memory
            sketch = ActorCritic(probe.observation_space, probe.action_space, **settings)
        _require_memory(sum(parameter.numel() for parameter in sketch.parameters()))
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(one_line(error)) from error
    except Exception:
        pass  # a part of somebody's own that torch's meta device does not know, or an error that comes again
    try:
        net = ActorCritic(probe.observation_space, probe.action_space, **settings)
        known = net.loss_names()
    except (ValueError, TypeError) as error:
        raise UserError(one_line(error)) from error
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise UserError(f"this network cannot be built: {one_line(error)[:300]}") from error
    except Exception as error:  # whatever somebody's own class raises
        raise UserError(f"this network cannot be built: {said(error)}") from error
    for name in config.training.loss_coeffs:
        if name not in known:
            raise UserError(
                f"--training.loss-coeffs {name[:80]}: this network has no such loss"
                f"{suggestion(name, known) or ': it has none of its own'}"
            )
    return sum(parameter.numel() for parameter in net.parameters())


def _require_memory(parameters: int) -> None:
    """Raise UserError where a network with gradient and optimiser is larger than this machine's memory."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = 4 * 4 * parameters  # weights, gradient and Adam's two, in float32
    if needed > there:
        raise UserError(
            f"a network of {parameters:,} parameters needs {decimal(needed)} to learn, and this machine has "
            f"{decimal(there)}: give smaller sizes"
        )


def use_gpu(device: str) -> bool:
    """Whether the learner computes on a CUDA device; raises UserError when one is asked for and absent."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device here; use --device cpu or auto")
    return device != "cpu" and torch.cuda.is_available()


def learns_in_bfloat16(config: TrainConfig) -> bool:
    """What `training.precision` comes to on this machine."""
    from agents.precision import has_bfloat16

    precision = config.training.precision
    auto = precision == "auto" and not use_gpu(config.run.device) and has_bfloat16()
    return precision == "bfloat16" or auto


def recipe_config(name_or_path: str) -> Any:
    """RLlib's configuration of a recipe, to be changed and built like any other.

    Example:
        >>> config = ct_rl.recipe_config("rooms_select").debugging(seed=3)
        >>> algo = config.build_algo()

    Args:
        name_or_path: a shipped recipe, or a YAML file, a run's `config.yaml` included. Modules that it names must have
            been imported; how long it trains is the caller's to say.

    Returns:
        A `MemoryPPOConfig`, `MemoryAPPOConfig` or `MemoryIMPALAConfig`.

    Raises:
        UserError: when there is no such recipe, or a setting of it is wrong.
    """
    config = read_recipe(name_or_path, list(sys.modules))[0]
    resolve_reward_clip(config)
    check(config)
    return algorithm_config(config)


def algorithm_config(config: TrainConfig) -> Any:
    """RLlib's configuration of the run."""
    from agents import MemoryAPPOConfig, MemoryIMPALAConfig, MemoryPPOConfig

    configs = {"impala": MemoryIMPALAConfig, "appo": MemoryAPPOConfig, "ppo": MemoryPPOConfig}
    network = network_settings(config)
    runners, training = config.runners, config.training
    learners = max(1, runners.num_learners)
    built = configs[training.algorithm]().imports(*config.run.imports)
    built.environment(config.env.name, env_config=env_settings(config.env))
    built.memory(network.pop("memory"), **network.pop("memory_options"))
    for name, options in network.pop("auxiliary", {}).items():
        built.auxiliary(name, **options)
    return (
        built.network(**network)
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
            loss_coeffs=dict(training.loss_coeffs),
            grad_clip=training.grad_clip,
            train_batch_size_per_learner=training.batch // learners,
            minibatch_size=training.minibatch and training.minibatch // learners,
            num_epochs=training.epochs,
            opt_type=training.optimizer,
            **{"adam_epsilon" if training.optimizer == "adam" else "epsilon": training.epsilon},
            mixed_precision=learns_in_bfloat16(config),
        )
        .learners(
            num_learners=runners.num_learners,
            num_gpus_per_learner=int(use_gpu(config.run.device)),
        )
        .reporting(min_time_s_per_iteration=1)
        .debugging(seed=config.run.seed, log_level="ERROR")
    )


def check_algorithm(config: TrainConfig) -> None:
    """Let RLlib and the fast path look at the settings before anything is made; raises UserError."""
    from ct_rl.ray_session import quiet_ray

    quiet_ray()
    try:
        algorithm_config(config).validate()
    except ValueError as error:
        raise UserError(one_line(error)[:400]) from error


def build_algorithm(config: TrainConfig) -> Any:
    """The RLlib algorithm that the configuration describes, ready for `train()`; Ray must run.

    Raises UserError for settings that RLlib or the fast path refuses.
    """
    from agents import RunnerFailed

    try:
        return algorithm_config(config).build_algo()
    except ValueError as error:
        raise UserError(one_line(error)[:400]) from error
    except RunnerFailed as error:  # its process failed, and one made here did not
        raise RunFailed(str(error)) from error
    except UserError:
        raise
    except Exception as error:  # what a runner raised when it was made here
        raise RunFailed(f"no environment runner could be started: {said(error)}") from error


def _schedule(value: float | list[list[float]]) -> Any:
    """RLlib wants whole numbers for steps."""
    if isinstance(value, list):
        return [[int(step), at] for step, at in value]
    return value
