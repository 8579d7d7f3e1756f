"""Commands forked from a process that has imported what they all import, 6 of the 14 CPU seconds of a short run.

Whatever a command makes of it is its own: its words, folder, environment, signals and process group. That commands
work from nothing is tested where they are given as they are written: the tutorial, the examples, experiments.
"""

import atexit
import importlib
import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.cli.imported"])


def _as_main(words, folder, folders, environment, files):
    """What `python -m` does with these words."""
    os.setsid()
    for descriptor, name in zip((1, 2), files, strict=True):
        opened = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [folder, *folders]
    importlib.invalidate_caches()
    sys.argv = list(words)
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out


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
