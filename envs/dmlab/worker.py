"""The process that one DeepMind Lab lives in; `LabProcess` starts `main`, in whichever Python has the engine.

It answers until the other side closes the socket or ends, in whatever way; then it closes the engine and removes its
temporary folder. Beside the engine it needs numpy and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from envs.dmlab.settings import LabSettings
from envs.dmlab.world import LabWorld

_LOG = 1  # standard output and errors go to one file
_LOG_BYTES = 1 << 20  # the engine writes some lines at every map: only the last ones matter


def serve(connection: Connection, make_world: Callable[[LabSettings], Any] = LabWorld) -> None:
    """Opens the level that the first message names, then answers ("reset" | "step", *arguments) messages.

    Replies are ("ok", value), or ("error", the error's class name, its text).
    """
    world = None
    try:
        settings = connection.recv()
        with _reporting(connection):
            world = make_world(settings)
            connection.send(("ok", None))
        while world is not None:
            method, *arguments = connection.recv()
            if method == "reset":
                _shorten_log()
            with _reporting(connection):
                connection.send(("ok", getattr(world, method)(*arguments)))
    except (EOFError, OSError):
        pass  # nobody listens any more
    finally:
        if world is not None:
            world.close()


@contextlib.contextmanager
def _reporting(connection: Connection) -> Any:
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionError):
        raise
    except Exception as error:
        kind = "ImportError" if isinstance(error, ImportError) else type(error).__name__
        text = str(error)
        if kind not in ("ImportError", "RuntimeError", "ValueError", "TypeError"):
            # A KeyError's text is a key, and a MemoryError has none.
            text = f"{kind}: {text}".rstrip(": ")
        connection.send(("error", kind, text))


def _shorten_log() -> None:
    with contextlib.suppress(OSError):
        if os.fstat(_LOG).st_size > _LOG_BYTES:
            os.ftruncate(_LOG, 0)


def main(socket: int) -> None:
    """Serves the socket of that number until it closes."""
    try:
        serve(Connection(socket))
    finally:
        shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
