"""Pictures of a report as inline SVG: curves with bands, scores with intervals, attention by place.

Colours are CSS variables of the page, so that they suit light, dark and paper. No script: what a mark means is its
`<title>`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np

from ct_rl.colours import Look
from ct_rl.report.elements import el

WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 26
_BINS, _GRID, _RESAMPLES = 160, 100, 1000
Points = Sequence[tuple[float, float]]
Text = Callable[[float], str]


@dataclass
class Series:
    """The curves of one group: a list of (steps, value) for each run."""

    name: str
    look: Look
    runs: list[Points]


def short(value: float) -> str:
    """A number for an axis: 1.5M, 200k, 0.02, 5e-4."""
    if 0 < abs(value) < 1e-3:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.3g}"


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) from `low` to `high`, at most `most`."""
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(m * power for m in (1, 2, 5, 10, 20) if span / (m * power) <= most)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)][: most + 1]


def thinned(points: Points) -> np.ndarray:
    """[N, 2], N at most 160: means of neighbours."""
    array = np.asarray(points, float).reshape(-1, 2)
    if len(array) <= _BINS:
        return array
    return np.stack([part.mean(0) for part in np.array_split(array, _BINS)])


def band(curves: Sequence[np.ndarray]) -> np.ndarray | None:
    """[G, 4]: steps, mean of the runs, and 95 % of bootstrapped means, where all runs have been; None for one run.

    Args:
        curves: [N, 2] of each run, steps rising.
    """
    start, end = max(c[0, 0] for c in curves), min(c[-1, 0] for c in curves)
    if len(curves) < 2 or end <= start:
        return None
    grid = np.linspace(start, end, _GRID)
    values = np.stack([np.interp(grid, c[:, 0], c[:, 1]) for c in curves])
    drawn = np.random.default_rng(0).integers(0, len(curves), (_RESAMPLES, len(curves)))
    low, high = np.percentile(values[drawn].mean(1), [2.5, 97.5], axis=0)
    return np.stack([grid, values.mean(0), low, high], 1)


class _Axes:
    """A frame with ticks, and from data to places in it."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], text: Text, label: str):
        (self.x0, self.x1), (low, high) = x, y
        if high - low < 1e-9 * max(abs(high), abs(low), 1e-9):
            low, high = low - (abs(low) * 0.1 or 1), high + (abs(high) * 0.1 or 1)
        margin = 0.05 * (high - low)
        self.y0, self.y1 = low - margin, high + margin
        self.svg = el("svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="chart",
                      aria_label=label)  # fmt: skip
        bottom = HEIGHT - _BOTTOM
        for at in ticks(self.y0, self.y1, 5):
            place = self.py(at)
            self.svg.append(
                el("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=place, y2=place, class_="grid")
            )
            self.svg.append(
                el("text", text(at), x=_LEFT - 5, y=f"{place + 3.5:.1f}", class_="tick y")
            )
        marks = ticks(self.x0, self.x1, 5)
        for at in marks:
            self.svg.append(
                el("line", x1=self.px(at), x2=self.px(at), y1=bottom, y2=bottom + 4, class_="axis")
            )
            near = self.px(at) > WIDTH - 24
            self.svg.append(el("text", short(at), x=self.px(at), y=HEIGHT - 9,
                               class_="tick end" if near else "tick"))  # fmt: skip
        self.svg.append(
            el("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis")
        )

    def px(self, x: float) -> float:
        share = (x - self.x0) / (self.x1 - self.x0) if self.x1 > self.x0 else 0.5
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def py(self, y: float) -> float:
        share = (y - self.y0) / (self.y1 - self.y0)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)

    def path(self, xs: np.ndarray, ys: np.ndarray) -> str:
        places = [f"{self.px(x)},{self.py(y)}" for x, y in zip(xs, ys, strict=True)]
        return "M" + "L".join(places)


def curves(series: Sequence[Series], x: tuple[float, float], label: str) -> Element | None:
    """Every run's curve, and where a group has several runs their mean with its interval; None without points.

    Args:
        x: the axis of steps, the same for every picture of a comparison.
    """
    drawn = []
    for one in series:
        arrays = [thinned(points) for points in one.runs if points]
        if arrays:
            drawn.append((one, arrays, band(arrays)))
    if not drawn:
        return None
    values = [array[:, 1] for _, arrays, _ in drawn for array in arrays]
    span = min(v.min() for v in values), max(v.max() for v in values)
    axes = _Axes(x, span, short, f"{label} over agent steps")
    for one, arrays, middle in drawn:
        colour = f"--c:var(--{one.look.colour})"
        group = el("g", el("title", one.name), style=colour)
        if middle is not None:
            there = axes.path(middle[:, 0], middle[:, 3])
            back = axes.path(middle[::-1, 0], middle[::-1, 2])
            group.append(el("path", d=f"{there}L{back[1:]}Z", class_="band"))
        for array in arrays:
            if len(array) == 1:
                group.append(
                    el(
                        "circle",
                        cx=axes.px(array[0, 0]),
                        cy=axes.py(array[0, 1]),
                        r=3,
                        class_="dot",
                    )
                )
            kind = "run" if middle is not None else "line"
            group.append(el("path", d=axes.path(array[:, 0], array[:, 1]), class_=kind,
                            stroke_dasharray=one.look.dash or None))  # fmt: skip
        if middle is not None:
            group.append(el("path", d=axes.path(middle[:, 0], middle[:, 1]), class_="line",
                            stroke_dasharray=one.look.dash or None))  # fmt: skip
        axes.svg.append(group)
    return axes.svg


@dataclass
class Score:
    """One row of a comparison: the value of each run, their interquartile mean and its interval."""

    name: str
    look: Look
    values: list[float]
    middle: float
    interval: tuple[float, float] | None


def scores(rows: Sequence[Score], text: Text, label: str) -> Element:
    """A row for each group on one axis: dots are runs, the bar is the interval, the tick the interquartile mean."""
    height, name = 34, 15
    bottom = len(rows) * height + 4
    every = [v for row in rows for v in (*row.values, row.middle, *(row.interval or ()))]
    low, high = min(every), max(every)
    if high - low < 1e-9 * max(abs(high), abs(low), 1e-9):
        low, high = low - (abs(low) * 0.1 or 1), high + (abs(high) * 0.1 or 1)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    left, right = 8, WIDTH - 8

    def px(value: float) -> float:
        return round(left + (value - low) / (high - low) * (right - left), 1)

    svg = el(
        "svg", viewBox=f"0 0 {WIDTH} {bottom + 22}", role="img", class_="chart", aria_label=label
    )
    for at in ticks(low, high, 6):
        svg.append(el("line", x1=px(at), x2=px(at), y1=0, y2=bottom, class_="grid"))
        near = "tick end" if px(at) > WIDTH - 24 else "tick start" if px(at) < 24 else "tick"
        svg.append(el("text", short(at), x=px(at), y=bottom + 15, class_=near))
    for i, row in enumerate(rows):
        y = i * height + name + 9
        values = ", ".join(map(text, row.values))
        group = el("g", el("title", f"{row.name}: {values}"), style=f"--c:var(--{row.look.colour})")
        said = text(row.middle)
        if row.interval is not None:
            said += f" ({text(row.interval[0])} to {text(row.interval[1])})"
            group.append(
                el(
                    "line",
                    x1=px(row.interval[0]),
                    x2=px(row.interval[1]),
                    y1=y,
                    y2=y,
                    class_="interval",
                )
            )
        place = i * height + name - 2
        group.append(el("text", _cut(row.name, 54 - len(said)), x=left, y=place, class_="name"))
        group.append(el("text", said, x=right, y=place, class_="name value end"))
        for value in row.values:
            group.append(el("circle", cx=px(value), cy=y, r=3.6, class_="dot"))
        group.append(
            el("line", x1=px(row.middle), x2=px(row.middle), y1=y - 7, y2=y + 7, class_="middle")
        )
        svg.append(group)
    return svg


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."


PARTS = ("compressed memory", "memory", "window")


def attention(buckets: Sequence[float], look: Look, label: str) -> Element:
    """Mean weight of a place, oldest first, as bars on a logarithmic scale: three parts of as many buckets each."""
    count = len(buckets) // 3
    values = np.asarray(buckets[: 3 * count], float)
    seen = values[values > 0]
    top = math.ceil(math.log10(seen.max())) if len(seen) else 0
    floor = max(math.floor(math.log10(seen.min())), top - 6) if len(seen) else -1
    floor = min(floor, top - 1)
    bottom = HEIGHT - _BOTTOM

    def py(value: float) -> float:
        share = (math.log10(value) - floor) / (top - floor) if value > 0 else 0
        return round(bottom - min(max(share, 0), 1) * (bottom - _TOP), 1)

    svg = el("svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="chart", aria_label=label,
             style=f"--c:var(--{look.colour})")  # fmt: skip
    for power in range(floor, top + 1):
        place = py(10.0**power)
        svg.append(el("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=place, y2=place, class_="grid"))
        svg.append(el("text", f"{10.0**power:g}", x=_LEFT - 5, y=place + 3.5, class_="tick y"))
    width = (WIDTH - _LEFT - _RIGHT) / len(values)
    for i, value in enumerate(values):
        part = PARTS[i // count]
        bar = el("rect", el("title", f"{part}, part {i % count + 1} of {count} (oldest first): {value:.3g}"),
                 x=round(_LEFT + i * width + 1, 1), y=py(value), width=round(width - 2, 1),
                 height=round(bottom - py(value), 1), class_=f"part{i // count}")  # fmt: skip
        svg.append(bar)
    for i, part in enumerate(PARTS):
        centre = _LEFT + (i + 0.5) * count * width
        svg.append(el("text", part, x=round(centre, 1), y=HEIGHT - 9, class_="tick"))
    svg.append(el("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis"))
    return svg
