"""Which engine there is, and levels made on it."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from typing import Any

from gymnasium.vector import VectorEnv

from envs.dmlab.levels import ROOMS_SELECT
from envs.dmlab.process import INSTALL, PYTHON, command, explain_import, interpreter
from envs.errors import MissingDependencyError

ENGINES = ("auto", "embedded", "deepmind_lab")


def available() -> bool:
    """Whether `deepmind_lab` can be imported; tried in another process, for the module's code runs at import."""
    return why_missing() is None


def why_missing() -> str | None:
    """The one line that says why `deepmind_lab` cannot be used, or None where it can."""
    if os.environ.get(PYTHON):
        return _import_error(*interpreter())
    try:
        found = importlib.util.find_spec("deepmind_lab")
    except (ImportError, ValueError):
        found = None
    return INSTALL if found is None else _import_error(*interpreter())


@functools.cache
def _import_error(python: str, path: str) -> str | None:
    """Why that Python, with that PYTHONPATH, cannot import what a world's process needs."""
    try:
        done = subprocess.run(
            command("import deepmind_lab, envs.dmlab.worker; deepmind_lab.Lab; print(6 * 7)"),
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    except OSError as error:
        return f"{PYTHON}={python} cannot be run: {error.strerror}"
    if done.returncode == 0 and done.stdout.split()[-1:] == ["42"]:  # `true` is content, too
        return None
    if done.returncode == 0:
        return f"{PYTHON}={python} is no Python: it does not answer: give the one that has deepmind_lab"
    said = done.stderr.strip().splitlines() or [f"its import ends with status {done.returncode}"]
    text = explain_import(said[-1])
    if os.environ.get(PYTHON) and text == INSTALL:
        return f"{PYTHON}={python} has no deepmind_lab: build it as docs/deepmind_lab.md says"
    return f"deepmind_lab cannot be imported by {python}: {text}"


def engine_notes(engine: str) -> tuple[str, ...]:
    """What `metadata["notes"]` says of the choice: that "auto" passes over a deepmind_lab that is there but fails."""
    reason = why_missing() if engine == "auto" else None
    if reason in (None, INSTALL):
        return ()
    return (f"engine=auto takes the embedded engine: {reason}",)


def choose_engine(engine: str) -> str:
    """The engine that `dmlab_rooms_select` runs on: "auto" is deepmind_lab where it can be imported, else embedded.

    Where a deepmind_lab is there, or named by $DEEPMIND_LAB_PYTHON, and cannot be imported, "auto" says so once on
    standard error.

    Raises:
        ValueError: for another name.
        MissingDependencyError: where deepmind_lab is asked for and cannot be imported.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}: choose one of {', '.join(ENGINES)}")
    if engine == "auto":
        for note in engine_notes(engine):
            say(note)
        return "deepmind_lab" if available() else "embedded"
    if engine == "deepmind_lab":
        reason = why_missing()
        if reason is not None:
            raise MissingDependencyError(reason)
    return engine


@functools.cache
def say(note: str) -> None:
    """Prints a note on standard error, each once in this process."""
    print(f"note: {note}", file=sys.stderr, flush=True)


def make_level(level: str, num_envs: int, *, engine: str = "auto", **settings: Any) -> VectorEnv:
    """A level of DMLab-30 as a vector environment on the real engine; `settings` are `LabVectorEnv`'s.

    Raises:
        ValueError: for the embedded engine, which has no level but `dmlab_rooms_select`.
        MissingDependencyError: where deepmind_lab cannot be imported.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}: choose one of {', '.join(ENGINES)}")
    if engine == "embedded":
        raise ValueError(
            f"dmlab_{level} needs engine='deepmind_lab': the embedded engine has dmlab_rooms_select only"
        )
    reason = why_missing()
    if reason is not None:
        hint = "; dmlab_rooms_select is this level without it" if level == ROOMS_SELECT else ""
        raise MissingDependencyError(f"dmlab_{level}: {reason}{hint}")
    from envs.dmlab.vector import LabVectorEnv

    env = LabVectorEnv(level, num_envs, **settings)
    for note in env.metadata["notes"]:
        say(note)
    return env
