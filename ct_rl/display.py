"""What a person sees of a training run: a live table on a terminal, one line a report elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import Progress
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ct_rl.metrics import duration, ordered

Row = dict[str, Any]


def time_left(row: Row, goal: int, seconds_left: float | None) -> str:
    """Until the step goal at the present rate, or until the clock's end if that comes first."""
    rate = row.get("steps_per_second") or 0
    left = (goal - row["steps"]) / rate if rate else None
    if seconds_left is not None:
        left = seconds_left if left is None else min(left, seconds_left)
    return "?" if left is None else duration(max(left, 0))


def plain_line(
    row: Row, goal: int, seconds_left: float | None = None, counts: Collection[str] = ()
) -> str:
    """One report as one line; `counts` names the environment's."""
    parts = [
        f"steps {row['steps']:,}/{goal:,}",
        f"frames {row['frames']:,}",
        f"{row['steps_per_second']:.0f} steps/s",
        f"left {time_left(row, goal, seconds_left)}",
        f"episodes {row['episodes']:,}",
    ]
    parts += [
        f"{figure.short} {figure.text(row[figure.key])}"
        for figure in ordered(row, counts)
        if figure.short and row[figure.key] is not None
    ]
    return " | ".join(parts)


class PlainDisplay:
    """One line a report, for pipes, files and logs."""

    def __init__(self, goal: int, out: TextIO | None = None, counts: Collection[str] = ()):
        self.goal, self.out, self.counts = goal, out or sys.stdout, counts

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def note(self, text: str) -> None:
        """Print a line beside the reports."""
        print(text, file=self.out, flush=True)

    def show(self, row: Row, seconds_left: float | None = None) -> None:
        """Show one report."""
        self.note(plain_line(row, self.goal, seconds_left, self.counts))


class LiveDisplay:
    """A table that stays in place and shows the newest report."""

    def __init__(
        self,
        goal: int,
        title: str,
        console: Console | None = None,
        counts: Collection[str] = (),
    ):
        self.goal, self.title, self.counts = goal, title, counts
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
        cells = [
            (figure.label, figure.text(row[figure.key]))
            for figure in ordered(row, self.counts)
            if figure.shown and row[figure.key] is not None
        ]
        half = (len(cells) + 1) // 2
        for index in range(half):
            left = cells[index]
            right = cells[index + half] if index + half < len(cells) else ("", "")
            table.add_row(
                Text(left[0], "dim"), Text(left[1]), Text(right[0], "dim"), Text(right[1])
            )  # names may be an environment's own
        bar = ProgressBar(total=self.goal, completed=min(row["steps"], self.goal), width=70)
        line = Table.grid()  # a bar alone ends without a line break
        line.add_row(bar)
        return Group(head, line, table)


def _terminal() -> bool:
    """Whether somebody looks at a terminal that can draw; standard output may be closed, too."""
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def open_display(goal: int, title: str, counts: Collection[str] = ()) -> PlainDisplay | LiveDisplay:
    """The live table where standard output is a terminal, plain lines elsewhere; `counts` names the environment's."""
    if _terminal():
        return LiveDisplay(goal, title, counts=counts)
    return PlainDisplay(goal, counts=counts)


@contextlib.contextmanager
def counting(what: str, total: int, unit: str) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal, a line at each fifth elsewhere; call the result once per unit done."""
    if _terminal():
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
