"""Kills, signals and losses against a run in training: does it end in time, is it whole, does it go on?

Each fault is done to a `ct_rl.train` that has saved at least once; afterwards the run is resumed for a few steps.
Prints a table and writes benchmarks/faults.json.

    python benchmarks/faults.py --kills 10
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from ct_rl import checkpoint

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    *("--config", "rooms_select", "--envs-per-runner", "4", "--fragment", "20", "--batch", "80"),
    *("--minibatch", "80", "--memory.d-model", "32", "--memory.n-heads", "2", "--memory.n-layers", "1"),
    *("--network.width", "32", "--run.report-seconds", "0.2", "--run.checkpoint-minutes", "0.005"),
    *("--device", "cpu"),
]  # fmt: skip
WAIT = 300.0  # seconds for a start on a loaded machine


def start(run: Path, *words: str) -> subprocess.Popen[str]:
    """A training process, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "ct_rl.train", *words],
        cwd=run.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def begin(run: Path) -> subprocess.Popen[str]:
    """A new run that has saved twice, or a resumed one that has saved again."""
    before = checkpoint.steps(run / "checkpoints")
    again = ["--resume", str(run)] if before else [*SMALL, "--run-dir", str(run)]
    process = start(run, *again, "--steps", str(10**7))
    last = before[-1] if before else 0
    end = time.monotonic() + WAIT
    while max(checkpoint.steps(run / "checkpoints"), default=0) <= last:
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise SystemExit(f"the run did not start: {process.communicate()[0][-2000:]}")
        time.sleep(0.05)
    return process


def runner_of(process: subprocess.Popen[str]) -> psutil.Process:
    """The process that acts."""
    for child in psutil.Process(process.pid).children(recursive=True):
        if any("EnvRunner" in word or "_WrappedExecutable" in word for word in child.cmdline()):
            return child
    raise SystemExit("the run has no runner's process")


def kill(process: subprocess.Popen[str], run: Path) -> None:
    """-9 to the whole group, at any moment."""
    time.sleep(random.random() * 2)
    os.killpg(process.pid, signal.SIGKILL)


def terminate(process: subprocess.Popen[str], run: Path) -> None:
    """SIGTERM once."""
    process.terminate()


def terminate_twice_with_a_stopped_runner(process: subprocess.Popen[str], run: Path) -> None:
    """A runner that answers no more, SIGTERM, and again after three seconds."""
    stopped = runner_of(process)
    stopped.suspend()
    process.terminate()
    time.sleep(3)
    if process.poll() is None:
        process.terminate()


def kill_the_runner(process: subprocess.Popen[str], run: Path) -> None:
    """-9 to the process that acts: another is started; then SIGTERM."""
    runner_of(process).kill()
    time.sleep(5)
    process.terminate()


def take_the_folder(process: subprocess.Popen[str], run: Path) -> None:
    """The run's folder is moved away while it trains, and put back afterwards."""
    run.rename(run.with_name("moved"))


FAULTS: dict[str, tuple[Callable[[subprocess.Popen[str], Path], None], set[int]]] = {
    "SIGTERM": (terminate, {130}),
    "stopped runner, SIGTERM twice": (terminate_twice_with_a_stopped_runner, {130}),
    "runner killed, then SIGTERM": (kill_the_runner, {130}),
    "folder moved away": (take_the_folder, {2}),
    "kill -9": (kill, {-9}),
}


def attempt(name: str, run: Path) -> dict[str, Any]:
    """One fault: what came of it, and whether the run is whole."""
    action, wanted = FAULTS[name]
    process = begin(run)
    marked = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    begun = time.monotonic()
    action(process, run)
    try:
        out, _ = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate()
    seconds = time.monotonic() - begun
    recreated = name == "folder moved away" and run.exists()
    if run.with_name("moved").exists():
        shutil.rmtree(run, ignore_errors=True)
        run.with_name("moved").rename(run)
    end = time.monotonic() + 30
    while (left := [pid for pid in marked if psutil.pid_exists(pid)]) and time.monotonic() < end:
        time.sleep(0.2)
    saved, damaged = checkpoint.load_last(run / "checkpoints")
    rows = [
        json.loads(line)
        for line in (run / "metrics.jsonl").read_text().splitlines()
        if line.endswith("}")
    ]
    steps = [row["steps"] for row in rows]
    return {
        "fault": name,
        "status": process.returncode,
        "seconds": round(seconds, 1),
        "whole": saved is not None and not damaged,
        "no step twice": steps == sorted(set(steps)),
        "nothing left": not left and not recreated,
        "no traceback": "Traceback" not in out,
        "right": process.returncode in wanted,
        "last line": out.strip().splitlines()[-1][:160].replace(str(run.parent), "RUNS")
        if out.strip()
        else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="how often -9 is sent")
    parser.add_argument("--only", help="one fault, by its name")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "faults.json")
    given = parser.parse_args()
    names = [name for name in FAULTS if name != "kill -9"] + ["kill -9"] * given.kills
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    results = []
    try:
        for name in names if given.only is None else [given.only]:
            results.append(attempt(name, folder / "run"))
            print("  ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    checks = ("whole", "no step twice", "nothing left", "no traceback", "right")
    bad = [result for result in results if not all(result[check] for check in checks)]
    print(f"{len(results)} faults, {len(bad)} of them not as they should be")
    given.out.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
