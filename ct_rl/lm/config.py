"""The settings of a language-modelling run: one small dataclass a part; docstrings are the help."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from tyro.conf import arg

from ct_rl.errors import UserError
from ct_rl.plain_files import dump_yaml, parse_yaml, read_text
from ct_rl.reader import Invalid, Options, Text, plain, read

FILE = "config.yaml"
_short = arg(prefix_name=False)
Count = Annotated[int, Ge(1), Le(10**15)]


@dataclass
class ModelConfig:
    """The model."""

    memory: Annotated[Text, _short] = "compressive"
    """Memory core: a name of `ct_rl.memory.memory_names()`, or wavenet."""
    options: Annotated[Options, arg(name="memory-option", prefix_name=False)] = field(
        default_factory=dict
    )
    """Settings of the memory core, over those of the preset: window=64 memory=64 compressed=64 rate=4 ..."""
    cutoffs: Annotated[list[Count], Len(0, 100), _short] = field(default_factory=list)
    """Where bands of rarer words begin, for adaptive input and softmax; none for plain ones."""
    dropout: Annotated[float, Ge(0), Lt(1), _short] = 0.0
    """On embeddings and output; the core's own is a memory option."""


@dataclass
class OptimiserConfig:
    """Adam, linear warm-up, then a cosine."""

    lr: Annotated[float, Gt(0), Le(1e3), _short] = 3e-4
    """Highest learning rate."""
    lr_ends: Annotated[float, Gt(0), Le(1e3), _short] = 1e-6
    """Learning rate at both ends."""
    warmup: Annotated[int, Ge(0), Le(10**15), _short] = 4_000
    """Iterations of warm-up."""
    clip: Annotated[float, Gt(0), Le(1e9), _short] = 0.1
    """Largest norm of the gradient."""
    update_every: Annotated[int, Ge(1), Le(10**15), _short] = 4
    """Iterations in one update of the weights ..."""
    update_every_from: Annotated[Annotated[int, Ge(0)] | None, _short] = None
    """... from this iteration on; never where absent."""
    accumulate: Annotated[int, Ge(1), Le(10**6), _short] = 1
    """Parts that a batch's rows are worked through in, for less device memory."""


@dataclass
class LMConfig:
    """A run."""

    data: Text = "python"
    """A file or folder of text or sound, a folder that `prepare` made, python (its library's sources) or pydoc."""
    model: ModelConfig = field(default_factory=ModelConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    steps: Count = 104_000
    """Iterations: batches read."""
    batch: Count = 16
    """Streams read side by side."""
    length: Count = 128
    """Tokens of each stream in one iteration."""
    eval_memory: Annotated[Options, arg(name="eval-memory")] = field(default_factory=dict)
    """Other sizes of memory for `eval` than for training: compressed=3072."""
    reset_at_documents: bool = False
    """Whether memory starts anew with each document; the paper's does not."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the arithmetic; weights and memory stay float32."""
    device: Text = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    sample_rate: Count = 16_000
    """Of sound [Hz]."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Of weights and dropout."""
    report_every: Count = 50
    """Iterations between lines of the display and of metrics.jsonl."""
    eval_every: Count = 500
    """Iterations between looks at the validation split."""
    eval_tokens: Count = 65_536
    """Tokens of the validation split that a look reads at most."""
    checkpoint_every: Count = 500
    """Iterations between checkpoints."""

    def __post_init__(self) -> None:
        if self.batch % self.optimiser.accumulate:
            raise ValueError(
                f"--batch {self.batch} cannot be worked through in {self.optimiser.accumulate} "
                "equal parts: give a divisor as --accumulate"
            )


def to_yaml(config: LMConfig) -> str:
    """A config as text that `read_yaml` reads."""
    return dump_yaml(plain(config))


def read_yaml(path: Path) -> LMConfig:
    """The config of a file; raises UserError for what is none."""
    try:
        return read(LMConfig, parse_yaml(read_text(path)))
    except Invalid as error:
        raise UserError(f"{path}: {error.line}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
