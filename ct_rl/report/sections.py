"""The parts of a report's page, each a tree of elements, or nothing where there is nothing to tell."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any
from xml.etree.ElementTree import Element

from ct_rl.metrics import PANELS, SCORE, Metric, evaluated, metric, ordered
from ct_rl.report import charts
from ct_rl.report.elements import el, table
from ct_rl.report.groups import Group, differences
from ct_rl.report.material import Run
from ct_rl.report.measures import (
    HUMAN,
    across,
    compared,
    counts,
    evaluation_of,
    measures,
    spread,
    ways,
)

_AXES = ("steps", "frames", "seconds", "updates", "episodes")  # what is counted along a run
_MOST_LAYERS = 12
_SHORT = 12  # rows of a table that is open from the start


def swatch(group: Group, named: bool = True) -> Element:
    """A group's colour and dashes, and its name."""
    line = el("line", x1=0, x2=24, y1=6, y2=6, stroke_dasharray=group.look.dash or None)
    hidden = {"aria_hidden": "true"} if named else {"role": "img", "aria_label": group.name}
    mark = el("svg", line if named else [el("title", group.name), line], viewBox="0 0 24 12",
              class_="swatch", style=f"--c:var(--{group.look.colour})", **hidden)  # fmt: skip
    return el("span", mark, group.name if named else None)


def legend(groups: Sequence[Group]) -> Element:
    """The groups' colours."""
    return el("p", [swatch(group) for group in groups], class_="legend")


def overview(groups: Sequence[Group]) -> Element:
    """A row for each group: what ran, how long, and what came of it."""
    several = len({group.env for group in groups}) > 1
    heads: list[Any] = ["runs", *(["environment"] if several else []), "seeds"]
    rows = [metric(key) for key in ("steps", "seconds", "return", HUMAN, "choice_accuracy")]
    runs = [run for group in groups for run in group.runs]
    rows = [row for row in rows if any(row.key in run.last for run in runs)]
    acting = [(way, metric("mean")) for way in ways(runs)]
    heads += [evaluated(row).label + (" in training" if row.panel or row.key == HUMAN else "")
              for row in rows]  # fmt: skip
    heads += [f"{evaluated(row).label}, {way} actions" for way, row in acting]
    heads += [metric("steps_per_second").label, "memory and its horizon"]
    body = []
    for group in groups:
        cells: list[Any] = [swatch(group), *([group.env] if several else [])]
        cells.append(", ".join(map(str, group.seeds)))
        cells += [spread([run.last.get(row.key) for run in group.runs], row) for row in rows]
        for way, row in acting:
            scores = [evaluation_of(run) for run in group.runs]
            means = [s.scores.get(way, {}).get(row.key) for s in scores if s is not None]
            cells.append(spread(means, row))
        cells.append(spread([_speed(run) for run in group.runs], metric("steps_per_second")))
        horizon = el("span", group.runs[0].horizon, class_="range")
        cells.append(el("span", group.memory, horizon))
        body.append(cells)
    said = "Values are those of the last report. Of several seeds: the mean (least to greatest). "
    said += (
        "steps/s is over the whole run. The horizon counts agent steps, the current one included."
    )
    return el("section", el("h2", "Overview"), table(heads, body), el("p", said, class_="faint"),
              id="overview")  # fmt: skip


def _speed(run: Run) -> float | None:
    steps, seconds = run.last.get("steps"), run.last.get("seconds")
    return steps / seconds if steps and seconds else None


def differing(groups: Sequence[Group]) -> Element | None:
    """The settings in which the groups differ."""
    found = differences(groups)
    if len(groups) < 2 or not found:
        return None
    heads: list[Any] = ["setting", *(swatch(group) for group in groups)]
    rows = [[key, *("-" if v is None else _plain(v) for v in row)] for key, row in found.items()]
    made: Element = table(heads, rows)
    if len(rows) > _SHORT:
        made = el("details", el("summary", f"{len(rows)} settings"), made)
    return el("section", el("h3", "Settings that differ"), made)


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def curves(env: str, groups: Sequence[Group], number: int, title: str) -> Element | None:
    """Every figure of the runs of one environment over steps, the groups in the same pictures."""
    runs = [run for group in groups for run in group.runs if run.rows]
    if not runs:
        return None
    last = max(run.rows[-1]["steps"] for run in runs)
    figures = ordered(
        dict.fromkeys(key for run in runs for row in run.rows for key in row), counts(runs)
    )
    figures = [row for row in figures if row.key not in _AXES]
    section = el("section", el("h2", title), id=f"curves{number}")
    section.append(legend(groups))
    if any(len(group.runs) > 1 for group in groups):
        section.append(el("p", "Thick: the mean over seeds, with 95 % of its bootstrap over runs, as far as all of "
                          "them have come. Thin: each seed.", class_="faint"))  # fmt: skip
    drawn = [_curve(row, groups, last) for panel in PANELS for row in figures if row.panel == panel]
    section.append(el("div", drawn, class_="charts"))
    others = [
        chart
        for row in figures
        if not row.panel
        if (chart := _curve(row, groups, last)) is not None
    ]
    if others:
        section.append(
            el(
                "details",
                el("summary", f"{len(others)} more figures"),
                el("div", others, class_="charts"),
            )
        )
    return section


def _curve(row: Metric, groups: Sequence[Group], last: float) -> Element | None:
    series = [
        charts.Series(group.name, group.look, [
            [(at["steps"], at[row.key]) for at in run.rows if row.key in at] for run in group.runs
        ])
        for group in groups
    ]  # fmt: skip
    chart = charts.curves(series, (0.0, last), row.label)
    if chart is None:
        return None
    said: list[Any] = []
    for group in groups:
        values = [run.last[row.key] for run in group.runs if row.key in run.last]
        if values:
            name = swatch(group, named=False) if len(groups) > 1 else "last "
            said.append(el("span", name, row.text(fmean(values))))
    unit = f" [{row.unit}]" if row.unit and row.unit not in row.label else ""
    return el("figure", el("b", row.label, el("span", unit, class_="faint")), chart,
              el("figcaption", said), title=row.meaning)  # fmt: skip


def scores(env: str, groups: Sequence[Group], number: int, title: str) -> Element | None:
    """The groups of one environment side by side: each run, interquartile means, intervals."""
    runs = [run for group in groups for run in group.runs]
    found = measures(runs)
    if len(runs) < 2 or not found:
        return None
    section = el("section", el("h2", title), id=f"scores{number}")
    section.append(el("p", "Dots are runs, the tick is their interquartile mean (the mean where there are fewer than "
                      "four), the bar 95 % of it in a bootstrap over runs.", class_="faint"))  # fmt: skip
    made = _figures(found, groups, compared)
    if not len(made):
        return None
    section.append(made)
    human = human_line(env)
    if human and any(measure.row.key == HUMAN for measure in found):
        section.append(el("p", human, class_="faint"))
    return section


def _figures(found: Sequence[Any], groups: Sequence[Group], sums: Any) -> Element:
    made = []
    for measure in found:
        rows = sums(groups, measure)
        if sum(len(row.values) for row in rows) > 1:
            chart = charts.scores(rows, measure.row.text, measure.label)
            made.append(el("figure", el("b", measure.label), chart))
    return el("div", made, class_="charts")


def everywhere(groups: Sequence[Group]) -> Element | None:
    """Human-normalised scores over environments, where a method was trained on several."""
    runs = [run for group in groups for run in group.runs]
    found = [
        measure
        for measure in measures(runs)
        if measure.row.key == HUMAN and across(groups, measure)
    ]
    if not found:
        return None
    said = ("Interquartile mean over the runs of all environments of a memory with the same settings; the interval is "
            "of a bootstrap stratified by environment.")  # fmt: skip
    return el("section", el("h2", "All environments"), el("p", said, class_="faint"),
              _figures(found, groups, across), id="everywhere")  # fmt: skip


def human_line(env: str) -> str | None:
    """What 0 and 100 of the human-normalised score are in an environment; None where nobody says."""
    from envs.dmlab.levels import find_level, level_of

    level = level_of(env)
    if level is None:
        return None
    found = find_level(level)
    return (f"Human-normalised: 0 % is random play's mean return ({found.random:g}), 100 % a human's "
            f"({found.human:g}); not capped.")  # fmt: skip


def evaluations(groups: Sequence[Group]) -> Element | None:
    """The table of every group's evaluations, with every figure that they have."""
    section = el("section", el("h2", "Evaluation"), id="evaluation")
    for group in groups:
        found = [(run, evaluation) for run in group.runs if (evaluation := evaluation_of(run))]
        if not found:
            continue
        section.append(el("h3", swatch(group)))
        if len(found) == 1:
            run, evaluation = found[0]
            section.append(el("p", _evaluated(run, evaluation), class_="faint"))
            columns = [(f"{way} actions", score) for way, score in evaluation.scores.items()]
            section.append(_score_table(columns, group.runs))
        else:
            tables = el("div", class_="tables")
            for way in ways(group.runs):
                columns = [(f"seed {run.seed}", evaluation.scores[way])
                           for run, evaluation in found if way in evaluation.scores]  # fmt: skip
                made = _score_table(columns, group.runs, means=True)
                tables.append(el("div", el("p", f"{way} actions"), made))
            section.append(tables)
    if len(section) < 2:
        return None
    human = {line for group in groups if (line := human_line(group.env))}
    for line in sorted(human):
        section.append(el("p", line, class_="faint"))
    return section


def _evaluated(run: Run, evaluation: Any) -> str:
    options = ", ".join(f"{key}={value}" for key, value in evaluation.env_options.items())
    steps = (
        ""
        if evaluation.steps is None
        else f" after {metric('steps').text(evaluation.steps)} agent steps"
    )
    return f"{run.name}{steps}; {evaluation.env}, {options or 'as it is'}"


def _score_table(
    columns: Sequence[tuple[str, Any]], runs: Sequence[Run], means: bool = False
) -> Element:
    keys = {key for _, score in columns for key, value in score.items() if value is not None}
    rows = sorted(ordered(keys, counts(runs)), key=lambda row: row.group != SCORE)
    heads: list[Any] = ["", *(name for name, _ in columns), *(["mean"] if means else [])]
    body = []
    for row in rows:
        values = [score.get(row.key) for _, score in columns]
        cells: list[Any] = [
            evaluated(row).label,
            *("-" if v is None else row.text(v) for v in values),
        ]
        if means:
            known = [value for value in values if value is not None]
            cells.append(row.text(fmean(known)))
        body.append(cells)
    return table(heads, body, class_="numbers")


def memory(groups: Sequence[Group]) -> Element | None:
    """Attention by place and compression loss by layer, where evaluations hold them."""
    parts: list[Element] = []
    losses = []
    for group in groups:
        found = [
            (run, evaluation.memory) for run in group.runs if (evaluation := evaluation_of(run))
        ]
        looked = [(run, look) for run, look in found if look.buckets]
        if looked:
            run, look = looked[0]
            parts.append(
                el("h3", swatch(group), f", seed {run.seed}" if len(group.runs) > 1 else None)
            )
            every = enumerate(look.buckets[:_MOST_LAYERS])
            drawn = [_attention(i, buckets, look, group) for i, buckets in every]
            parts.append(el("div", drawn, class_="charts"))
        lost = [look.compression_loss for _, look in found if look.compression_loss]
        if lost:
            losses.append((group, [fmean(values) for values in zip(*lost, strict=False)]))
    section = el("section", el("h2", "Memory"), id="memory")
    if losses:
        row = metric("compression_loss")
        layers = max(len(values) for _, values in losses)
        section.append(el("h3", "Compression loss by layer"))
        section.append(table(["", *(f"layer {i + 1}" for i in range(layers))],
                             [[swatch(group), *map(row.text, values)] for group, values in losses],
                             class_="numbers"))  # fmt: skip
        section.append(
            el(
                "p",
                "What each layer's compression loses, over one evaluated episode.",
                class_="faint",
            )
        )
    if parts:
        section.append(el("h3", "Attention by place in the memory"))
        section.append(el("p", "Mean weight of a place, heads and steps of one evaluated episode averaged; from the "
                          "oldest places on the left to the newest on the right.", class_="faint"))  # fmt: skip
        section.extend(parts)
    return section if len(section) > 1 else None


def _attention(layer: int, buckets: Sequence[float], look: Any, group: Group) -> Element | None:
    if len(buckets) < 3 or len(buckets) > 96:
        return None
    label = f"layer {layer + 1}"
    said = None
    if layer < len(look.shares) and len(look.shares[layer]) == 3:
        shares = zip(charts.PARTS, look.shares[layer], strict=True)
        said = el("figcaption", ", ".join(f"{part} {100 * share:.0f} %" for part, share in shares))
    return el(
        "figure",
        el("b", label),
        charts.attention(buckets, group.look, f"attention of {label}"),
        said,
    )
