"""Where an experiment's commands run: on this machine's cores, or on hosts of a Ray cluster.

A command names the files of its job's folder by words that begin with `HERE`. On a cluster they go along with the
command into a folder of its own on whatever host Ray chooses, and what changes there comes back every few seconds, so
that the job's folder is a copy of it, never older than that: a host may die at any time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from ct_rl.errors import RunFailed, one_line
from ct_rl.plain_files import write_atomically

HERE = "{job}"  # stands for the job's folder where the command runs
LOG = "log.txt"
LOST = -1000  # the status of a command whose host is gone
SYNC_SECONDS = 2.0
_LOOK_SECONDS = 5.0  # between looks at Ray's table of hosts
_PARTIAL = ".partial-"  # what a checkpoint's folder is called until it is whole
_DEATH = 1  # prctl's PR_SET_PDEATHSIG
_PACKAGE = str(Path(__file__).resolve().parent.parent)
Files = dict[str, bytes | None]  # by path in a folder; None: it is gone


class Running(Protocol):
    """A command under way."""

    def poll(self) -> int | None:
        """Its exit status, `LOST` where its host is gone, None while it runs."""

    def stop(self) -> None:
        """Ask it to save and end."""

    def wait(self) -> None:
        """Until it has ended."""


class Place(Protocol):
    """Something that runs one command at a time."""

    def start(self, words: list[str], folder: Path) -> Running:
        """Begin `python -m WORDS` for the job of a folder, its output in the folder's `LOG`."""


class Cores:
    """Some cores of this machine."""

    def __init__(self, cores: list[int]):
        self.cores = cores

    def start(self, words: list[str], folder: Path) -> Running:
        return _Process(words, folder, dict(os.environ), self.cores)


class _Process:
    def __init__(
        self,
        words: list[str],
        folder: Path,
        environment: dict[str, str],
        cores: list[int] | None = None,
        start: str | None = None,
    ):
        paths = [_PACKAGE, *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        if cores:
            environment.setdefault("OMP_NUM_THREADS", str(len(cores)))
        words = [
            word.replace(HERE, str(folder), 1) if word.startswith(HERE) else word for word in words
        ]

        def prepare() -> None:
            signal.pthread_sigmask(signal.SIG_SETMASK, [])  # Ray's workers block what we send
            with contextlib.suppress(AttributeError, OSError):  # where a system has no such thing
                # Whoever starts it may be killed, and the command is to save and end then.
                ctypes.CDLL(None).prctl(_DEATH, signal.SIGTERM)
                if cores:
                    os.sched_setaffinity(0, cores)

        with open(folder / LOG, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=start,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                preexec_fn=prepare,
                start_new_session=True,  # Ctrl-C reaches it through us, once
            )

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        self._process.wait()


class Cluster:
    """The Ray cluster that this process has joined (`ct_rl.ray_session`); as many commands as Ray finds room for.

    Args:
        cores: that a command needs.
        gpu: whether it takes a GPU where the cluster has any.
    """

    def __init__(self, cores: int, gpu: bool):
        self.cores, self.gpu = cores, gpu

    def start(self, words: list[str], folder: Path) -> Running:
        return _Remote(words, folder, self.cores, self.gpu)


class _Remote:
    """A command on a host of Ray's choice.

    Whether the host is there is asked of Ray's table of hosts: a connection to one that is gone without a word is
    given up only after minutes.
    """

    def __init__(self, words: list[str], folder: Path, cores: int, gpu: bool):
        import ray

        self.folder = folder
        self._status: int | None = None
        self._host: str | None = None
        self._looked = time.monotonic()
        gpus = int(gpu and ray.cluster_resources().get("GPU", 0) >= 1)
        worker: Any = ray.remote(_Worker)
        self._worker = worker.options(num_cpus=cores, num_gpus=gpus, max_concurrency=2).remote()
        self._changes = self._worker.work.options(num_returns="streaming").remote(
            words, changed(folder, {}), os.getcwd(), cores
        )

    def poll(self) -> int | None:
        import ray

        try:
            while self._status is None and ray.wait([self._changes], timeout=0)[0]:
                self._host, files, self._status = ray.get(next(self._changes))
                put(self.folder, files)
        except ray.exceptions.RayTaskError as error:
            raise RunFailed(f"{self.folder.name} on the cluster: {one_line(error.cause)}") from None
        except (ray.exceptions.RayError, StopIteration):
            self._status = LOST
        if self._status is None and time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            if self._host is not None and self._host not in alive:
                self._status = LOST
        if self._status is not None:
            ray.kill(self._worker)  # its cores are free, and a host that comes back finds nothing
        return self._status

    def stop(self) -> None:
        import ray

        if self._host is None:  # it has not begun, as far as anyone knows
            self._status = LOST
            ray.kill(self._worker)
        else:
            self._worker.stop.remote()

    def wait(self) -> None:
        while self.poll() is None:
            time.sleep(0.2)


class _Worker:
    """The actor that runs a command, and keeps its cores for as long; `stop` is heard beside `work`."""

    def __init__(self) -> None:
        self._process: _Process | None = None
        self._asked = False

    def work(
        self, words: list[str], files: Files, start: str, cores: int
    ) -> Iterator[tuple[str, Files, int | None]]:
        """Runs the command in a folder of this host's: the host's id, what changed, and at last the status."""
        import ray

        host, seen = ray.get_runtime_context().get_node_id(), dict[str, tuple[int, int]]()
        with tempfile.TemporaryDirectory(prefix="ct_rl-experiment-") as name:
            folder = Path(name)
            put(folder, files)
            changed(folder, seen)
            # Of Ray's own settings for its workers nothing may reach the Ray that a command starts.
            kept = {key: at for key, at in os.environ.items() if not key.startswith("RAY_")}
            kept["OMP_NUM_THREADS"] = str(cores)
            # Where the experiment was started, if this host has that folder: modules and data are looked for there.
            self._process = _Process(
                words, folder, kept, start=start if Path(start).is_dir() else name
            )
            if self._asked:
                self._process.stop()
            while (status := self._process.poll()) is None:
                yield host, changed(folder, seen), None
                end = time.monotonic() + SYNC_SECONDS
                while self._process.poll() is None and time.monotonic() < end:
                    time.sleep(0.1)
            yield host, changed(folder, seen), status

    def stop(self) -> None:
        self._asked = True
        if self._process is not None:
            self._process.stop()


def changed(folder: Path, seen: dict[str, tuple[int, int]]) -> Files:
    """Files that are new, other or gone since `seen`, the size and time of each, which is brought up to date.

    Partial files and locks are left out.
    """
    found: Files = {}
    there = set()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if _PARTIAL in name or path.name == ".lock":
            continue
        with contextlib.suppress(OSError):  # checkpoints come and go meanwhile
            if path.is_symlink() or not path.is_file():
                continue
            state = path.stat()
            there.add(name)
            mark = (state.st_size, state.st_mtime_ns)
            if seen.get(name) != mark:
                found[name] = path.read_bytes()
                seen[name] = mark
    for name in set(seen) - there:
        del seen[name]
        found[name] = None
    return found


def put(folder: Path, files: Files) -> None:
    """Brings a folder up to date with `changed` of another; a folder that is empty then goes."""
    for name, content in files.items():
        path = folder / name
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
            continue
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
