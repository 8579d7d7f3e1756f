"""What an agent step of the room's recipe costs, and its start, here and in other checkouts, taking turns on one core.

    python benchmarks/recipe_speed.py                            # this checkout
    python benchmarks/recipe_speed.py --beside ../before --also="--precision bfloat16" --turns 3

Each turn trains with `python -m ct_rl.train --env dmlab_rooms_select --rate 4` for a while, and counts the CPU time of
all its processes and the steps from the first report on, and before it the seconds and the memory of a start. Costs
of a step are of CPU time, because others use these machines, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from provenance import commit, machine

HERE = Path(__file__).resolve().parent.parent
RUN = ("--env", "dmlab_rooms_select", "--rate", "4", "--run.report-seconds", "1")


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and of all that it started."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def megabytes(process: psutil.Process) -> float:
    """Memory of a process and of all that it started; what several share counts once."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / 1024**2


def turn(tree: Path, flags: list[str], seconds: float, core: int) -> dict[str, float]:
    """CPU-microseconds and wall microseconds an agent step, from the first report to the first after `seconds`.

    And up to that report: CPU seconds, seconds, and at it the processes and their megabytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [sys.executable, "-m", "ct_rl.train", *RUN, *flags, "--run-dir", str(run)]
        environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        begun = time.monotonic()
        child = subprocess.Popen(
            words, cwd=tree, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        process = psutil.Process(child.pid)
        process.cpu_affinity([core])
        try:
            first = _wait(run, 1, child)
            start = {
                "start_cpu_s": cpu_seconds(process),
                "start_s": time.monotonic() - begun,
                "processes": 1 + len(process.children(recursive=True)),
                "mb": megabytes(process),
            }
            used, begun = cpu_seconds(process), time.monotonic()
            time.sleep(seconds)
            so_far = _wait(run, 1, child)["row"]
            last = _wait(run, so_far + 1, child)  # time and steps end at the same report
            used, wall = cpu_seconds(process) - used, time.monotonic() - begun
        finally:
            # Nothing of it is wanted; its own reaper clears away the rest.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    steps = last["steps"] - first["steps"]
    return {"cpu_us": used / steps * 1e6, "wall_us": wall / steps * 1e6, "steps": steps, **start}


def _wait(run: Path, rows: int, child: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The newest report of a run as soon as it has `rows` of them."""
    file = run / "metrics.jsonl"
    while True:
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) >= rows:
            return {"row": len(lines), "steps": json.loads(lines[-1])["steps"]}
        if child.poll() is not None:
            raise SystemExit(f"the run in {run} ended with status {child.returncode}")
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="other checkouts")
    parser.add_argument(
        "--also", nargs="*", default=[], help="flags of further sides, of this checkout"
    )
    parser.add_argument("--flags", default="", help="of every side")
    parser.add_argument("--turns", type=int, default=3, help="of each checkout")
    parser.add_argument("--seconds", type=float, default=40.0, help="of a turn, start-up left out")
    parser.add_argument("--core", type=int, default=0, help="that all processes are bound to")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    here = commit(HERE)
    sides: dict[str, tuple[Path, list[str]]] = {
        commit(tree): (tree.resolve(), shlex.split(given.flags)) for tree in (HERE, *given.beside)
    }
    sides |= {
        f"{here} {flags}": (HERE, shlex.split(f"{given.flags} {flags}")) for flags in given.also
    }
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(given.turns):
        for name, (tree, flags) in sides.items():
            turns[name].append(turn(tree, flags, given.seconds, given.core))
            print(name, turns[name][-1], flush=True)
    result: dict[str, Any] = {
        "sides": {
            name: shlex.join(["python", "-m", "ct_rl.train", *RUN, *flags])
            for name, (_, flags) in sides.items()
        },  # a commit, and flags
        "seconds": given.seconds,
        "commit": here,
        "machine": machine("one core"),
        "turns": turns,
        "median": {
            name: {key: round(median(one[key] for one in each), 1) for key in each[0]}
            for name, each in turns.items()
        },
    }
    for name, each in result["median"].items():
        ratio = each["cpu_us"] / result["median"][here]["cpu_us"]
        print(
            f"{name:34} {each['cpu_us']:6.0f} CPU us, {each['wall_us']:6.0f} us a step; {ratio:.2f} of {here}; "
            f"start {each['start_cpu_s']:.1f} CPU s, {each['start_s']:.1f} s, "
            f"{each['processes']:.0f} processes, {each['mb']:.0f} MB"
        )
    given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
