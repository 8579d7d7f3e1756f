"""Standard output and error whose reader may go away, as that of `| head` does: a command goes on and loses no file."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def unread_output() -> Iterator[None]:
    """Inside, what is printed and cannot be read any more is dropped, and what the encoding has not is escaped."""
    with contextlib.ExitStack() as stack:
        for redirect, stream in (
            (contextlib.redirect_stdout, sys.stdout),
            (contextlib.redirect_stderr, sys.stderr),
        ):
            patient = _patient(stream)
            if patient is not stream:
                stack.enter_context(redirect(patient))
                stack.callback(_flush, patient)
        yield


def is_unread(stream: Any) -> bool:
    """Whether a reader of the stream was there and has gone."""
    buffer = getattr(stream, "buffer", None)
    return bool(getattr(getattr(buffer, "raw", buffer), "gone", False))


class _Patient(io.FileIO):
    """A descriptor that writes nowhere once its reader has gone."""

    gone = False

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            self.gone = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # for child processes, too
            os.close(nowhere)
            return len(data)


def _patient(stream: Any) -> Any:
    if not isinstance(stream, io.TextIOWrapper):
        return stream  # closed, or a program's own
    stream.reconfigure(errors="backslashreplace")
    buffer: Any = stream.buffer
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, io.FileIO) or isinstance(raw, _Patient):
        return stream
    stream.flush()
    patient: Any = _Patient(raw.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        patient if raw is buffer else io.BufferedWriter(patient),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _flush(stream: io.TextIOWrapper) -> None:
    with contextlib.suppress(OSError):  # of a full disk, which the command has told about
        stream.flush()
