"""The configuration of a training run: one small dataclass a component, every field with its bounds.

The same fields are the sections of a YAML recipe and the flags of the command line; docstrings are the help. The
sections `memory` and `auxiliary` belong to the memory and the losses that are chosen (`ct_rl.sections`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len
from pydantic import BeforeValidator
from tyro.conf import arg

from ct_rl.errors import UserError
from ct_rl.reader import Options, Text
from ct_rl.sections import Auxiliary, Memory, default_memory

MOST_STEPS = 10**15


def parse_schedule(value: Any) -> float | list[list[float]]:
    """A number, [[step, value], ...], or the text `step:value,step:value`; raises ValueError otherwise."""
    if isinstance(value, str):
        try:
            if ":" not in value:
                return float(value)
            value = [[float(part) for part in point.split(":", 1)] for point in value.split(",")]
        except ValueError:
            raise ValueError(
                f"{value[:60]!r} is neither a number nor STEP:VALUE,STEP:VALUE"
            ) from None
    if isinstance(value, list):
        if not value or not all(_is_point(point) for point in value):
            raise ValueError("expected a number or [[step, value], ...]")
        return [[float(part) for part in point] for point in value]
    if not _is_number(value):
        raise ValueError("expected a number or [[step, value], ...]")
    return float(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300  # an int beyond has no float


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(map(_is_number, point))


@dataclass(frozen=True)
class Scheduled:
    """A bound for the values of a schedule; its steps begin at 0 and rise."""

    most: float

    def __call__(self, value: Any) -> float | list[list[float]]:
        schedule = parse_schedule(value)
        points = schedule if isinstance(schedule, list) else [[0.0, schedule]]
        if not all(0 <= at <= self.most for _, at in points):
            raise ValueError(f"give values from 0 to {self.most:g}")
        steps = [step for step, _ in points]
        if steps[0] != 0 or steps != sorted(set(steps)) or steps[-1] > MOST_STEPS:
            raise ValueError(
                f"a schedule starts at step 0 and its steps rise, to {MOST_STEPS:g} at most"
            )
        return schedule


Rate = Annotated[float | list[list[float]], BeforeValidator(Scheduled(most=1000.0))]
Coefficient = Annotated[float, Ge(0), Le(1e6)]
Seconds = Annotated[float, Gt(0), Le(1e9)]
_short = arg(prefix_name=False)


@dataclass
class EnvConfig:
    """The environment that is trained on."""

    name: Annotated[Text, arg(name="env", prefix_name=False)] = "dmlab_rooms_select"
    """Environment: a name of `envs.names()` or a gymnasium id."""
    engine: Annotated[Text, _short] = "auto"
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
class NetworkConfig:
    """What stands around the memory."""

    encoder: Annotated[Text, arg(prefix_name=False, aliases=("--network.encoder",))] = "small"
    """Frame encoder: small (IMPALA's shallow network), spots (that, and what objects of few pixels need), residual
    (IMPALA's deep network) or one that was registered."""
    width: Annotated[int, Ge(1), Le(65_536)] = 256
    """Features of the encoder [units]."""
    crop: Annotated[list[Annotated[int, Ge(0), Le(10_000)]], Len(2, 2)] = field(
        default_factory=lambda: [0, 0]
    )
    """Rows cut from top and bottom of frames, columns cut from both sides, so that a display is not read [pixels]."""
    around: bool = True
    """Whether the heads also read the encoder's features past the memory."""
    head: Annotated[int, Ge(0), Le(65_536)] = 0
    """Hidden layer before policy and value, where memory and sight meet [units]; 0 for none."""
    bilinear: Annotated[int, Ge(0), Le(65_536)] = 0
    """Products of memory and sight that the heads read, too, for what must be compared [units]; 0 for none."""
    value_bins: Annotated[int, Ge(0), Le(65_535)] = 0
    """Places of a value that is learned as a distribution (two-hot on a symlog scale, 255 in DreamerV3); 0 for a number
    with a squared error."""
    reward_clip: Annotated[Literal["auto", "none", "unit", "optimistic_asymmetric"], _short] = (
        "auto"
    )
    """Clipping of the learner's rewards; auto: optimistic_asymmetric for DeepMind Lab's levels, none elsewhere."""


@dataclass
class RunnerConfig:
    """The processes that act and learn."""

    num_env_runners: Annotated[int, Ge(0), Le(4096), _short] = 1
    """Processes that act [count]; 0 acts in the learner's own process."""
    envs_per_runner: Annotated[int, Ge(1), Le(65_536), _short] = 32
    """Environments that each process steps as one batch [count]."""
    num_learners: Annotated[int, Ge(0), Le(1024), _short] = 0
    """Processes that learn [count]; 0 learns in the driver's own process, several share every batch."""
    fragment: Annotated[int, Ge(1), Le(100_000), _short] = 60
    """Steps of each environment that travel to the learner at once [agent steps]."""


@dataclass
class TrainingConfig:
    """How the agent learns."""

    algorithm: Annotated[Literal["impala", "appo", "ppo"], _short] = "impala"
    """Algorithm: impala (V-trace), appo (a clipped surrogate on it) or ppo (synchronous)."""
    lr: Annotated[Rate, _short] = 5e-4
    """Learning rate: a number, or points over agent steps."""
    gamma: Annotated[float, Ge(0), Le(1), _short] = 0.98
    """Discount per agent step [0 to 1]."""
    entropy_coeff: Annotated[Rate, _short] = 0.005
    """Weight of the policy's entropy in the loss: a number, or points over agent steps."""
    vf_loss_coeff: Annotated[Coefficient, _short] = 0.5
    """Weight of the value loss."""
    loss_coeffs: dict[str, Coefficient] = field(default_factory=dict)
    """Weights of the memory's own and the auxiliary losses by name, such as contrast=0.5; 1 where none is given."""
    grad_clip: Annotated[float, Gt(0), Le(1e9), _short] = 1.0
    """Largest norm of the gradient of one update."""
    batch: Annotated[int, Ge(1), Le(10**9), _short] = 1920
    """Agent steps that the learner takes at once; whole fragments [agent steps]."""
    minibatch: Annotated[Annotated[int, Ge(1), Le(10**9)] | None, _short] = None
    """Agent steps in one update, whole rows of fragments, of all learners [agent steps]; the batch when absent."""
    epochs: Annotated[int, Ge(1), Le(1000), _short] = 1
    """Passes over each batch [count]."""
    optimizer: Annotated[Literal["adam", "rmsprop"], _short] = "adam"
    """Optimiser: adam, or rmsprop as IMPALA used it (decay 0.99, no momentum)."""
    epsilon: Annotated[float, Gt(0), Le(1)] = 1e-5
    """Term that keeps the optimiser's division away from 0."""
    precision: Annotated[Literal["float32", "bfloat16", "auto"], _short] = "float32"
    """Arithmetic of learning: bfloat16 (autocast, weights stay float32) is faster where it is built in; auto takes it
    on a processor that has it."""


@dataclass
class RunConfig:
    """How long a run goes on, where it runs and what it writes."""

    steps: Annotated[int, Ge(1), Le(MOST_STEPS), _short] = 2_000_000
    """End of training [agent steps; frames = steps x action repeat]."""
    minutes: Annotated[Annotated[float, Gt(0), Le(1e9)] | None, _short] = None
    """End of training by the clock, counted from this start [minutes]; whichever comes first."""
    seed: Annotated[int, Ge(0), Le(2**31 - 1), _short] = 0
    """Seed of weights, actions and environments."""
    device: Annotated[Literal["auto", "cpu", "cuda"], _short] = "auto"
    """Where the learner computes: auto takes a CUDA device when there is one."""
    ray_address: Annotated[Text | None, _short] = None
    """Ray cluster to join, HOST:PORT or auto; one of its own on this machine when absent. Taken from the flag alone."""
    run_dir: Annotated[Text | None, _short] = None
    """Folder of the run; a fresh one under runs/ when absent."""
    imports: Annotated[list[Text], arg(name="import", prefix_name=False)] = field(
        default_factory=list
    )
    """Modules to import first, which register environments, memories, encoders or losses; taken from the flag alone."""
    report_seconds: Seconds = 5.0
    """Time between two reports [seconds]."""
    checkpoint_minutes: Seconds = 2.0
    """Time between two checkpoints [minutes]."""
    curves_seconds: Seconds = 60.0
    """Time between two drawings of curves.png [seconds]."""


@dataclass
class TrainConfig:
    """Train a memory agent."""

    env: EnvConfig = field(default_factory=EnvConfig)
    eval_env: EvalEnvConfig = field(default_factory=EvalEnvConfig)
    memory: Memory = field(default_factory=default_memory)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    auxiliary: Auxiliary = field(default_factory=Auxiliary)
    runners: RunnerConfig = field(default_factory=RunnerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    run: RunConfig = field(default_factory=RunConfig)


def check(config: TrainConfig) -> None:
    """Raise UserError, one line, for settings that are each possible but not together."""
    runners, training = config.runners, config.training
    learners, algorithm = max(1, runners.num_learners), training.algorithm
    fragment = runners.envs_per_runner * runners.fragment
    made_of = f"{runners.envs_per_runner} environments x {runners.fragment} steps"
    if algorithm == "ppo" and runners.num_env_runners > 1:
        fragment *= runners.num_env_runners  # all runners sample before it learns
        made_of = f"{runners.num_env_runners} runners x {made_of}"
    whole = fragment * learners
    if learners > 1:
        made_of = f"{learners} learners x {made_of}"
    if training.batch % whole:
        below, above = training.batch // whole * whole, -(-training.batch // whole) * whole
        give = f"{below} or {above}" if below else f"{above}"
        raise UserError(
            f"--batch {training.batch} is no whole number of fragments of {whole} steps "
            f"({made_of}): give {give}, or change --fragment or --envs-per-runner"
        )
    if training.minibatch is not None:
        row, each = runners.fragment * learners, f" x {learners} learners" if learners > 1 else ""
        if training.minibatch > training.batch or training.minibatch % row:
            raise UserError(
                f"--minibatch {training.minibatch}: give a multiple of --fragment "
                f"{runners.fragment}{each}, at most {training.batch}"
            )


def resolve_reward_clip(config: TrainConfig) -> str:
    """Sets and returns the clipping that `auto` stands for: what DeepMind Lab's scores were made with, else none."""
    if config.network.reward_clip == "auto":
        import envs

        lab = envs.has_engines(config.env.name)
        config.network.reward_clip = "optimistic_asymmetric" if lab else "none"
    return config.network.reward_clip
