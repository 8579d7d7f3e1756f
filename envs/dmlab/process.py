"""A DeepMind Lab in a process of its own, which may end itself, crash or be killed without harm to this one.

The engine ends its process when a map is missing, crashes on calls after `close`, hangs a fork while it is alive and
holds the interpreter's lock while it draws. In a process of its own none of this matters, and N of them draw at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from envs.dmlab.levels import NEEDS_IMAGES
from envs.dmlab.settings import LabSettings
from envs.errors import MissingDependencyError

INSTALL = "deepmind_lab is not installed: build it as docs/deepmind_lab.md says"
NEEDS = "dm-env, six, setuptools<80 and Python 3.11 or older"  # of the wheel, which does not say so
PYTHON = "DEEPMIND_LAB_PYTHON"
# The package without its __init__, which imports the libraries of all environments: a world needs none of them.
_BARE = "import sys, types; p = types.ModuleType('envs'); p.__path__ = [{folder!r}]; sys.modules['envs'] = p; "
_PREFIX = "ct_rl-dmlab-"
_PATIENCE = 600.0  # seconds for one answer; compiling a large map takes some
_FAREWELL = 10.0  # seconds for a process to end by itself
_TAIL = 4096  # bytes at the end of the engine's output that hold its last words
_ERRORS: dict[str, type[Exception]] = {
    "ValueError": ValueError,
    "TypeError": TypeError,
    "ImportError": MissingDependencyError,
}


class LabProcess:
    """`LabWorld` behind a socket: `ask` sends a call, `answer` waits for its result.

    The constructor only starts the process; the first `answer` tells whether the level opened. `pending` counts the
    answers that have not been taken: one that is left, after an interrupt, would pass for that to a later call.

    Raises (from `answer`):
        MissingDependencyError: where `deepmind_lab` cannot be imported or finds no library of its renderer.
        ValueError, TypeError: for what engine or level refuse.
        RuntimeError: for every other error of the engine, and where its process ended or hangs.
    """

    def __init__(self, settings: LabSettings):
        self.settings, self.pending = settings, 1
        _remove_abandoned()
        self._folder, self._lock = _new_folder()
        # Kept open: the process removes its folder as it ends, and its last words are read after that.
        self._log = open(self._folder / "output.log", "a+b")  # noqa: SIM115
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours.detach())
        with theirs:
            self._process = subprocess.Popen(
                command(f"from envs.dmlab.worker import main; main({theirs.fileno()})"),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=_environment(self._folder),
                # The folder's lock is held as long as either process lives.
                pass_fds=(theirs.fileno(), self._lock),
                process_group=0,  # Ctrl-C is for this process, which then closes the other
            )
        self._asked = time.monotonic()
        with contextlib.suppress(OSError):
            self._connection.send(settings)

    def ask(self, method: str, *arguments: Any) -> None:
        """Sends a call of one of `LabWorld`'s methods."""
        self.pending += 1
        self._asked = time.monotonic()
        # A process that has ended is reported by `answer`, with its last words.
        with contextlib.suppress(OSError):
            self._connection.send((method, *arguments))

    def answer(self) -> Any:
        """The result of the oldest call not answered yet."""
        try:
            # From when it was asked: worlds that were asked at once are waited for at once.
            if not self._connection.poll(max(0.0, self._asked + _PATIENCE - time.monotonic())):
                self._process.kill()  # it would not say farewell either
                self.close()
                raise RuntimeError(self._say(f"the engine gave no answer within {_PATIENCE:g} s"))
            kind, *rest = self._connection.recv()
        except (EOFError, OSError):
            raise RuntimeError(self._say(self._epitaph())) from None
        self.pending -= 1
        if kind == "ok":
            return rest[0]
        name, text = rest
        error = _ERRORS.get(name, RuntimeError)
        if error is MissingDependencyError:
            text = explain_import(text)
        if "Failed to connect RL API" in text:
            raise MissingDependencyError(self._say(self._no_library()))
        raise error(self._say(text))

    def close(self) -> None:
        """Ends the process and removes its folder; harmless any number of times, whatever the process does."""
        self._connection.close()
        try:
            self._process.wait(timeout=_FAREWELL)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _say(self, text: str) -> str:
        level = self.settings.level
        if level in NEEDS_IMAGES and self.settings.dataset_path is None:
            text += "; this level shows photographs: give their folder as dataset_path"
        return f"{level}: {' '.join(text.split())}"

    def _epitaph(self) -> str:
        """How the process ended, and its last words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_FAREWELL)
        status = self._process.returncode
        how = "still runs" if status is None else f"ended with status {status}"
        if status is not None and status < 0:
            how = f"was ended by signal {-status}"
        words = self._last_words()
        missing = re.search(r"Didn't find map '([^']+)'", words)
        if missing:
            return f"the map maps/{missing[1]}.bsp is not part of this build of deepmind_lab (its process {how})"
        return f"the engine's process {how}; its last words: {words[-300:] or 'none'}"

    def _no_library(self) -> str:
        """What the engine's "Failed to connect RL API" stands for; its output says which library it was."""
        renderer, words = self.settings.renderer, self._last_words()
        other = "; renderer='software' needs none of it" if renderer == "hardware" else ""
        return (
            f"the engine cannot load its library for renderer={renderer!r} "
            f"({words[-300:] or 'Failed to connect RL API'}){other}"
        )

    def _last_words(self) -> str:
        """The end of what engine and level wrote, in one line."""
        text = b""
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed
            self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _TAIL))
            text = self._log.read()
        lines = text.decode(errors="replace").splitlines()
        return " | ".join(line.strip() for line in lines if line.strip())


def interpreter() -> tuple[str, str]:
    """The Python that has deepmind_lab, and its PYTHONPATH.

    It is this one, or that of $DEEPMIND_LAB_PYTHON: a module built for an older Python or NumPy needs its own, with
    none of the packages that are installed here.
    """
    other = os.environ.get(PYTHON)
    if other:
        return other, ""
    return sys.executable, os.pathsep.join(path or os.getcwd() for path in sys.path)


def command(line: str) -> list[str]:
    """The words that start that Python on a line of code, which may import `envs.dmlab` as far as a world needs it."""
    bare = _BARE.format(folder=str(Path(__file__).resolve().parents[1]))
    return [interpreter()[0], "-c", bare + line]


def explain_import(text: str) -> str:
    """What to do where an import of `deepmind_lab` failed with that text."""
    if "No module named 'deepmind_lab'" in text:
        return INSTALL
    missing = re.search(r"No module named '(dm_env|six|pkg_resources|imp)\b", text)
    return f"{text} (its wheel needs {NEEDS}: docs/deepmind_lab.md)" if missing else text


def _environment(folder: Path) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if key != "TEST_TMPDIR"}
    env["PYTHONPATH"] = interpreter()[1]
    env["TMPDIR"] = str(folder)  # the engine leaves its own folder there when it is killed
    env.setdefault("LP_NUM_THREADS", "0")  # the software renderer draws in its own thread only
    env.setdefault("OPENBLAS_NUM_THREADS", "1")
    return env


def _new_folder() -> tuple[Path, int]:
    """A temporary folder and the open file whose lock says that it is in use."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def _remove_abandoned() -> None:
    """Removes the folders of processes that were killed together with those that started them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < 60:
                continue
            lock = os.open(folder / "lock", os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
