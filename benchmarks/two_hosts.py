"""An experiment and a run on two hosts, one of which dies in the middle: what is lost, and what goes on?

    sudo python benchmarks/two_hosts.py                # Linux, as root, iproute2; about 5 minutes on two cores

The hosts are network namespaces of this machine, joined by a bridge: A (10.77.0.1) has Ray's head and this script, B
(10.77.0.2) a second raylet with a core of its own. All processes of B are killed at once, and its link is cut.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml
from provenance import commit, machine

from ct_rl import checkpoint
from ct_rl.config import TrainConfig
from ct_rl.experiment_file import Variant
from ct_rl.plain_files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
HEAD, PORT = "10.77.0.1", 6399
SMALL: dict[str, Any] = {
    "recipe": "rooms_select",
    "settings": {
        "memory": {"d_model": 32, "n_heads": 2, "n_layers": 1},
        "runners": {"envs_per_runner": 4, "fragment": 20},
        "training": {"batch": 80, "minibatch": 80},
        "run": {"steps": 5000, "report_seconds": 0.5, "checkpoint_minutes": 0.1},
    },
    "variants": {"rate 4": {"memory": {"rate": 4}}, "rate 1": {"memory": {"rate": 1}}},
    "seeds": [1, 2],
    "episodes": 2,
    "measure": "teleports",
}


class Host:
    """A network namespace, and the processes that were started in it."""

    def __init__(self, name: str, address: str):
        self.name, self.address = f"ctrl{name}", address
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", f"{self.name}o", "type", "veth", "peer", "name", f"{self.name}i")
        run("ip", "link", "set", f"{self.name}i", "netns", self.name)
        run("ip", "link", "set", f"{self.name}o", "master", "ctrlbridge", "up")
        self.run("ip", "addr", "add", f"{address}/24", "dev", f"{self.name}i")
        self.run("ip", "link", "set", f"{self.name}i", "up")
        self.run("ip", "link", "set", "lo", "up")
        self.folder = tempfile.mkdtemp(prefix=f"ct{name}", dir="/tmp")

    def run(self, *words: str) -> None:
        run("ip", "netns", "exec", self.name, *words)

    def start(self, *words: str, log: Path | None = None) -> subprocess.Popen[bytes]:
        environment = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_USAGE_STATS_ENABLED": "0"}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": self.folder}
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *words],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if log is None else open(log, "ab"),
            stderr=subprocess.STDOUT,
        )

    def ray(self, *words: str) -> subprocess.Popen[bytes]:
        program = str(Path(sys.executable).with_name("ray"))
        if (Path.home() / ".ray" / "auth_token").is_file():
            program = "env RAY_AUTH_MODE=token " + program
        words = ("start", *words, "--node-ip-address", self.address, "--num-cpus", "1", "--block")
        return self.start(*program.split(), *words, "--object-store-memory", str(200 * 2**20))

    def die(self) -> None:
        """The link first: nothing that is said in dying is heard."""
        with contextlib.suppress(subprocess.CalledProcessError):
            run("ip", "link", "set", f"{self.name}o", "down")
        found = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False
        )
        for process in found.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)

    def remove(self) -> None:
        self.die()
        time.sleep(1)
        subprocess.run(["ip", "link", "del", f"{self.name}o"], check=False)
        subprocess.run(["ip", "netns", "del", self.name], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def run(*words: str) -> None:
    subprocess.run(words, check=True)


@contextlib.contextmanager
def hosts() -> Iterator[tuple[Host, Host]]:
    """Both hosts, joined, each with Ray."""
    run("ip", "link", "add", "ctrlbridge", "type", "bridge")
    run("ip", "link", "set", "ctrlbridge", "up")
    made = []
    try:
        for name, address in (("A", HEAD), ("B", "10.77.0.2")):
            made.append(Host(name, address))
        a, b = made
        a.ray("--head", "--port", str(PORT), "--include-dashboard", "false")
        time.sleep(15)
        b.ray("--address", f"{HEAD}:{PORT}")
        time.sleep(10)
        yield a, b
    finally:
        for host in made:
            host.remove()
        subprocess.run(["ip", "link", "del", "ctrlbridge"], check=False)


def wait_for(
    condition: Callable[[], Any], process: subprocess.Popen[bytes], log: Path, what: str
) -> Any:
    end = time.monotonic() + 400
    while not (found := condition()):
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(
                f"waited in vain for {what}; status {process.poll()}:\n{log.read_text()[-2000:]}"
            )
        time.sleep(0.2)
    return found


def where(host: Host) -> list[str]:
    """The commands of jobs that run on a host."""
    pids = subprocess.run(
        ["ip", "netns", "pids", host.name], capture_output=True, text=True, check=True
    )
    found = []
    for process in pids.stdout.split():
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{process}/cmdline").read_bytes().decode())
    return [words for words in found if "ct_rl-experiment-" in words]


def _finished(folder: Path) -> list[Path]:
    """Evaluations of the runs that the experiment calls finished: one in the making is written more than once."""
    if not (folder / "results.json").exists():
        return []
    variants = json.loads((folder / "results.json").read_text())["variants"]
    jobs = [
        f"{Variant(name, TrainConfig()).folder}_seed{run['seed']}"
        for name, variant in variants.items()
        for run in variant["runs"]
    ]
    return [file for job in jobs for file in folder.glob(f"{job}/run/evaluations/*.json")]


def experiment(work: Path) -> dict[str, Any]:
    """Four runs on two hosts, of which B dies when its run has saved something and another run is finished."""
    folder, log = work / "experiment", work / "experiment.log"
    (work / "small.yaml").write_text(yaml.safe_dump(SMALL))
    words = [sys.executable, "-m", "ct_rl.experiment", str(work / "small.yaml")]
    words += ["--run-dir", str(folder), "--ray-address", f"{HEAD}:{PORT}"]
    with hosts() as (a, b):
        process = a.start(*words, log=log)
        wait_for(lambda: where(a) and where(b), process, log, "runs on both hosts")

        def halfway() -> list[Path]:
            finished = _finished(folder)
            busy = [
                job
                for job in folder.iterdir()
                if max(checkpoint.steps(job / "run" / "checkpoints"), default=0) > 0
                and not list(job.glob("run/evaluations/*.json"))
            ]
            return finished if where(b) and len(busy) >= 1 and finished else []

        finished = wait_for(halfway, process, log, "a finished run and one under way")
        before = {path: path.stat().st_mtime_ns for path in finished}
        on_b = len(where(b))
        b.die()
        status = process.wait(timeout=600)
    said = log.read_text()
    results = json.loads((folder / "results.json").read_text())
    runs = [run for variant in results["variants"].values() for run in variant["runs"]]
    return {
        "finished before B died": len(before),
        "commands on B when it died": on_b,
        "exit status": status,
        "finished runs": len(runs),
        "finished ones left as they were": all(
            path.stat().st_mtime_ns == at for path, at in before.items()
        ),
        "said": [line.strip() for line in said.splitlines() if "host is lost" in line],
    }


def training(work: Path) -> dict[str, Any]:
    """One run whose second runner is on B, which dies."""
    folder, log = work / "run", work / "train.log"
    small = SMALL["settings"]
    recipe = {
        "env": {"name": "dmlab_rooms_select"},
        **small,
        "memory": {"kind": "compressive", **small["memory"]},
    }
    recipe["runners"] = {"envs_per_runner": 4, "fragment": 20, "num_env_runners": 2}
    recipe["training"] = {"algorithm": "ppo", "batch": 160, "minibatch": 160}
    (work / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = [sys.executable, "-m", "ct_rl.train", "--config", str(work / "recipe.yaml")]
    words += ["--run-dir", str(folder), "--ray-address", f"{HEAD}:{PORT}"]
    with hosts() as (a, b):
        process = a.start(*words, log=log)
        wait_for(
            lambda: checkpoint.steps(folder / "checkpoints")[-1:] > [0],
            process,
            log,
            "a checkpoint",
        )
        at = checkpoint.steps(folder / "checkpoints")[-1]
        b.die()
        status = process.wait(timeout=600)
    lines = [line for line in log.read_text().strip().splitlines() if line.strip()]
    again = subprocess.run(
        [sys.executable, "-m", "ct_rl.train", "--resume", str(folder), "--steps", "6000"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "steps saved before B died": at,
        "exit status": status,
        "runners lost, as it said": [
            line[:200] for line in lines if "lost" in line and "steps/s" not in line
        ],
        "steps saved at the end": checkpoint.steps(folder / "checkpoints")[-1],
        "resumed without the cluster, exit status": again.returncode,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("experiment", "training"), action="append")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    parts = {"experiment": experiment, "training": training}
    result = json.loads(given.out.read_text()) if given.out.exists() else {}
    # Asked once: the first part's result changes the checkout.
    made_by = {"commit": commit(), "machine": machine()}
    for part in given.part or parts:
        with tempfile.TemporaryDirectory(prefix="ct_rl-two-hosts-") as work:
            begun = time.monotonic()
            result[part] = parts[part](Path(work))
            result[part]["seconds"] = round(time.monotonic() - begun)
            result[part] |= made_by
        print(part, json.dumps(result[part], indent=1), flush=True)
        write_atomically(given.out, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
