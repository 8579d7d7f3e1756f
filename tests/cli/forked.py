"""Commands forked from a process that has imported what they all import, 6 of the 14 CPU seconds of a short run.

Whatever a command makes of it is its own: its words, folder, environment, signals and process group; and the runs of
an experiment are forked from the experiment. That commands, and those runs, work from nothing is tested where they are
given as they are written: the tutorial, the examples.
"""

import atexit
import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

_TOKEN = "RAY_AUTH_MODE"  # whether Ray's processes show each other a token
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.cli.imported"])


def _as_main(words, folder, folders, environment, files):
    """What `python -m` does with these words."""
    os.setsid()
    for descriptor, name in zip((1, 2), files, strict=True):
        opened = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    subprocess.Popen = _Popen
    _run(words, folder, folders, environment)


def _run(words, folder, folders, environment):
    # Ray reads it when it is imported, which was before, and leaves it in a pytest that started a cluster.
    environment = {**environment, _TOKEN: os.environ.get(_TOKEN)}
    os.environ.clear()
    os.environ.update({key: value for key, value in environment.items() if value is not None})
    os.chdir(folder)
    sys.path[:0] = [folder, *folders]
    importlib.invalidate_caches()
    sys.argv = list(words)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out


class _Popen(subprocess.Popen):
    """Stays in the forked process where one of our commands is started; folder, output, session, cores are as asked."""

    def __init__(self, args, **settings):
        if args[:2] == [sys.executable, "-m"] and args[2].startswith("ct_rl."):
            prepare = settings.get("preexec_fn") or (lambda: None)
            environment = settings["env"]

            def stay():
                status = 1
                try:
                    prepare()
                    status = _started(args[2:], environment)
                finally:
                    os._exit(status)

            settings["preexec_fn"] = stay
            sys.stdout.flush()
            sys.stderr.flush()
        super().__init__(args, **settings)


def _started(words, environment):
    """Runs a command in a process forked from another command, of which nothing is to go on: files, signals' handlers,
    what it does at its end. What that one's frames hold is never freed, so that none of it closes a file of this."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    atexit._clear()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww")
    )
    try:
        _run(words, os.getcwd(), environment["PYTHONPATH"].split(os.pathsep), environment)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


class Forked:
    """A command that runs, with what these tests need of subprocess.Popen."""

    def __init__(self, words, folder, folders, environment):
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name) / name for name in ("out", "err")]
        for file in self._files:
            file.touch()
        self._process = _CONTEXT.Process(
            target=_as_main,
            args=(words, folder, folders, environment, self._files),
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    poll = returncode.fget

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout=None):
        """Output and errors, once it has ended; TimeoutError unless it does."""
        self._process.join(timeout)
        if self.poll() is None:
            raise TimeoutError(f"process {self.pid} has not ended after {timeout} s")
        return tuple(file.read_text(errors="replace") for file in self._files)
