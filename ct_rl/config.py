"""The configuration of a training run: one small dataclass a component, and checks that need no other part.

The same fields are the sections of a YAML recipe and the flags of the command line; docstrings are the help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import yaml
from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from ct_rl.errors import UserError


def _parse_options(items: list[str]) -> dict[str, Any]:
    options = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise ValueError(f"{item!r} is not KEY=VALUE")
        options[key] = yaml.safe_load(value)
    return options


def parse_schedule(text: str) -> float | list[list[float]]:
    """A number, or `step:value,step:value` with straight lines between; raises ValueError otherwise."""
    try:
        if ":" not in text:
            return float(text)
        return [[float(part) for part in point.split(":", 1)] for point in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r} is neither a number nor STEP:VALUE,STEP:VALUE") from None


def _show_schedule(value: float | list[list[float]]) -> str:
    if isinstance(value, list):
        return ",".join(f"{step:g}:{at:g}" for step, at in value)
    return f"{value:g}"


Options = Annotated[
    dict[str, Any],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="KEY=VALUE",
        instance_from_str=_parse_options,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [f"{key}={at}" for key, at in value.items()],
    ),
]
Schedule = Annotated[
    float | list[list[float]],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="NUMBER|STEP:VALUE,...",
        instance_from_str=lambda items: parse_schedule(items[0]),
        is_instance=lambda value: isinstance(value, int | float | list),
        str_from_instance=lambda value: [_show_schedule(value)],
    ),
]
_short = arg(prefix_name=False)


@dataclass
class EnvConfig:
    """The environment that is trained on."""

    name: Annotated[str, arg(name="env", prefix_name=False)] = "dmlab_rooms_select"
    """Environment: a name of `envs.names()` or a gymnasium id."""
    engine: Annotated[str, _short] = "auto"
    """Engine of DeepMind Lab's levels: embedded, deepmind_lab, or auto: deepmind_lab where it is installed."""
    options: Annotated[Options, arg(name="env-option", prefix_name=False)] = field(
        default_factory=dict
    )
    """Settings of the environment for training, such as an easier start."""


@dataclass
class EvalEnvConfig:
    """The environment that is evaluated on: the level as it is, unless options say otherwise."""

    options: Annotated[Options, arg(name="eval-env-option", prefix_name=False)] = field(
        default_factory=dict
    )
    """Settings of the environment for evaluation."""


@dataclass
class MemoryConfig:
    """The memory core between encoder and heads; a core takes the fields it knows."""

    kind: Annotated[str, arg(name="memory", prefix_name=False)] = "compressive"
    """Memory: compressive, transformer_xl, gtrxl, lstm or gru."""
    rate: Annotated[int, _short] = 4
    """Compression rate: how many old memories become one compressed memory [slots]."""
    memory: int = 32
    """Memory kept uncompressed beyond the window, per layer [slots, one a step]."""
    compressed: int = 32
    """Compressed memory, per layer [slots, each holds `rate` steps]."""
    window: int = 16
    """Steps that a layer attends to before they move into memory [steps]."""
    d_model: int = 128
    """Width of the core [units]."""
    n_layers: int = 2
    """Layers [count]."""
    n_heads: int = 4
    """Attention heads per layer [count]."""
    d_ff: int | None = None
    """Width of the feed-forward part [units]; the core's own default when absent."""
    compression: str | None = None
    """Compression function: max, mean or conv; the core's own default when absent."""
    compression_loss: str | None = None
    """Loss that trains it: attention, auto_encoding or none; the core's own default when absent."""
    gate: str | None = None
    """How a block's output joins its input: residual or gru (GTrXL); the core's own default when absent."""
    hidden: int = 256
    """State of an LSTM or GRU [units]."""


@dataclass
class NetworkConfig:
    """What stands around the memory."""

    encoder: Annotated[str, _short] = "small"
    """Frame encoder: small (IMPALA's two convolutions) or residual (its deep network)."""
    width: int = 256
    """Features of the encoder [units]."""
    around: bool = True
    """Whether the heads also read the encoder's features past the memory."""
    head: int = 0
    """Hidden layer before policy and value, where memory and sight meet [units]; 0 for none."""
    reward_clip: Annotated[str, _short] = "optimistic_asymmetric"
    """Clipping of the learner's rewards: none, unit or optimistic_asymmetric; reports show them unclipped."""


@dataclass
class RunnerConfig:
    """The processes that act and learn."""

    num_env_runners: Annotated[int, _short] = 1
    """Processes that act [count]; 0 acts in the learner's own process."""
    envs_per_runner: Annotated[int, _short] = 32
    """Environments that each process steps as one batch [count]."""
    num_learners: Annotated[int, _short] = 0
    """Processes that learn [count]; 0 learns in the driver's own process, several share every batch."""
    fragment: Annotated[int, _short] = 60
    """Steps of each environment that travel to the learner at once [agent steps]."""


@dataclass
class TrainingConfig:
    """How the agent learns."""

    algorithm: Annotated[Literal["impala", "appo", "ppo"], _short] = "impala"
    """Algorithm: impala (V-trace), appo (a clipped surrogate on it) or ppo (synchronous)."""
    lr: Annotated[Schedule, _short] = 5e-4
    """Learning rate: a number, or points over agent steps."""
    gamma: Annotated[float, _short] = 0.98
    """Discount per agent step [0 to 1]."""
    entropy_coeff: Annotated[Schedule, _short] = 0.005
    """Weight of the policy's entropy in the loss: a number, or points over agent steps."""
    vf_loss_coeff: Annotated[float, _short] = 0.5
    """Weight of the value loss."""
    compression_coeff: Annotated[float, _short] = 1.0
    """Weight of the compression loss, which trains nothing but the compression."""
    grad_clip: Annotated[float, _short] = 1.0
    """Largest norm of the gradient of one update."""
    batch: Annotated[int, _short] = 1920
    """Agent steps that the learner takes at once; whole fragments [agent steps]."""
    minibatch: Annotated[int | None, _short] = None
    """Agent steps in one update [agent steps]; the whole batch when absent."""
    epochs: Annotated[int, _short] = 1
    """Passes over each batch [count]."""
    optimizer: Annotated[Literal["adam", "rmsprop"], _short] = "adam"
    """Optimiser: adam, or rmsprop as IMPALA used it (decay 0.99, no momentum)."""
    epsilon: float = 1e-5
    """Term that keeps the optimiser's division away from 0."""


@dataclass
class RunConfig:
    """How long a run goes on, where it runs and what it writes."""

    steps: Annotated[int, _short] = 2_000_000
    """End of training [agent steps; frames = steps x action repeat]."""
    minutes: Annotated[float | None, _short] = None
    """End of training by the clock, counted from this start [minutes]; whichever comes first."""
    seed: Annotated[int, _short] = 0
    """Seed of weights, actions and environments."""
    device: Annotated[Literal["auto", "cpu", "cuda"], _short] = "auto"
    """Where the learner computes: auto takes a CUDA device when there is one."""
    ray_address: Annotated[str | None, _short] = None
    """Ray cluster to join, HOST:PORT or auto; one of its own on this machine when absent."""
    run_dir: Annotated[str | None, _short] = None
    """Folder of the run; a fresh one under runs/ when absent."""
    report_seconds: float = 5.0
    """Time between two reports [seconds]."""
    checkpoint_minutes: float = 2.0
    """Time between two checkpoints [minutes]."""
    curves_seconds: float = 60.0
    """Time between two drawings of curves.png [seconds]."""


@dataclass
class TrainConfig:
    """Train a memory agent."""

    env: EnvConfig = field(default_factory=EnvConfig)
    eval_env: EvalEnvConfig = field(default_factory=EvalEnvConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    runners: RunnerConfig = field(default_factory=RunnerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    run: RunConfig = field(default_factory=RunConfig)


def check(config: TrainConfig) -> None:
    """Raise UserError, one line naming flag, value and range, for a value that no run can have."""
    memory, runners, training, run = config.memory, config.runners, config.training, config.run
    _at_least(1, {"rate": memory.rate, "fragment": runners.fragment, "steps": run.steps})
    _at_least(1, {"envs-per-runner": runners.envs_per_runner, "batch": training.batch})
    _at_least(0, {"num-env-runners": runners.num_env_runners, "seed": run.seed})
    _at_least(0, {"num-learners": runners.num_learners})
    _at_least(1, {"memory.d-model": memory.d_model, "memory.n-layers": memory.n_layers})
    _at_least(1, {"memory.n-heads": memory.n_heads, "memory.window": memory.window})
    _at_least(0, {"memory.memory": memory.memory, "memory.compressed": memory.compressed})
    _at_least(1, {"memory.hidden": memory.hidden, "epochs": training.epochs})
    _at_least(1, {"network.width": config.network.width})
    _at_least(0, {"network.head": config.network.head})
    if training.minibatch is not None:
        _at_least(1, {"minibatch": training.minibatch})
    _above(0, {"grad-clip": training.grad_clip, "run.report-seconds": run.report_seconds})
    _above(0, {"run.checkpoint-minutes": run.checkpoint_minutes})
    _above(0, {"run.curves-seconds": run.curves_seconds})
    if run.minutes is not None:
        _above(0, {"minutes": run.minutes})
    _at_least(0, {"vf-loss-coeff": training.vf_loss_coeff})
    _at_least(0, {"compression-coeff": training.compression_coeff})
    _above(0, {"training.epsilon": training.epsilon})
    if not 0 <= training.gamma <= 1:
        raise UserError(f"--gamma {training.gamma:g} is out of range: give a number from 0 to 1")
    _check_schedule("lr", training.lr)
    _check_schedule("entropy-coeff", training.entropy_coeff)


def _at_least(least: int, values: dict[str, float]) -> None:
    for flag, value in values.items():
        if not value >= least:
            raise UserError(f"--{flag} {value:g} is too small: give {least} or more")


def _above(bound: float, values: dict[str, float]) -> None:
    for flag, value in values.items():
        if not (value > bound and math.isfinite(value)):
            raise UserError(f"--{flag} {value:g} is out of range: give a number above {bound:g}")


def _check_schedule(flag: str, value: float | list[list[float]]) -> None:
    points = value if isinstance(value, list) else [[0, value]]
    steps = [point[0] for point in points]
    if any(not math.isfinite(x) or x < 0 for point in points for x in point):
        raise UserError(f"--{flag} {_show_schedule(value)}: numbers must be 0 or more and finite")
    if steps[0] != 0 or steps != sorted(set(steps)):
        raise UserError(
            f"--{flag} {_show_schedule(value)}: a schedule starts at step 0 and its steps rise"
        )
