"""A run's folder: config.yaml, metrics.jsonl, checkpoints/, videos/, curves.png, events, and its lock."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import ct_rl
from ct_rl import checkpoint, config_file
from ct_rl.config import TrainConfig
from ct_rl.errors import UserError, is_disk_error, os_message
from ct_rl.plain_files import (
    Unreadable,
    finite,
    make_free_folder,
    parse_json,
    read_bytes,
    write_atomically,
)
from ct_rl.reader import shown

RUN = "run"  # what an experiment calls the folder of each of its runs
_METRICS_BYTES = 2**30
_PACKAGES = ("torch", "ray", "gymnasium", "numpy", "panda3d")


class RunFolder:
    """The files of one run, held by one training process at a time.

    Use `create` for a new run, `open` for an existing one; both raise UserError in one line.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.curves = path / "curves.png"
        self.checkpoints = path / "checkpoints"
        self.videos = path / "videos"
        self.events = path / "tensorboard"
        self._lock: TextIO | None = None
        self._metrics: TextIO | None = None

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """A folder that holds nothing yet, made if need be, and locked."""
        run = cls(path)
        again = shlex.quote(str(path))
        try:
            path.mkdir(parents=True, exist_ok=True)
            if run.config.exists():
                raise UserError(
                    f"run folder '{path}' already holds a run: continue it with --resume {again}, "
                    "or choose another --run-dir"
                )
            if any(item.name != ".lock" for item in path.iterdir()):
                raise UserError(
                    f"run folder '{path}' is not empty: choose another --run-dir or empty it"
                )
            run._take_lock()
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"run folder '{path}' is a file: choose another --run-dir") from None
        except OSError as error:
            raise UserError(os_message(error, f"making the run folder '{path}'")) from None
        except ValueError as error:  # a null byte
            raise UserError(f"--run-dir {str(path)[:80]!r}: {error}") from None
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run, locked, cleaned of what a killed process left half-written."""
        run = cls(path)
        run.require()
        try:
            run._take_lock()
            checkpoint.clean(run.path)
            if run.checkpoints.is_dir():
                checkpoint.clean(run.checkpoints)
        except OSError as error:
            raise UserError(os_message(error, f"opening the run folder '{path}'")) from None
        return run

    def require(self) -> None:
        """Raise UserError unless this is a run's folder, without symbolic links out of it."""
        name = shown(str(self.path))
        try:
            if not self.path.is_dir():
                raise UserError(f"run folder {name} not found")
            for item in (self.path, *self.path.iterdir(), *_inside(self.checkpoints)):
                # The folder itself may be one; a file inside could make us overwrite another's.
                if item is not self.path and item.is_symlink():
                    raise UserError(
                        f"'{item}' is a symbolic link: a run's files must lie in its folder"
                    )
            if not self.config.is_file():
                raise UserError(f"{name} is no run: it holds no config.yaml")
        except ValueError as error:  # a null byte
            raise UserError(f"run folder {name}: {error}") from None
        except OSError as error:
            raise UserError(os_message(error, f"looking at the run folder {name}")) from None

    def require_there(self) -> None:
        """Raise UserError where the folder that was locked is gone, or another lies in its place."""
        if self._lock is None:
            return
        try:
            same = os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self.path / ".lock"))
        except OSError:
            same = False
        if not same:
            raise UserError(
                f"the run folder '{self.path}' was removed or replaced while the run was using it: "
                "nothing more can be saved, and the run ends"
            )

    def close(self) -> None:
        """Close the metrics file and let go of the lock."""
        for file in (self._metrics, self._lock):
            if file is not None:
                file.close()
        self._metrics = self._lock = None

    def read_config(self, imports: Sequence[str] | None = None) -> TrainConfig:
        """The run's configuration; raises UserError.

        Args:
            imports: what `--import` named, None for all that this process has imported: a run that needs more says so.
        """
        given = tuple(sys.modules) if imports is None else imports
        return config_file.read_run(self.config, given)

    def provenance(self) -> dict[str, Any]:
        """What `origin` said when the run began; empty where config.yaml has nothing of it."""
        return config_file.read_provenance(self.config)

    def write_config(self, config: TrainConfig, provenance: dict[str, Any]) -> None:
        """Replace config.yaml atomically."""
        text = config_file.dump(config, provenance)
        write_atomically(self.config, text.encode())

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl; numbers that are not finite become null."""
        self.require_there()
        if self._metrics is None:
            self._metrics = open(self.metrics, "a", encoding="utf-8")  # noqa: SIM115
        self._metrics.write(json.dumps(finite(row)) + "\n")
        self._metrics.flush()

    def read_metrics(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl; a line cut short by a kill is left out."""
        return self.read_metrics_counted()[0]

    def read_metrics_counted(self) -> tuple[list[dict[str, Any]], int]:
        """The whole lines of metrics.jsonl, and how many others were left out."""
        try:
            content = read_bytes(self.metrics, _METRICS_BYTES)
        except FileNotFoundError:
            return [], 0
        rows, broken = [], 0
        for line in content.decode("utf-8", errors="replace").split("\n"):
            if not line.strip():
                continue
            try:
                row = parse_json(line, str(self.metrics))
            except Unreadable:
                row = None
            if _is_report(row):
                rows.append(row)
            else:
                broken += 1
        return rows, broken

    def cut_metrics(self, step: int) -> list[dict[str, Any]]:
        """Drop the lines past `step`, which a resumed run will write again; returns those kept."""
        kept = [row for row in self.read_metrics() if row["steps"] <= step]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        write_atomically(self.metrics, text.encode())
        return kept

    def _take_lock(self) -> None:
        self._lock = take_lock(self.path, f"run '{self.path}' is being trained")


def take_lock(folder: Path, doing: str) -> TextIO:
    """A folder's lock, held until the file is closed or the process is gone.

    Args:
        doing: what whoever holds it is about, for the error's line.

    Raises:
        UserError: while another process holds it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    lock = os.fdopen(os.open(folder / ".lock", flags, 0o666), "a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read(20).strip() or "another process"
        lock.close()
        raise UserError(f"{doing} by process {holder}: stop that one first") from None
    except OSError as error:
        if is_disk_error(error):
            lock.close()
            raise
        # Some network file systems have no locks; a run there is as safe as its user is careful.
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _inside(folder: Path) -> Iterator[Path]:
    """All that lies below a folder; what a link leads to is not looked at."""
    if folder.is_dir() and not folder.is_symlink():
        for above, folders, files in os.walk(folder):
            yield from (Path(above, name) for name in (*folders, *files))


def _is_report(row: Any) -> bool:
    """Whether a line of metrics.jsonl holds a report: steps, and numbers or nothing under every name."""
    if not isinstance(row, dict) or type(row.get("steps")) is not int or row["steps"] < 0:
        return False
    return all(
        value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        for value in row.values()
    )


def fresh_path(config: TrainConfig) -> Path:
    """A new folder under runs/ whose name says what the run is."""
    memory = config.memory.kind
    if memory == "compressive":
        memory += f"_rate{config.memory.rate}"  # type: ignore[attr-defined]
    stamp = time.strftime("%Y%m%d-%H%M%S")
    env = "".join(c if c.isalnum() or c in "-_." else "_" for c in config.env.name)
    path = Path("runs") / f"{env}_{memory}_seed{config.run.seed}_{stamp}"
    with contextlib.suppress(OSError):  # `RunFolder.create` says why
        path = make_free_folder(path)
    return path


def origin(**more: Any) -> dict[str, Any]:
    """Where a run comes from: versions, git commit when there is one, machine."""
    return {
        "ct_rl": _version("ct_rl"),
        "python": platform.python_version(),
        **{name: version for name in _PACKAGES if (version := _version(name))},
        "git_commit": _git_commit(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **more,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the source tree this package runs from, `-dirty` when files differ; None without git."""
    root = Path(ct_rl.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("-dirty" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
