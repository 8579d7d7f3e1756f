"""Resident memory of a training run over an hour: the runner's and the driver's, every 30 seconds.

    python benchmarks/soak.py [--minutes 60] [--share 0.1] [--out benchmarks/soak.json]

IMPALA on the fast path: a runner process with eight rooms, the learner in the driver's process. The runner sleeps after
every fragment, so that it computes for `--share` of the time. Resident memory counts the pages of Ray's shared object
store that a process has touched; private memory does not. Slopes are least squares after the first sixth of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib
import numpy as np
import psutil
import torch
from provenance import commit, machine

from agents import MemoryIMPALAConfig
from agents.rllib.runner import MemoryEnvRunner
from ct_rl.ray_session import ray_session

ROWS, STEPS = 8, 20
MEMORY = {"d_model": 64, "n_layers": 2, "n_heads": 2, "window": 8, "memory": 16, "compressed": 16}


def paced(share: float) -> type[MemoryEnvRunner]:
    """The fast path's runner, computing for `share` of the time."""

    class Paced(MemoryEnvRunner):
        def _sample(self, **kwargs: Any) -> list[Any]:
            begun = time.process_time()
            fragments = super()._sample(**kwargs)
            time.sleep((time.process_time() - begun) * (1 / share - 1))
            return fragments

    return Paced


def sizes(process: psutil.Process) -> dict[str, float]:
    """Resident and private memory of a process [MB]."""
    memory = process.memory_info()
    return {
        "resident_mb": round(memory.rss / 1e6, 2),
        "private_mb": round((memory.rss - memory.shared) / 1e6, 2),
    }


def watch(minutes: float, share: float, every: float, save: Any) -> None:
    """Trains for `minutes`, and calls `save(rows)` with every new row."""
    algo = (
        MemoryIMPALAConfig()
        .environment("dmlab_rooms_select", env_config={"engine": "embedded"})
        .memory("compressive", rate=4, **MEMORY)
        .network(encoder="small", width=64)
        .env_runners(num_env_runners=1, num_envs_per_env_runner=ROWS, rollout_fragment_length=STEPS)
        .training(train_batch_size_per_learner=ROWS * STEPS)
        .reporting(min_time_s_per_iteration=5)
        .debugging(seed=0, log_level="ERROR")
    )
    algo.env_runner_cls = paced(share)
    algo = algo.build_algo()
    try:
        (pid,) = algo.env_runner_group.foreach_env_runner(
            lambda runner: os.getpid(), local_env_runner=False
        )
        processes = {"runner": psutil.Process(pid), "driver": psutil.Process()}
        rows: list[dict[str, Any]] = []
        begun, due, updates = time.monotonic(), 0.0, 0
        while time.monotonic() - begun < 60 * minutes:
            report = algo.train()["ct_rl"]
            updates = report.get("updates", updates)
            past = time.monotonic() - begun
            if past < due:
                continue
            due += every
            rows.append(
                {
                    "minutes": round(past / 60, 2),
                    "steps": algo.steps,
                    "updates": updates,
                    **{name: sizes(process) for name, process in processes.items()},
                }
            )
            save(rows)
    finally:
        algo.stop()


def slopes(rows: list[dict[str, Any]], warm: float) -> dict[str, dict[str, float]]:
    """Growth after `warm` minutes [MB per hour], and the span between least and most [MB]."""
    kept = [row for row in rows if row["minutes"] >= warm]
    if len(kept) < 3:
        return {}
    hours = [row["minutes"] / 60 for row in kept]
    found = {}
    for name in ("runner", "driver"):
        found[name] = {}
        for kind in ("resident", "private"):
            values = [row[name][f"{kind}_mb"] for row in kept]
            found[name][f"{kind}_mb_per_hour"] = round(float(np.polyfit(hours, values, 1)[0]), 2)
            found[name][f"{kind}_span_mb"] = round(max(values) - min(values), 2)
    return found


def draw(rows: list[dict[str, Any]], warm: float, path: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.5))
    minutes = [row["minutes"] for row in rows]
    for name in ("runner", "driver"):
        (line,) = axes.plot(minutes, [row[name]["resident_mb"] for row in rows], label=name)
        private = [row[name]["private_mb"] for row in rows]
        axes.plot(minutes, private, ":", color=line.get_color(), label=f"{name}, private")
    axes.axvspan(0, warm, color="grey", alpha=0.15)
    axes.set(xlabel="minutes", ylabel="resident memory [MB]", ylim=(0, None))
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument(
        "--share", type=float, default=0.1, help="of a core that the runner computes on"
    )
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two rows")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/soak.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/results/soak.png"))
    arguments = parser.parse_args()
    if not 0 < arguments.share <= 1:
        parser.error(f"--share {arguments.share:g}: give a share of one core, above 0 and up to 1")
    torch.set_num_threads(1)
    warm = arguments.minutes / 6
    head = {
        "command": f"python benchmarks/soak.py --minutes {arguments.minutes:g} "
        f"--share {arguments.share:g}",
        "commit": commit(),
        "machine": machine(),
        "sizes": {"rows": ROWS, "fragment": STEPS, "frame": [72, 96, 3], **MEMORY},
        "warm_up_minutes": warm,
    }

    def save(rows: list[dict[str, Any]]) -> None:
        found = {"after_warm_up": slopes(rows, warm), "rows": rows}
        arguments.out.write_text(json.dumps(head | found, indent=1) + "\n")

    with ray_session(1):
        watch(arguments.minutes, arguments.share, arguments.every, save)
    report = json.loads(arguments.out.read_text())
    draw(report["rows"], warm, arguments.picture)
    last = report["rows"][-1]
    print(f"{last['steps']:,} steps, {last['updates']:,} updates in {last['minutes']:.0f} minutes")
    for name, found in report["after_warm_up"].items():
        print(
            f"{name}: {last[name]['resident_mb']:.0f} MB resident, "
            f"{found['resident_mb_per_hour']:+.1f} MB an hour after warm-up "
            f"(private {found['private_mb_per_hour']:+.1f})"
        )


if __name__ == "__main__":
    main()
