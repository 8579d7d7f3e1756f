"""Where an experiment's commands run: on this machine's cores, or as tasks of a Ray cluster.

A command works in a job's folder and names its files relative to it. On a cluster the folder's files go along with the
task into a folder of its own on whatever host Ray chooses, and what changes there comes back every few seconds, so that
the job's folder is a copy of it, never older than that: a host may die at any time.
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

LOG = "log.txt"
LOST = -1000  # the status of a command whose host is gone
SYNC_SECONDS = 2.0
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
        """Begin `python -m WORDS` in a folder, its output in the folder's `LOG`."""


class Cores:
    """Some cores of this machine."""

    def __init__(self, cores: list[int]):
        self.cores = cores

    def start(self, words: list[str], folder: Path) -> Running:
        return _Process(words, folder, self.cores, os.getcwd())


class _Process:
    def __init__(
        self,
        words: list[str],
        folder: Path,
        cores: list[int] | None,
        imports: str,
        threads: int = 1,
    ):
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        paths = [_PACKAGE, imports, *filter(None, [os.environ.get("PYTHONPATH")])]
        kept["PYTHONPATH"] = os.pathsep.join(paths)
        kept.setdefault("OMP_NUM_THREADS", str(len(cores) if cores else threads))

        def prepare() -> None:
            signal.pthread_sigmask(signal.SIG_SETMASK, [])  # Ray's workers block what we send
            with contextlib.suppress(AttributeError, OSError):  # where a system has no such thing
                if cores:
                    os.sched_setaffinity(0, cores)
                else:  # a task's process may be killed, and its command is to save and end then
                    ctypes.CDLL(None).prctl(_DEATH, signal.SIGTERM)

        with open(folder / LOG, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=kept,
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
        return _Task(words, folder, self.cores, self.gpu)


class _Task:
    def __init__(self, words: list[str], folder: Path, cores: int, gpu: bool):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.folder = folder
        self._status: int | None = None
        remote: Any = ray.remote  # whose type hints know fewer options than it has
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._flag = remote(num_cpus=0, scheduling_strategy=here)(_Flag).remote()
        gpus = int(gpu and ray.cluster_resources().get("GPU", 0) >= 1)
        task = remote(num_returns="streaming", max_retries=0, num_cpus=cores, num_gpus=gpus)(_work)
        self._results = task.remote(words, changed(folder, {}), os.getcwd(), cores, self._flag)

    def poll(self) -> int | None:
        import ray

        try:
            while self._status is None and ray.wait([self._results], timeout=0)[0]:
                files, self._status = ray.get(next(self._results))
                put(self.folder, files)
        except ray.exceptions.RayTaskError as error:
            raise RunFailed(f"{self.folder.name} on the cluster: {one_line(error.cause)}") from None
        except (ray.exceptions.RayError, StopIteration):
            self._status = LOST
        return self._status

    def stop(self) -> None:
        self._flag.raise_.remote()

    def wait(self) -> None:
        while self.poll() is None:
            time.sleep(0.2)


class _Flag:
    """Asks a task to end: an actor of the process that owns it, and gone with it."""

    def __init__(self) -> None:
        self._raised = False

    def raise_(self) -> None:
        self._raised = True

    def raised(self) -> bool:
        return self._raised


def _work(
    words: list[str], files: Files, imports: str, cores: int, flag: Any
) -> Iterator[tuple[Files, int | None]]:
    """The task: runs the command in a folder of this host's, and gives what changed in it, and at last its status."""
    import ray

    with tempfile.TemporaryDirectory(prefix="ct_rl-experiment-") as name:
        folder, seen = Path(name), dict[str, tuple[int, int]]()
        put(folder, files)
        changed(folder, seen)
        process, asked = _Process(words, folder, None, imports, cores), False
        while (status := process.poll()) is None:
            time.sleep(SYNC_SECONDS if not asked else 0.2)
            if not asked and ray.get(flag.raised.remote()):
                asked = True
                process.stop()
            yield changed(folder, seen), None
        yield changed(folder, seen), status


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
