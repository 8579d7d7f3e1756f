"""What several runs say together: curves over seeds, scores with intervals, one picture, one table.

Intervals are rliable's (Agarwal et al. 2021, arXiv 2108.13264): percentile bootstrap over the runs, 95 %.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ct_rl.colours import PALETTE, as_it_is, looks, memory_of
from ct_rl.config_file import to_plain
from ct_rl.metrics import evaluated, metric
from ct_rl.plain_files import write_atomically

if TYPE_CHECKING:
    from ct_rl.experiment_file import Experiment

_LETTERS = 36  # of names side by side below the evaluations
_POINTS = 120
_IN_A_ROW = 6  # variants of the legend
_RESAMPLES = 10_000


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % of the bootstrapped means over runs; None for fewer than two runs."""
    if len(values) < 2:
        return None
    draws = np.random.default_rng(0).choice(np.asarray(values), (_RESAMPLES, len(values)))
    low, high = np.percentile(draws.mean(1), [2.5, 97.5])
    return float(low), float(high)


def iqm(values: Sequence[float]) -> float:
    """Interquartile mean: the mean of the middle half, of all where there are fewer than four."""
    middle = np.sort(np.asarray(values, float))
    cut = len(middle) // 4
    return float(middle[cut : len(middle) - cut].mean())


def iqm_interval(strata: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """95 % of the interquartile means over all strata together, runs drawn anew within each (stratified bootstrap).

    Args:
        strata: the scores of each task's runs.

    Returns:
        None where no stratum has two runs: nothing can be drawn.
    """
    if not any(len(stratum) > 1 for stratum in strata):
        return None
    random = np.random.default_rng(0)
    drawn = np.concatenate(
        [
            random.choice(np.asarray(stratum, float), (_RESAMPLES, len(stratum)))
            for stratum in strata
            if stratum
        ],
        axis=1,
    )
    drawn.sort(1)
    cut = drawn.shape[1] // 4
    low, high = np.percentile(drawn[:, cut : drawn.shape[1] - cut].mean(1), [2.5, 97.5])
    return float(low), float(high)


def compare(
    finished: Mapping[str, Sequence[dict[str, Any]]], experiment: Experiment
) -> dict[str, Any]:
    """Everything that the picture and the table show, in plain values.

    Args:
        finished: of each variant by name, its runs as `run` tells them.
    """
    variants: dict[str, Any] = {}
    configs = {
        variant.name: to_plain(variant.config)
        for variant in experiment.variants
        if variant.name in finished
    }
    for name, config in configs.items():
        runs = finished[name]
        variants[name] = {
            "config": config,
            "runs": list(runs),
            "area": _summary([run["area"] for run in runs]),
            "scores": {
                way: _scores(runs, way, experiment.measure) for way in runs[0]["evaluation"]
            },
        }
    return {
        "title": experiment.title,
        "measure": experiment.measure,
        "chance": experiment.chance,
        "levels": experiment.levels,
        "minutes": experiment.minutes,
        "parallel": experiment.parallel,
        "variants": variants,
    }


def run(
    seed: int,
    rows: Sequence[dict[str, Any]],
    evaluation: Mapping[str, Mapping[str, Any]],
    experiment: Experiment,
) -> dict[str, Any]:
    """What one finished run says, in plain values.

    Args:
        rows: the reports of its training.
        evaluation: the scores of its evaluation, by way of acting.
    """
    measure, last = experiment.measure, rows[-1]
    known = [row for row in rows if row.get(measure) is not None]
    window = last["steps"] / 40
    thin = known[:: max(1, len(known) // _POINTS)]
    return {
        "seed": seed,
        "steps": last["steps"],
        "minutes": round(last["seconds"] / 60, 1),
        "evaluation": evaluation,
        "area": _area(known, measure),
        "reached": {
            level_key(level): reached(known, measure, level, window) for level in experiment.levels
        },
        "curve": [
            [round(row["seconds"] / 60, 2), row["steps"], round(row[measure], 4)] for row in thin
        ],
    }


def level_key(level: float) -> str:
    """A level's name in a run's `reached`."""
    return f"{level:.15g}"


def _area(rows: Sequence[dict[str, Any]], measure: str) -> float | None:
    """The area under the curve over steps, divided by the steps: the mean over all of training."""
    if not rows:
        return None
    steps = np.array([row["steps"] for row in rows], float)
    values = np.array([row[measure] for row in rows], float)
    if steps[-1] == steps[0]:
        return float(values.mean())
    means = (values[1:] + values[:-1]) / 2
    return float((means * np.diff(steps)).sum() / (steps[-1] - steps[0]))


def reached(
    rows: Sequence[dict[str, Any]], measure: str, level: float, window: float
) -> dict[str, float] | None:
    """Where the mean of a run's reports over the last `window` steps first passed `level`: steps and minutes.

    Args:
        rows: reports that have `measure`, in their order.
        window: agent steps; what came before a whole one has been trained is too little to say.

    Returns:
        None where it never did.
    """
    first = 0
    for end, row in enumerate(rows, 1):
        while rows[first]["steps"] <= row["steps"] - window:
            first += 1
        whole = row["steps"] >= window
        if whole and np.mean([one[measure] for one in rows[first:end]]) > level:
            return {"steps": row["steps"], "minutes": round(row["seconds"] / 60, 1)}
    return None


def _summary(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and interquartile mean of the runs that have a value, each with 95 % of a bootstrap over runs."""
    known = [value for value in values if value is not None]
    return {
        "values": list(values),
        "mean": float(np.mean(known)) if known else None,
        "interval": interval(known),
        "iqm": iqm(known) if known else None,
        "iqm_interval": iqm_interval([known]),
    }


def _scores(runs: Sequence[dict[str, Any]], way: str, measure: str) -> dict[str, Any]:
    key = {"return": "mean"}.get(measure, measure)
    scores = [run["evaluation"][way] for run in runs]
    return _summary([score.get(key) for score in scores]) | {
        "return": float(np.mean([score["mean"] or 0.0 for score in scores])),
    }


def draw_comparison(path: Path, results: dict[str, Any]) -> None:
    """Every seed and the means over steps and over minutes, evaluations beside; replaces `path` atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    variants = results["variants"]
    named_below = -(-len(variants) // _IN_A_ROW)  # rows of the legend
    figure = Figure(figsize=(15, 4.6 + 0.2 * named_below), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(results["title"], parse_math=False)
    by_steps, by_minutes, right = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    by_minutes.sharey(by_steps)
    seen = looks([memory_of(variant["config"]["memory"]) for variant in variants.values()])
    for i, ((name, variant), look) in enumerate(zip(variants.items(), seen, strict=True)):
        colour = PALETTE[look.colour]
        curves = [np.asarray(run["curve"], float) for run in variant["runs"] if run["curve"]]
        for axes, x in ((by_minutes, 0), (by_steps, 1)):
            for curve in curves:
                axes.plot(curve[:, x], curve[:, 2], color=colour, alpha=0.35, linewidth=0.9)
            if curves:
                begin, end = max(c[0, x] for c in curves), min(c[-1, x] for c in curves)
                # Where all have been, which may be nowhere.
                grid = np.linspace(begin, end, _POINTS if begin <= end else 0)
                mean = np.mean([np.interp(grid, c[:, x], c[:, 2]) for c in curves], 0)
                how_many = f"mean of {len(curves)}" if curves[1:] else "one seed"
                label = as_it_is(f"{name}, {how_many}")
                axes.plot(grid, mean, color=colour, ls=look.line, linewidth=2.2, label=label)
        for j, score in enumerate(variant["scores"].values()):
            values = [value for value in score["values"] if value is not None]
            at = i + 0.3 * (j - 0.5 * (len(variant["scores"]) - 1))
            right.plot([at] * len(values), values, "o", color=colour, alpha=0.5, markersize=5)
            if score["interval"] is not None:
                right.plot([at, at], score["interval"], color=colour, linewidth=2)
            if score["mean"] is not None:
                right.plot([at], [score["mean"]], "_", color=colour, markersize=16)
    if results["chance"] is not None:
        for axes in (by_steps, by_minutes, right):
            axes.axhline(results["chance"], color="grey", linestyle=":", linewidth=1)
    named = _label(results["measure"])
    by_steps.set(xlabel="agent steps", ylabel=f"{named} in training", title="every seed, mean")
    by_minutes.set(xlabel="minutes of training", title="the same by the clock")
    ways = ", ".join(next(iter(results["variants"].values()))["scores"])
    right.set(title=f"evaluation: {ways}", ylabel=f"{named}; mean, 95 %")
    names = list(results["variants"])
    right.set_xticks(range(len(names)), [as_it_is(name) for name in names], fontsize=8)
    if sum(map(len, names)) > _LETTERS:
        right.tick_params("x", rotation=25)
        for label in right.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    right.set_xlim(-0.6, len(names) - 0.4)
    figure.legend(
        *by_steps.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=_IN_A_ROW,
        fontsize=8,
    )
    for axes in (by_steps, by_minutes, right):
        axes.grid(alpha=0.3)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_atomically(path, image.getvalue())


def _label(measure: str) -> str:
    return evaluated(metric(measure, (measure,))).label


def show(results: dict[str, Any]) -> None:
    """The evaluations as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{_label(results['measure'])} in evaluation")
    for head in ("variant", "actions", "each seed", "mean", "95 % of means", "IQM", "return"):
        table.add_column(head)
    for name, variant in results["variants"].items():
        for way, score in variant["scores"].items():
            bounds = score["interval"]
            table.add_row(
                name,
                way,
                " ".join("-" if v is None else f"{v:.2f}" for v in score["values"]),
                "-" if score["mean"] is None else f"{score['mean']:.2f}",
                "-" if bounds is None else f"{bounds[0]:.2f} to {bounds[1]:.2f}",
                "-" if score["iqm"] is None else f"{score['iqm']:.2f}",
                f"{score['return']:.1f}",
            )
    Console().print(table, markup=False)  # names may be anybody's
