"""Which memory recalls a cue after a delay, by supervised learning alone: no Ray, no environment.

    python benchmarks/recall.py    # one core, a few minutes; prints a table and writes recall.json

A cue (one of four) at the first step, then D steps of noise, then the question: cross-entropy at that step, on fresh
sequences at every update; "right" is the share at the last test. Every memory has the same width, optimiser, updates
and data; chance is 0.25.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
from provenance import commit, machine
from torch import Tensor, nn

from ct_rl.memory import MemoryCore, build_memory

CUES, WIDTH, ROWS, TESTED = 4, 32, 32, 256
CHECK, RIGHT = 25, 0.99  # updates between tests, and the share at which a run is done

MEMORIES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear, min_gru": ("linear", {"cell": "min_gru", "hidden": WIDTH}),
    "linear, lru": ("linear", {"cell": "lru", "hidden": WIDTH}),
    "gru": ("gru", {"hidden": WIDTH}),
    "lstm": ("lstm", {"hidden": WIDTH}),
    "compressive": (
        "compressive",
        {"n_layers": 2, "n_heads": 2, "window": 8, "memory": 16, "compressed": 32, "rate": 4},
    ),
    "identity": ("identity", {}),
}


def sequences(rows: int, delay: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs [rows, delay + 2, CUES + 2]: the cue's one-hot, noise, the question's flag; and the cues [rows]."""
    cues = torch.randint(CUES, (rows,), generator=generator)
    x = torch.zeros(rows, delay + 2, CUES + 2)
    x[:, 0, :CUES] = F.one_hot(cues, CUES).float()
    x[:, 1:-1, CUES] = torch.randn(rows, delay, generator=generator)
    x[:, -1, CUES + 1] = 1.0
    return x, cues


class Reader(nn.Module):
    """A linear map into the core and one out of it, at the question."""

    def __init__(self, core: MemoryCore):
        super().__init__()
        self.inlet, self.core = nn.Linear(CUES + 2, core.d_model), core
        self.answer = nn.Linear(core.d_out, CUES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, CUES + 2] -> logits [B, CUES] and the sum of the memory's own losses."""
        out = self.core(self.inlet(x), self.core.initial_state(len(x)))
        return self.answer(out.y[:, -1]), sum(out.losses.values(), out.y.new_zeros(()))


def learn(name: str, delay: int, seed: int, updates: int, rate: float) -> dict[str, Any]:
    """Trains until RIGHT of fresh sequences are answered rightly, for `updates` at most."""
    torch.manual_seed(seed)
    kind, options = MEMORIES[name]
    reader = Reader(build_memory(kind, d_model=WIDTH, **options))
    draws = torch.Generator().manual_seed(1000 + seed)
    optimiser = torch.optim.Adam(reader.parameters(), rate)
    seconds, right, done = 0.0, 0.0, 0
    while done < updates and right < RIGHT:
        begun = time.process_time()
        for _ in range(min(CHECK, updates - done)):
            x, cues = sequences(ROWS, delay, draws)
            logits, own = reader.train()(x)
            optimiser.zero_grad()
            (F.cross_entropy(logits, cues) + own).backward()
            nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
            optimiser.step()
            done += 1
        seconds += time.process_time() - begun
        with torch.no_grad():
            x, cues = sequences(TESTED, delay, draws)
            right = (reader.eval()(x)[0].argmax(1) == cues).float().mean().item()
    return {
        "memory": name,
        "delay": delay,
        "seed": seed,
        "right": round(right, 3),
        "updates": done,
        "learned": right >= RIGHT,
        "milliseconds an update": round(1e3 * seconds / done, 1),
    }


def table(runs: list[dict[str, Any]]) -> str:
    """One line a memory and delay: how many seeds learned it, in how many updates, at what cost."""
    lines = [f"{'memory':18}{'delay':>6}{'learned':>9}{'right':>7}{'updates':>9}{'ms/update':>11}"]
    for name, delay in dict.fromkeys((run["memory"], run["delay"]) for run in runs):
        group = [run for run in runs if (run["memory"], run["delay"]) == (name, delay)]
        learned = f"{sum(run['learned'] for run in group)}/{len(group)}"
        right, updates, cost = (
            statistics.median(run[key] for run in group)
            for key in ("right", "updates", "milliseconds an update")
        )
        lines.append(f"{name:18}{delay:6}{learned:>9}{right:7.2f}{updates:9.0f}{cost:11.1f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", nargs="+", choices=list(MEMORIES), default=list(MEMORIES))
    parser.add_argument("--delays", nargs="+", type=int, default=[20, 100], metavar="D")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, from seed 0 on")
    parser.add_argument("--updates", type=int, default=300, help="at most")
    parser.add_argument("--rate", type=float, default=3e-3, help="Adam's learning rate")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for delay in given.delays:
        for seed in range(given.seeds):
            for name in given.memories:
                runs.append(learn(name, delay, seed, given.updates, given.rate))
                print(json.dumps(runs[-1]), flush=True)
    print(table(runs))
    report = {
        "command": "python benchmarks/recall.py",
        "arguments": {
            "delays": given.delays,
            "seeds": given.seeds,
            "updates": given.updates,
            "rate": given.rate,
        },
        "commit": commit(),
        "machine": machine("one core"),
        "runs": runs,
    }
    given.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
