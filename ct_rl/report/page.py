"""The whole page of a report: one file, no network, no script."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from ct_rl.metrics import metric
from ct_rl.report import elements, sections
from ct_rl.report.elements import el
from ct_rl.report.films import embedded
from ct_rl.report.groups import Group, group_runs
from ct_rl.report.material import Run

# Nothing may be loaded and nothing may run, whatever a run's texts hold.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src data:; base-uri 'none'; form-action 'none'"
_MADE_WITH = (
    "ct_rl",
    "torch",
    "ray",
    "python",
    "platform",
    "cpus",
    "git_commit",
    "started",
    "parameters",
)


def notes(runs: Sequence[Run], films: Sequence[str]) -> list[str]:
    """What a reader must know before reading the figures."""
    said = []
    envs = list(dict.fromkeys(run.env for run in runs))
    if len(envs) > 1:
        said.append(
            f"These runs are of {len(envs)} different environments ({', '.join(envs)}): their returns, lengths and "
            "counts are no measure of each other, and each environment has pictures of its own."
        )
    options: dict[str, set[tuple[str, str]]] = {}
    for run in runs:
        engine = str(run.config.env.engine)
        options.setdefault(run.env, set()).add((repr(run.config.env.options), engine))
    for env, found in options.items():
        if len(found) > 1:
            said.append(
                f"Runs of {env} were trained under different settings of the environment: see the settings that differ."
            )
    evaluated: dict[str, set[str]] = {}
    for run in runs:
        if run.evaluations:
            evaluated.setdefault(run.env, set()).add(repr(run.evaluations[0][1].env_options))
    for env, settings in evaluated.items():
        if len(settings) > 1:
            said.append(
                f"Runs of {env} were evaluated under different settings of the environment: see each run."
            )
    for group in group_runs(runs):
        for seed in sorted({seed for seed in group.seeds if group.seeds.count(seed) > 1}):
            alike = ", ".join(run.name for run in group.runs if run.seed == seed)
            said.append(
                f"{alike} have the same settings and the same seed, {seed}: they are no independent samples."
            )
    said += [f"{run.name}: {note}" for run in runs for note in run.notes]
    return [*said, *films]


def build(runs: Sequence[Run], video_bytes: int) -> tuple[str, list[str]]:
    """The page, and the notes on it.

    Args:
        video_bytes: most bytes of videos that it may hold.
    """
    groups = group_runs(runs)
    films, left_out = embedded(runs, video_bytes)
    said = notes(runs, left_out)
    envs = list(dict.fromkeys(group.env for group in groups))
    parts: list[Element | None] = [sections.overview(groups), sections.differing(groups)]
    for i, env in enumerate(envs):
        own = [group for group in groups if group.env == env]
        where = f": {env}" if len(envs) > 1 else ""
        parts.append(sections.scores(env, own, i, f"Scores{where}"))
        parts.append(sections.curves(env, own, i, f"Curves over agent steps{where}"))
    parts += [sections.everywhere(groups), sections.evaluations(groups), sections.memory(groups)]
    parts += [_videos(groups, films), _runs(groups)]
    shown = [part for part in parts if part is not None]
    title = f"{', '.join(envs[:3])}{' and more' if len(envs) > 3 else ''}: " + (
        runs[0].name if len(runs) == 1 else f"{len(runs)} runs")  # fmt: skip
    links = [el("a", part[0].text, href=f"#{part.get('id')}") for part in shown if part.get("id")]
    count = (
        f"{len(runs)} run{'s' * (len(runs) != 1)} in {len(groups)} group{'s' * (len(groups) != 1)}"
    )
    when = time.strftime("%Y-%m-%d %H:%M %Z")
    made = f"Written {when} by python -m ct_rl.report; {count}; runs that differ only in their seed are one group."
    box = (
        el("div", el("b", "Notes"), el("ul", [el("li", line) for line in said]), class_="notes")
        if said
        else None
    )
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("title", title),
        el("style", (resources.files("ct_rl.report") / "page.css").read_text(encoding="utf-8")),
    )
    body = el("body", el("h1", title), el("p", made, class_="faint"), el("nav", links), box, shown)
    return elements.page(el("html", head, body, lang="en")), said


def _videos(groups: Sequence[Group], films: dict[Path, str]) -> Element | None:
    made = []
    for group in groups:
        for run in group.runs:
            for path in run.videos:
                if path in films:
                    video = el("video", src=films[path], controls="controls", preload="metadata",
                               playsinline="playsinline", muted="muted")  # fmt: skip
                    name = el("div", sections.swatch(group), f", seed {run.seed}: {path.name}")
                    said = el("figcaption", name)
                    made.append(el("figure", video, said))
    if not made:
        return None
    return el("section", el("h2", "Videos"), el("div", made, class_="charts"), id="videos")


def _runs(groups: Sequence[Group]) -> Element:
    section = el("section", el("h2", "Runs"), id="runs")
    for group in groups:
        for run in group.runs:
            section.append(el("h3", sections.swatch(group), f", seed {run.seed}"))
            section.append(_run(run))
    return section


def _run(run: Run) -> Element:
    saved = [metric("steps").text(step) for step in run.checkpoints]
    rows: list[list[Any]] = [
        ["folder", str(run.path)],
        ["environment", run.env],
        ["checkpoints", f"at {', '.join(saved)} agent steps" if saved else "none"],
        ["memory horizon", run.horizon],
    ]
    rows += [[key.replace("_", " "), str(run.provenance[key])[:200]]
             for key in _MADE_WITH if run.provenance.get(key) is not None]  # fmt: skip
    for name, evaluation in run.evaluations:
        means = ", ".join(
            f"{way} {metric('mean').text(score['mean'] or 0)}"
            for way, score in evaluation.scores.items()
        )
        options = ", ".join(f"{key}={value}" for key, value in evaluation.env_options.items())
        rows.append(
            [f"evaluation {name}", f"mean return {means}; {options or 'the level as it is'}"]
        )
    return el(
        "div",
        elements.table(["", ""], rows),
        el("p", "Repeat it:"),
        el("pre", run.repeat()),
        el(
            "details",
            el("summary", "config.yaml: every setting"),
            el("pre", run.yaml),
            class_="settings",
        ),
    )
