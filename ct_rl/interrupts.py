"""Ctrl-C, SIGTERM and SIGHUP: the first asks the run to save and stop, none can break a save."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Context that turns signals into requests.

    Before `arm` a signal raises KeyboardInterrupt: there is nothing to save yet. After it, the first
    sets `requested`; a second one gives up waiting and raises KeyboardInterrupt, except inside
    `protected`, where it is only acknowledged. After `finish`, or once it has raised, nothing breaks
    the way out.
    """

    def __init__(self) -> None:
        self.requested = False
        self._armed = self._protected = self._finished = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in _SIGNALS:
            # nohup ignores SIGHUP, and so do we; a script's `&` ignores SIGINT, which still must save.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # The process is about to end: a late signal must not print a traceback into its last lines.
            signal.signal(number, signal.SIG_IGN if self.requested else handler)

    def arm(self) -> None:
        """From now on there is something to save before stopping."""
        self._armed = True

    def finish(self) -> None:
        """From now on only the way out is left, which no signal may break off."""
        self._finished = True

    @contextlib.contextmanager
    def protected(self) -> Iterator[None]:
        """Code that no signal may break off."""
        self._protected = True
        try:
            yield
        finally:
            self._protected = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested, True
        if self._protected or self._finished:
            _say("saving and shutting down, one moment")
        elif again or not self._armed:
            self._finished = True
            raise KeyboardInterrupt
        else:
            _say("stopping: saves first (once more stops without saving)")


def _say(text: str) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # a signal may arrive inside another write
        print(f"\n{text}", file=sys.stderr, flush=True)
