"""curves.png: a run's learning curves, drawn from its rows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ct_rl.checkpoint import write_atomically

_PANELS = (
    ("return per episode", (("return", "mean of the last 100"), ("return_best_mean", "best"))),
    (
        "counts per episode",
        tuple((key, key) for key in ("teleports", "trials", "correct", "wrong")),
    ),
    ("right choices among choices", (("choice_accuracy", "accuracy"),)),
    ("policy entropy [nats]", (("entropy", "entropy"),)),
    ("losses", tuple((f"{key}_loss", key) for key in ("policy", "value", "compression"))),
    ("speed [steps/s]", (("steps_per_second", "steps/s"),)),
)
_POINTS = 2000


def draw(path: Path, rows: Sequence[dict[str, Any]], title: str, action_repeat: int) -> None:
    """Draw the rows' curves over agent steps and replace `path` atomically; nothing without rows."""
    if not rows:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    rows = rows[:: max(1, len(rows) // _POINTS)]
    figure = Figure(figsize=(13, 7), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, (name, series) in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.3)
        for key, label in series:
            points = [(row["steps"], row[key]) for row in rows if row.get(key) is not None]
            if points:
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
