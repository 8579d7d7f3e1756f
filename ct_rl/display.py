"""What a person sees of a training run: a live table on a terminal, one line a report elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import Progress
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Row = dict[str, Any]


def duration(seconds: float) -> str:
    """Seconds as `1h 05m`, `5m 10s` or `10s`."""
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 60}m {whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def _size(value: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} GiB"


_SHOWN: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("return", "return (mean of 100)", lambda x: f"{x:.2f}"),
    ("return_best_mean", "best mean return", lambda x: f"{x:.2f}"),
    ("return_best_episode", "best episode", lambda x: f"{x:.2f}"),
    ("human_normalised", "human-normalised", lambda x: f"{x:.1f} %"),
    ("length", "episode length [steps]", lambda x: f"{x:.0f}"),
    ("teleports", "teleports / episode", lambda x: f"{x:.2f}"),
    ("trials", "trials / episode", lambda x: f"{x:.2f}"),
    ("correct", "correct / episode", lambda x: f"{x:.2f}"),
    ("wrong", "wrong / episode", lambda x: f"{x:.2f}"),
    ("choice_accuracy", "right among choices", lambda x: f"{100 * x:.0f} %"),
    ("policy_loss", "policy loss", lambda x: f"{x:.4f}"),
    ("value_loss", "value loss", lambda x: f"{x:.4f}"),
    ("entropy", "entropy [nats]", lambda x: f"{x:.3f}"),
    ("compression_loss", "compression loss", lambda x: f"{x:.4f}"),
    ("rho_mean", "V-trace rho (mean)", lambda x: f"{x:.3f}"),
    ("policy_lag", "policy lag [updates]", lambda x: f"{x:.2f}"),
    ("learning_rate", "learning rate", lambda x: f"{x:.2e}"),
    ("memory_bytes_per_runner", "memory / runner", _size),
)
_SHORT = {
    "return": "return",
    "return_best_mean": "best",
    "human_normalised": "human",
    "teleports": "teleports",
    "trials": "trials",
    "correct": "correct",
    "wrong": "wrong",
    "policy_loss": "policy",
    "value_loss": "value",
    "entropy": "entropy",
    "compression_loss": "compression",
    "rho_mean": "rho",
    "policy_lag": "lag",
    "memory_bytes_per_runner": "memory",
}


def time_left(row: Row, goal: int, seconds_left: float | None) -> str:
    """Until the step goal at the present rate, or until the clock's end if that comes first."""
    rate = row.get("steps_per_second") or 0
    left = (goal - row["steps"]) / rate if rate else None
    if seconds_left is not None:
        left = seconds_left if left is None else min(left, seconds_left)
    return "?" if left is None else duration(max(left, 0))


def plain_line(row: Row, goal: int, seconds_left: float | None = None) -> str:
    """One report as one line."""
    parts = [
        f"steps {row['steps']:,}/{goal:,}",
        f"frames {row['frames']:,}",
        f"{row['steps_per_second']:.0f} steps/s",
        f"left {time_left(row, goal, seconds_left)}",
        f"episodes {row['episodes']:,}",
    ]
    shown = {key: form for key, _, form in _SHOWN}
    parts += [f"{name} {shown[key](row[key])}" for key, name in _SHORT.items() if key in row]
    return " | ".join(parts)


class PlainDisplay:
    """One line a report, for pipes, files and logs. A reader that goes away does not end the run."""

    def __init__(self, goal: int, out: TextIO | None = None):
        self.goal, self.out = goal, out or sys.stdout

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def note(self, text: str) -> None:
        """Print a line beside the reports."""
        try:
            print(text, file=self.out, flush=True)
        except BrokenPipeError:
            self.out = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            os.dup2(self.out.fileno(), sys.stdout.fileno())

    def show(self, row: Row, seconds_left: float | None = None) -> None:
        """Show one report."""
        self.note(plain_line(row, self.goal, seconds_left))


class LiveDisplay:
    """A table that stays in place and shows the newest report."""

    def __init__(self, goal: int, title: str, console: Console | None = None):
        self.goal, self.title = goal, title
        self.console = console or Console()
        self._live = Live(Text("starting..."), console=self.console, auto_refresh=False)

    def __enter__(self) -> LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        self._live.__exit__(*details)

    def note(self, text: str) -> None:
        """Print a line above the table."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, row: Row, seconds_left: float | None = None) -> None:
        """Show one report."""
        self._live.update(self.render(row, seconds_left), refresh=True)

    def render(self, row: Row, seconds_left: float | None = None) -> Group:
        """The table of one report, under a bar of the way to the goal."""
        head = Text.assemble(
            (self.title, "bold"),
            f"\n{row['steps']:,} of {self.goal:,} agent steps, {row['frames']:,} frames, "
            f"{row['steps_per_second']:.0f} steps/s, {row['episodes']:,} episodes, "
            f"{duration(row['seconds'])} so far, {time_left(row, self.goal, seconds_left)} left",
        )
        table = Table.grid(padding=(0, 2))
        cells = [(name, form(row[key])) for key, name, form in _SHOWN if key in row]
        half = (len(cells) + 1) // 2
        for index in range(half):
            left = cells[index]
            right = cells[index + half] if index + half < len(cells) else ("", "")
            table.add_row(f"[dim]{left[0]}", left[1], f"[dim]{right[0]}", right[1])
        bar = ProgressBar(total=self.goal, completed=min(row["steps"], self.goal), width=70)
        line = Table.grid()  # a bar alone ends without a line break
        line.add_row(bar)
        return Group(head, line, table)


def open_display(goal: int, title: str) -> PlainDisplay | LiveDisplay:
    """The live table where standard output is a terminal, plain lines elsewhere."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        return LiveDisplay(goal, title)
    return PlainDisplay(goal)


@contextlib.contextmanager
def counting(what: str, total: int, unit: str) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal, a line at each fifth elsewhere; call the result once per unit done."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        with Progress() as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
        return
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if done * 5 // total > (done - 1) * 5 // total:
            print(f"{what}: {done}/{total} {unit}", flush=True)

    yield count
