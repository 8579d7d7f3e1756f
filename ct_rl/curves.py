"""curves.png: a run's learning curves, drawn from its rows."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ct_rl.colours import as_it_is
from ct_rl.metrics import PANELS, ordered
from ct_rl.plain_files import write_atomically

_POINTS = 2000


def draw_curves(
    path: Path,
    rows: Sequence[dict[str, Any]],
    title: str,
    action_repeat: int,
    counts: Collection[str] = (),
) -> None:
    """Draw the rows' curves over agent steps and replace `path` atomically; nothing without rows.

    Args:
        counts: names of the environment's counts.
    """
    if not rows:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    rows = rows[:: max(1, len(rows) // _POINTS)]
    figure = Figure(figsize=(13, 7), dpi=80)
    FigureCanvasAgg(figure)
    # Fixed margins, wide enough for seven figures: a constrained layout takes twice as long, every minute of a run.
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.08, top=0.9, wspace=0.24, hspace=0.33)
    figure.suptitle(title, parse_math=False)
    figures = ordered(dict.fromkeys(key for row in rows for key in row), counts)
    for axes, name in zip(figure.subplots(2, 3).flat, PANELS, strict=True):
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.3)
        for series in (item for item in figures if item.panel == name):
            key = series.key
            points = [(row["steps"], row[key]) for row in rows if row.get(key) is not None]
            if points:
                label = as_it_is(series.short or series.label)
                axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2)
        if axes.get_lines():
            axes.legend(fontsize=8, loc="best")
        else:
            axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", alpha=0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200k: long numbers run together
        axes.set_xlabel(f"agent steps (1 step = {action_repeat} frames)", fontsize=8)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_atomically(path, image.getvalue())
