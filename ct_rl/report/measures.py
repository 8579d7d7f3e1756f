"""What a report compares: figures that every run has one value of, and how the groups' values sum up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from xml.etree.ElementTree import Element

from ct_rl.comparison import iqm, iqm_interval
from ct_rl.evaluation_file import Evaluation
from ct_rl.metrics import METRICS, Metric, evaluated, metric
from ct_rl.report.charts import Score
from ct_rl.report.elements import el
from ct_rl.report.groups import Group
from ct_rl.report.material import Run

_COMPARED = ("mean", "human_normalised", "choice_accuracy")  # of an evaluation
_TRAINING = ("return", "human_normalised", "choice_accuracy")
HUMAN = "human_normalised"


@dataclass(frozen=True)
class Measure:
    """One figure of a run.

    Attributes:
        label: what it is, and of which episodes; row: how its values are written.
        value: of a run; None where it has none.
        evaluation: whether an evaluation says it, or training.
    """

    label: str
    row: Metric
    value: Callable[[Run], float | None]
    evaluation: bool


def evaluation_of(run: Run) -> Evaluation | None:
    """The evaluation that counts; None for a run without one."""
    return run.evaluations[0][1] if run.evaluations else None


def ways(runs: Sequence[Run]) -> list[str]:
    """The ways of acting that evaluations of the runs know."""
    return list(dict.fromkeys(
        way for run in runs for evaluation in [evaluation_of(run)] if evaluation
        for way in evaluation.scores
    ))  # fmt: skip


def counts(runs: Sequence[Run]) -> set[str]:
    """Names that an environment counts and no table lists, as evaluations have them."""
    listed = {row.key for row in METRICS}
    return {
        key
        for run in runs
        for _, evaluation in run.evaluations
        for score in evaluation.scores.values()
        for key in score
        if key not in listed
    }


def measures(runs: Sequence[Run]) -> list[Measure]:
    """Those that at least one of the runs has a value of."""
    made = []
    for key in _TRAINING:
        label = f"{evaluated(metric(key)).label} in training, last report"
        made.append(Measure(label, metric(key), _of_training(key), False))
    for way in ways(runs):
        for key in _COMPARED:
            label = f"{evaluated(metric(key)).label} in evaluation, {way} actions"
            made.append(Measure(label, metric(key), _of_evaluation(way, key), True))
    return [one for one in made if any(one.value(run) is not None for run in runs)]


def _of_training(key: str) -> Callable[[Run], float | None]:
    return lambda run: run.last.get(key)


def _of_evaluation(way: str, key: str) -> Callable[[Run], float | None]:
    def value(run: Run) -> float | None:
        evaluation = evaluation_of(run)
        return None if evaluation is None else evaluation.scores.get(way, {}).get(key)

    return value


def compared(groups: Sequence[Group], measure: Measure) -> list[Score]:
    """A row for each group that has values."""
    rows = []
    for group in groups:
        values = [value for run in group.runs if (value := measure.value(run)) is not None]
        if values:
            rows.append(Score(group.name, group.look, values, iqm(values), iqm_interval([values])))
    return rows


def across(groups: Sequence[Group], measure: Measure) -> list[Score]:
    """A row for each method that has values in several environments, each environment a stratum."""
    methods: dict[str, list[Group]] = {}
    for group in groups:
        methods.setdefault(group.method, []).append(group)
    rows = []
    for own in methods.values():
        strata: dict[str, list[float]] = {}
        for group in own:
            values = [value for run in group.runs if (value := measure.value(run)) is not None]
            if values:
                strata.setdefault(group.env, []).extend(values)
        if len(strata) > 1:
            pooled = [value for stratum in strata.values() for value in stratum]
            rows.append(Score(f"{own[0].memory}, {len(strata)} environments", own[0].look, pooled,
                              iqm(pooled), iqm_interval(list(strata.values()))))  # fmt: skip
    return rows


def spread(values: Sequence[float | None], row: Metric) -> Element:
    """The mean of some values, and the least and the greatest where they differ."""
    known = [value for value in values if value is not None]
    if not known:
        return el("span", "-")
    low, high = row.text(min(known)), row.text(max(known))
    span = None if low == high else el("span", f"{low} to {high}", class_="range")
    return el("span", row.text(fmean(known)), span)
