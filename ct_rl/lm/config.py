"""The settings of a language-modelling run: one small dataclass a part; docstrings are the help."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from ct_rl.errors import UserError, nearest

FILE = "config.yaml"


def _parse_options(items: list[str]) -> dict[str, Any]:
    options = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise ValueError(f"{item!r} is not NAME=VALUE")
        options[key] = yaml.safe_load(value)
    return options


Options = Annotated[
    dict[str, Any],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME=VALUE",
        instance_from_str=_parse_options,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [f"{key}={at}" for key, at in value.items()],
    ),
]
_short = arg(prefix_name=False)


@dataclass
class ModelConfig:
    """The model."""

    memory: Annotated[str, _short] = "compressive"
    """Memory core: a name of `ct_rl.memory.memory_names()`, or wavenet."""
    options: Annotated[Options, arg(name="memory-option", prefix_name=False)] = field(
        default_factory=dict
    )
    """Settings of the memory core, over those of the preset: window=64 memory=64 compressed=64 rate=4 ..."""
    cutoffs: Annotated[tuple[int, ...], _short] = ()
    """Where bands of rarer words begin, for adaptive input and softmax; none for plain ones."""
    dropout: Annotated[float, _short] = 0.0
    """On embeddings and output; the core's own is a memory option."""


@dataclass
class OptimiserConfig:
    """Adam, linear warm-up, then a cosine."""

    lr: Annotated[float, _short] = 3e-4
    """Highest learning rate."""
    lr_ends: Annotated[float, _short] = 1e-6
    """Learning rate at both ends."""
    warmup: Annotated[int, _short] = 4_000
    """Iterations of warm-up."""
    clip: Annotated[float, _short] = 0.1
    """Largest norm of the gradient."""
    update_every: Annotated[int, _short] = 4
    """Iterations in one update of the weights ..."""
    update_every_from: Annotated[int | None, _short] = None
    """... from this iteration on; never where absent."""
    accumulate: Annotated[int, _short] = 1
    """Parts that a batch's rows are worked through in, for less device memory."""


@dataclass
class LMConfig:
    """A run."""

    data: str = "python"
    """A file or folder of text or sound, a folder that `prepare` made, python (its library's sources) or pydoc."""
    model: ModelConfig = field(default_factory=ModelConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    steps: int = 104_000
    """Iterations: batches read."""
    batch: int = 16
    """Streams read side by side."""
    length: int = 128
    """Tokens of each stream in one iteration."""
    eval_memory: Annotated[Options, arg(name="eval-memory")] = field(default_factory=dict)
    """Other sizes of memory for `eval` than for training: compressed=3072."""
    reset_at_documents: bool = False
    """Whether memory starts anew with each document; the paper's does not."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the arithmetic; weights and memory stay float32."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    sample_rate: int = 16_000
    """Of sound [Hz]."""
    seed: int = 0
    """Of weights and dropout."""
    report_every: int = 50
    """Iterations between lines of the display and of metrics.jsonl."""
    eval_every: int = 500
    """Iterations between looks at the validation split."""
    eval_tokens: int = 65_536
    """Tokens of the validation split that a look reads at most."""
    checkpoint_every: int = 500
    """Iterations between checkpoints."""


def check(config: LMConfig) -> None:
    """Raise UserError for a setting out of bounds."""
    o = config.optimiser
    at_least_one = {
        "steps": config.steps,
        "batch": config.batch,
        "length": config.length,
        "report-every": config.report_every,
        "eval-every": config.eval_every,
        "eval-tokens": config.eval_tokens,
        "checkpoint-every": config.checkpoint_every,
        "update-every": o.update_every,
        "accumulate": o.accumulate,
        "sample-rate": config.sample_rate,
    }
    for name, value in at_least_one.items():
        if value < 1:
            raise UserError(f"--{name} {value} is out of bounds: give at least 1")
    for name, number in {"lr": o.lr, "lr-ends": o.lr_ends, "clip": o.clip}.items():
        if not (number > 0 and math.isfinite(number)):
            raise UserError(f"--{name} {number} is out of bounds: give a number above 0")
    if o.warmup < 0:
        raise UserError(f"--warmup {o.warmup} is out of bounds: give at least 0")
    if not 0 <= config.model.dropout < 1:
        raise UserError(f"--dropout {config.model.dropout} is out of bounds: give 0 to below 1")
    if config.batch % o.accumulate:
        raise UserError(
            f"--batch {config.batch} cannot be worked through in {o.accumulate} equal parts: "
            "give a divisor as --accumulate"
        )


def to_yaml(config: LMConfig) -> str:
    """A config as text that `from_yaml` reads."""
    plain = asdict(config)
    plain["model"]["cutoffs"] = list(plain["model"]["cutoffs"])
    return yaml.safe_dump(plain, sort_keys=False)


def read_yaml(path: Path) -> LMConfig:
    """The config of a file; raises UserError for what is none."""
    try:
        return _build(LMConfig, yaml.safe_load(path.read_text()), path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path} is not YAML") from None


def _build(cls: Any, given: Any, path: Path) -> Any:
    if not isinstance(given, dict):
        raise UserError(f"{path} holds no settings of a run of ct_rl.lm")
    known = {f.name: f for f in fields(cls)}
    for key in given:
        if key not in known:
            raise UserError(
                f"{path} has an unknown setting {key!r}{nearest(str(key), list(known))}"
            )
    values = dict(given)
    for name, at in known.items():
        default = at.default_factory() if callable(at.default_factory) else at.default
        if name in values and is_dataclass(default):
            values[name] = _build(type(default), values[name], path)
        elif name in values and isinstance(default, tuple):
            values[name] = tuple(values[name])
    return cls(**values)
