"""TensorBoard events, written in the calling thread, so that a full disk is met where it can be handled."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from ct_rl.metrics import scalars


class EventFile:
    """One file of scalars. `first_step` > 0 tells TensorBoard to drop later points of earlier files."""

    def __init__(self, folder: Path, first_step: int = 0, counts: Collection[str] = ()):
        self._counts = counts  # names of the environment's
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(folder / name, "wb")  # noqa: SIM115
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if first_step:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=first_step + 1, session_log=start))

    def add(self, row: Mapping[str, float], step: int) -> None:
        """Write one report's numbers at an agent step."""
        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars(row, self._counts).items()
        ]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Close the file; what could not be written by then is lost."""
        self._file.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
        self._file.flush()
