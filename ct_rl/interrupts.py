"""Ctrl-C, SIGTERM and SIGHUP: the first asks the run to save and stop, none can break a save."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from ct_rl.errors import INTERRUPTED

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TOGETHER_SECONDS = 0.2
REMIND_SECONDS = 15.0  # until a line says what the first signal still waits for
LEAVE_SECONDS = 5.0  # until the second ends the process, whoever has not answered


class Interrupts:
    """Context that turns signals into requests.

    Before `arm` a signal raises KeyboardInterrupt: there is nothing to save yet. After it, the first
    sets `requested`; a second one gives up waiting and raises KeyboardInterrupt, except inside
    `protected`, where it is only acknowledged. After `finish`, or once it has raised, a further signal
    does not break the way out, but gives it `LEAVE_SECONDS`: then the process ends with status 130.
    Signals within `TOGETHER_SECONDS` are one: nobody answers so fast, but a supervisor tells a process and its group,
    and Linux tells a child of its parent's death once for each of the parent's threads.

    Args:
        unanswered: says which processes have not answered, or nothing.
    """

    def __init__(self, unanswered: Callable[[], str] = lambda: "") -> None:
        self.requested = False
        self._counted = -math.inf  # when the last signal that was one of its own came
        self.unanswered = unanswered
        self._armed = self._protected = self._finished = False
        self._before: dict[int, Any] = {}
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> Interrupts:
        for number in _SIGNALS:
            # nohup ignores SIGHUP, and so do we; a script's `&` ignores SIGINT, which still must save.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for timer in self._timers:
            timer.cancel()
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
        """Code that no signal may break off; it must not wait for another process."""
        self._protected = True
        try:
            yield
        finally:
            self._protected = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested and now - self._counted < TOGETHER_SECONDS:
            return
        self._counted = now
        again, self.requested = self.requested, True
        if self._protected or self._finished:
            _say("saving and shutting down, one moment")
            if again:
                self._after(LEAVE_SECONDS, self._leave)
        elif again or not self._armed:
            self._finished = True
            self._after(LEAVE_SECONDS, self._leave)
            raise KeyboardInterrupt
        else:
            _say("stopping: saves first (once more stops without saving)")
            self._after(REMIND_SECONDS, self._remind)

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _remind(self) -> None:
        _say(f"still waiting{self._who()}; once more stops without saving")

    def _leave(self) -> None:
        if self._protected:  # files are being written, which ends by itself
            self._after(0.5, self._leave)
            return
        _say(f"ended without waiting any longer{self._who()}")
        os._exit(INTERRUPTED)

    def _who(self) -> str:
        with contextlib.suppress(Exception):  # a courtesy, which must not get in the way
            who = self.unanswered()
            return f" for {who}" if who else ""
        return ""


def _say(text: str) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # a signal may arrive inside another write
        print(f"\n{text}", file=sys.stderr, flush=True)
