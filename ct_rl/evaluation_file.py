"""Evaluations as files: what `ct_rl.evaluate` writes beside a run, and what others may rely on when they read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from ct_rl.config import TrainConfig
from ct_rl.errors import UserError, os_message
from ct_rl.plain_files import Unreadable, finite, read_json, write_atomically, write_under_free_name
from ct_rl.reader import Invalid, quoted, read

_MOST = 2**28
FOLDER = "evaluations"
MAX_STEPS = 100_000  # of an episode, unless --max-steps says otherwise [agent steps]


@dataclass(frozen=True)
class MemoryAttention:
    """Where a memory's attention went in an episode; lists by layer, first to last.

    Attributes:
        buckets: of each layer, mean weight of a place in parts of compressed memory, memory and window, as many of
            each, oldest first.
        shares: of each layer, weight on compressed memory, memory and window.
        compression_loss: of each layer.
    """

    buckets: list[list[float]] = field(default_factory=list)
    shares: list[list[float]] = field(default_factory=list)
    compression_loss: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one checkpoint.

    Attributes:
        env: the environment's name.
        scores: of each way of acting, by the keys of `ct_rl.metrics`; None where a figure has no value.
        steps: of the checkpoint [agent steps].
        env_options: settings of the environment; engine: of DeepMind Lab's levels.
        seed: of the evaluation; max_steps: after which an episode was cut.
        memory: what `ct_rl.memory_attention` found; empty for memories without attention.
    """

    env: str
    scores: dict[str, dict[str, float | None]]
    steps: Annotated[int, Ge(0)] | None = None
    env_options: dict[str, Any] = field(default_factory=dict)
    engine: str | None = None
    seed: int | None = None
    max_steps: int | None = None
    memory: MemoryAttention = field(default_factory=MemoryAttention)


def read_evaluation(path: Path) -> Evaluation:
    """The evaluation in a file; raises UserError where it is none."""
    try:
        found = read(Evaluation, read_json(path, _MOST), extra="ignore")
    except FileNotFoundError:
        raise UserError(f"evaluation '{path}' not found") from None
    except Invalid as error:
        raise UserError(f"'{path}' is no evaluation of ct_rl.evaluate: {error}") from None
    except Unreadable as error:
        raise UserError(f"no evaluation of ct_rl.evaluate: {error}") from None
    if not found.scores or any(score.get("mean") is None for score in found.scores.values()):
        raise UserError(f"'{path}' is no evaluation of ct_rl.evaluate: scores: no mean return")
    return found


def played_otherwise(found: Evaluation, config: TrainConfig) -> list[str]:
    """What an evaluation has otherwise than one that `ct_rl.evaluate` plays without flags: the level as it is.

    Paths of a machine do not count, nor what an evaluation of an earlier version does not tell.

    Args:
        config: of the run that was evaluated.
    """
    from ct_rl.algorithm import evaluation_options, portable_options

    env = config.env
    level = json.loads(_text(portable_options(env, evaluation_options(config))))
    played = portable_options(env, found.env_options)
    words = [
        f"{quoted(key)} = {quoted(value)}"
        for key, value in played.items()
        if key not in level or level[key] != value
    ]
    words += [f"no {quoted(key)}" for key in level if key not in played]
    if found.max_steps not in (None, MAX_STEPS):
        words.append(f"--max-steps {found.max_steps}")
    if env.engine != "auto" and found.engine not in (None, env.engine):
        words.append(f"--engine {quoted(found.engine)}")
    return words


def require_folder(home: Path) -> Path:
    """`evaluations/` in a folder, made if need be; raises UserError where it cannot be written."""
    folder = home / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        if folder.is_symlink():
            raise UserError(f"'{folder}' is a symbolic link: a run's files must lie in its folder")
        write_atomically(folder / ".probe", b"")
        (folder / ".probe").unlink(missing_ok=True)  # another evaluation may have been here
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"'{folder}' is a file: move it away, evaluations go there") from None
    except OSError as error:
        raise UserError(os_message(error, f"writing into '{folder}'")) from error
    return folder


def new_evaluation(home: Path, name: str, report: Mapping[str, Any]) -> Path:
    """Write an evaluation that is no file yet, and return the name it got, which no other evaluation has.

    Raises:
        UserError: where the folder cannot be written.
    """
    folder = require_folder(home)
    return write_under_free_name(folder / name, ".json", _text(report))


def write_evaluation(path: Path, report: Mapping[str, Any]) -> None:
    """Replace a file of an evaluation atomically; numbers that are not finite become null."""
    write_atomically(path, _text(report))


def evaluation_files(home: Path) -> list[Path]:
    """The evaluations in a folder by name, without those that are being written or that a kill left half-written."""
    return sorted(file for file in home.glob(f"{FOLDER}/*.json") if file.name[0] != ".")


def _text(report: Mapping[str, Any]) -> bytes:
    return json.dumps(finite(report), indent=1, allow_nan=False).encode()
