"""One self-contained HTML page about runs: `python -m ct_rl.report RUN... --out report.html`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le
from rich.filesize import decimal
from tyro.conf import Positional, arg

from ct_rl import command_line
from ct_rl.config import Text
from ct_rl.errors import DONE, one_line, run_command
from ct_rl.plain_files import require_writable, write_new

PROG = "ct_rl.report"


@dataclass
class Arguments:
    """Tell about runs in one HTML page: curves, scores, evaluations, memory, videos, and how to repeat them."""

    runs: Positional[list[Text]]
    """Folders of runs; those that differ only in their seed are one group."""
    out: Text = "report.html"
    """File to write; one of that name is replaced."""
    video_mb: Annotated[float, Ge(0), Le(10_000)] = 20.0
    """Most videos that the page may hold, newest first [megabytes]; 0 leaves them out."""
    imports: Annotated[list[Text], arg(name="import")] = field(default_factory=list)
    """Modules to import first, which register the runs' own environments, memories, encoders or losses."""


def main() -> None:
    """What `python -m ct_rl.report` runs."""
    sys.exit(run_command(lambda: command(command_line.program_arguments())))


def command(argv: list[str]) -> int:
    """Read the flags and the runs, write the page, return the exit status."""
    given = command_line.parse_importing(Arguments, argv, prog=PROG)
    out = Path(given.out)
    require_writable(out, "--out")
    from ct_rl.report.material import read_run
    from ct_rl.report.page import build

    folders = {Path(name).resolve(): Path(name) for name in given.runs}  # each once
    runs = [read_run(path, given.imports) for path in folders.values()]
    page, notes = build(runs, round(given.video_mb * 1e6))
    write_new(out, page, "--out")
    for note in notes:
        print(f"note: {one_line(note)}", file=sys.stderr)
    print(f"report       {out} ({decimal(len(page.encode()))})")
    return DONE


if __name__ == "__main__":
    main()
