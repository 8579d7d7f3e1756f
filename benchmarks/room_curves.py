"""Curves of runs on the room task, in bins of agent steps: one JSON and one picture of them together.

python benchmarks/room_curves.py runs/a runs/b --out docs/results/rooms_select

Runs of other names that the JSON has already stay in it and in the picture.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from provenance import processor

from ct_rl.colours import PALETTE, looks
from ct_rl.comparison import reached

BIN = 50_000


def curve(reports: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Means over each bin: agent steps at its end, minutes so far, return, and right among choices."""
    bins: dict[int, list[dict[str, Any]]] = {}
    for report in reports:
        bins.setdefault(int(report["steps"] // BIN), []).append(report)
    points = []
    for number, own in sorted(bins.items()):
        known = [report for report in own if report.get("return") is not None]
        if not known:
            continue
        right, wrong = (sum(report[key] for report in known) for key in ("correct", "wrong"))
        points.append(
            {
                "steps": min((number + 1) * BIN, own[-1]["steps"]),
                "minutes": round(own[-1]["seconds"] / 60, 1),
                "return": round(sum(report["return"] for report in known) / len(known), 2),
                "right": round(right / max(right + wrong, 1e-9), 3),
                "teleports": round(sum(report["teleports"] for report in known) / len(known), 2),
            }
        )
    return points


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--names", nargs="*", help="of the runs; their folders' names when absent")
    parser.add_argument("--out", default="rooms_select", help="path of both files, without ending")
    given = parser.parse_args()
    names = given.names or [folder.name for folder in given.runs]
    if len(names) != len(given.runs):
        parser.error(f"{len(names)} names for {len(given.runs)} runs")
    file = Path(f"{given.out}.json")
    result: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": {}}
    result |= {"machine": processor(), "bin": BIN}
    for name, folder in zip(names, given.runs, strict=True):
        reports = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        points = curve(reports)
        known = [report for report in reports if report.get("return") is not None]
        passed = {str(level): reached(known, "return", level, BIN) for level in (10, 33, 60)}
        evaluations = [
            json.loads(path.read_text()) for path in sorted(folder.glob("evaluations/*.json"))
        ]
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["run"].pop("run_dir", None)  # of that machine
        if (config.get("provenance") or {}).get("recipe"):
            config["provenance"]["recipe"] = Path(config["provenance"]["recipe"]).name
        for evaluation in evaluations:
            for key in ("run", "video"):
                evaluation.pop(key, None)
        result["runs"][name] = {
            "config": config,
            "reached": passed,
            "curve": points,
            "evaluations": evaluations,
        }
        print(f"{name}: " + ", ".join(f"{level} at {at}" for level, at in passed.items()))
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    by_steps, by_minutes = figure.subplots(1, 2, sharey=True)
    styles = looks([("compressive", 4)] * len(result["runs"]))
    for (name, run), look in zip(result["runs"].items(), styles, strict=True):
        for axes, key in ((by_steps, "steps"), (by_minutes, "minutes")):
            x = [point[key] / (1e6 if key == "steps" else 1) for point in run["curve"]]
            y = [point["return"] for point in run["curve"]]
            axes.plot(x, y, color=PALETTE[look.colour], linestyle=look.line, label=name)
    for axes, label in (
        (by_steps, "million agent steps"),
        (by_minutes, "minutes of one shared core"),
    ):
        axes.axhline(6, color="grey", linestyle=":", linewidth=1)
        axes.axhline(65.9, color="grey", linestyle="--", linewidth=1)
        axes.set(xlabel=label)
        axes.grid(alpha=0.3)
    by_steps.text(0.02, 7, "guessing", color="grey", fontsize=8)
    by_steps.text(0.02, 66.5, "human (published)", color="grey", fontsize=8)
    by_steps.set(ylabel="return, mean of training episodes", ylim=(-3, 72))
    by_steps.legend(fontsize=8, loc="lower right")
    figure.savefig(f"{given.out}.png")
    file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
