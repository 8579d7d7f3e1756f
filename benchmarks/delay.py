"""How long a run's memory lasts: right choices against the steps that a door stays closed after arrival.

    python benchmarks/delay.py runs/rooms_select_delay/rate_*_seed1/run [--episodes 40] [--delays 0 4 8 ...]

Each run plays fresh episodes behind a door of each delay by itself, greedily. The picture has a mean over runs of one
memory, and where its reach ends: `context_length` less the steps between the last sight of the example and the first of
the choice in straight play. An interval is of one run's choices (binomial), not of seeds. Runs that --out has
already and that are not named again stay in it; without a run the picture alone is drawn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from provenance import commit, machine

from ct_rl.colours import PALETTE, looks, memory_of
from ct_rl.config_file import parse
from ct_rl.memory import build_memory
from ct_rl.plain_files import write_atomically
from ct_rl.sections import memory_settings

GAP = 8  # steps from the last sight of the example, at x = -88, to the first of room 2


def ask(run: Path, delay: int, episodes: int) -> dict[str, Any]:
    """The scores of an evaluation behind a door of one delay."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "ct_rl.evaluate", str(run), "--actions", "greedy"]
        words += ["--episodes", str(episodes), "--env-option", f"delay={delay}", "--out", folder]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        (file,) = Path(folder).glob("evaluations/*.json")
        found = json.loads(file.read_text())
    score = found["scores"]["greedy"]
    choices = round(episodes * (score["correct"] + score["wrong"]))
    right = score["correct"] / (score["correct"] + score["wrong"]) if choices else None
    error = None if right is None else (right * (1 - right) / choices) ** 0.5
    return {"right": right, "error": error, "choices": choices, "steps": found["steps"]}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(7.5, 4.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    memories = list(dict.fromkeys((row["memory"], row["rate"]) for row in rows))
    for (memory, rate), look in zip(memories, looks(memories), strict=True):
        own = [row for row in rows if (row["memory"], row["rate"]) == (memory, rate)]
        delays = [int(delay) for delay in own[0]["by_delay"]]
        right = np.array(
            [[row["by_delay"][str(delay)]["right"] for delay in delays] for row in own], float
        )
        for each in right if len(own) > 1 else ():
            axes.plot(delays, each, color=PALETTE[look.colour], linewidth=1, alpha=0.4)
        means = right.mean(0)
        label = f"rate {rate}" if rate is not None else memory
        runs = f"{len(own)} runs" if len(own) > 1 else "1 run and its error"
        error = [own[0]["by_delay"][str(delay)]["error"] for delay in delays]
        axes.errorbar(
            delays,
            means,
            yerr=None if len(own) > 1 else np.array(error, float),
            capsize=3,
            marker="o",
            color=PALETTE[look.colour],
            label=f"{label}, {runs}",
        )
        if own[0]["longest"] is not None:
            axes.axvline(
                own[0]["longest"], color=PALETTE[look.colour], linestyle=":", linewidth=1.5
            )
    axes.axhline(0.5, color="grey", linestyle="--", linewidth=1)
    axes.set(
        xlabel="steps that the door stays closed (dotted: where a reach ends)",
        ylabel="right among choices, greedy",
        ylim=(0.3, 1.02),
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--delays", nargs="+", type=int, default=list(range(0, 33, 4)))
    parser.add_argument("--episodes", type=int, default=40, help="of each delay")
    parser.add_argument("--out", type=Path, default=Path("docs/results/rooms_select_delay.json"))
    given = parser.parse_args()
    asked = {"delays": given.delays, "episodes": given.episodes}
    rows = json.loads(given.out.read_text())["runs"] if given.out.exists() else []
    for row in rows if given.runs else ():
        if {key: row[key] for key in asked} != asked:
            parser.error(
                f"{given.out} has other delays or episodes: give those, or --out another file"
            )
    for run in given.runs:
        text = (run / "config.yaml").read_text()
        memory = parse(text, str(run)).memory
        reach = build_memory(memory.kind, **memory_settings(memory)).context_length
        kind, rate = memory_of(yaml.safe_load(text)["memory"])
        row: dict[str, Any] = {
            "run": run.parent.name,
            "memory": kind,
            "rate": rate,
            "reach": reach,
            "longest": None if reach is None else reach - GAP,
            **asked,
            "commit": commit(),
            "machine": machine("one core"),
            "by_delay": {},
        }
        for delay in given.delays:
            row["by_delay"][str(delay)] = ask(run, delay, given.episodes)
            print(row["run"], delay, row["by_delay"][str(delay)], flush=True)
        rows = [kept for kept in rows if kept["run"] != row["run"]] + [row]
        rows.sort(key=lambda each: each["run"])
        result = {"command": "python benchmarks/delay.py RUNS", "runs": rows}
        write_atomically(given.out, (json.dumps(result, indent=1) + "\n").encode())
    if not rows:
        parser.error("no run to ask: name runs of `python -m ct_rl.experiment rooms_select_delay`")
    draw(rows, given.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
