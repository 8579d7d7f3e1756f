"""What an experiment found as a Markdown table: a row a variant, the figures of its seeds in their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ct_rl.comparison import level_key

_MILLION, _THOUSAND = (1e6, "M", "{:.2f}"), (1e3, "k", "{:.0f}")
_NONE = "-"


def markdown(results: Mapping[str, Any]) -> str:
    """The table of a results.json.

    Its columns are the variant, with the number of its seeds where others have more; for each of the experiment's
    levels, after how many steps training first passed it; for each way of acting the seeds' scores, their mean with
    95 % of a bootstrap over seeds, and the share of right choices where there are choices; and the area under the
    curve of training over steps, divided by the steps.
    """
    variants: Mapping[str, Mapping[str, Any]] = results["variants"]
    runs = [run for variant in variants.values() for run in variant["runs"]]
    ways = list(runs[0]["evaluation"])
    scores = [v for one in variants.values() for way in ways for v in one["scores"][way]["values"]]
    form = "{:.1f}" if any(abs(score) >= 10 for score in scores if score is not None) else "{:.2f}"
    choices = results["measure"] != "choice_accuracy" and all(
        run["evaluation"][way].get("choice_accuracy") is not None for run in runs for way in ways
    )
    unit, letter, steps = _MILLION if min(run["steps"] for run in runs) >= 1e5 else _THOUSAND
    most = max(len(variant["runs"]) for variant in variants.values())

    heads = ["variant", *(f"above {level:g} [{letter} steps]" for level in results["levels"])]
    for way in ways:
        heads += [f"{way}, each seed", "mean, 95 %", *(["right"] if choices else [])]
    lines = [[*heads, "area"], ["---"] * (len(heads) + 1)]
    for name, variant in variants.items():
        mine: Sequence[Mapping[str, Any]] = variant["runs"]
        fewer = f" *({len(mine)} seed{'s' * (len(mine) > 1)})*" if len(mine) < most else ""
        cells = [name + fewer]
        for level in results["levels"]:
            passed = [run["reached"].get(level_key(level)) for run in mine]
            cells.append(_each((p and p["steps"] / unit for p in passed), steps))
        for way in ways:
            score = variant["scores"][way]
            bounds = score["interval"] or ()
            between = f" ({' to '.join(form.format(bound) for bound in bounds)})" if bounds else ""
            cells += [_each(score["values"], form), _each([score["mean"]], form) + between]
            if choices:
                right = fmean(run["evaluation"][way]["choice_accuracy"] for run in mine)
                cells.append(f"{right:.2f}")
        lines.append([*cells, _each([variant["area"]["mean"]], form)])
    return "".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines
    )


def _each(values: Iterable[float | None], form: str) -> str:
    return ", ".join(_NONE if value is None else form.format(value) for value in values)
