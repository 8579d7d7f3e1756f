"""Remember a cue for D steps: each memory's success against D, several seeds, one JSON and one picture.

    python benchmarks/delayed_recall.py [--delays 4 8 16 28] [--seeds 3] [--steps 150000]

An episode shows one of four cues, then D blank steps, then asks for it; whoever does not remember is right in
a quarter of the episodes. Every agent has one layer, so that its horizon is exactly what `context_length` says, and
rate 1 and rate 4 have the same window, memory and compressed memory: only the rate differs. PPO on the fast path,
acting and learning in this process, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import matplotlib
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from learning import horizon, learn
from provenance import commit, machine
from ray.tune import register_env

from ct_rl.ray_session import ray_session

CUES, ROWS, STEPS = 4, 32, 64
SIZES = {"n_layers": 1, "n_heads": 2, "window": 4, "memory": 4}
MEMORIES: dict[str, tuple[str, dict[str, Any]]] = {
    "compressive, rate 1": ("compressive", {**SIZES, "compressed": 4, "rate": 1}),
    "compressive, rate 4": ("compressive", {**SIZES, "compressed": 4, "rate": 4}),
    "transformer_xl": ("transformer_xl", SIZES),
    "lstm": ("lstm", {"hidden": 64}),
    "gru": ("gru", {"hidden": 64}),
    "linear, min_gru": ("linear", {"n_layers": 1, "hidden": 64}),
    "linear, lru": ("linear", {"n_layers": 1, "hidden": 32, "cell": "lru"}),
    "identity": ("identity", {}),
}


class DelayedRecall(VectorEnv):
    """Observation one-hot: the cue (first step only), "wait" or "now"; reward 1 for the cue's number at "now"."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, delay: int):
        self.num_envs, self.delay = num_envs, delay
        self.single_observation_space = gym.spaces.Discrete(CUES + 2)
        self.single_action_space = gym.spaces.Discrete(CUES)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _observe(self) -> np.ndarray:
        waiting = np.where(self.t <= self.delay, CUES, CUES + 1)
        return np.where(self.t == 0, self.cue, waiting)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.rng = np.random.default_rng(seed)
        # Rows start at different places, so that their answers do not come all at once.
        self.t = np.zeros(self.num_envs, np.int64)
        self.cue = self.rng.integers(0, CUES, self.num_envs)
        self.ended = np.zeros(self.num_envs, bool)
        return self._observe(), {}

    def step(self, actions: np.ndarray) -> Any:
        fresh, asked = self.ended, self.t == self.delay + 1
        reward = np.where(asked & ~fresh, actions == self.cue, 0.0)
        self.ended = asked & ~fresh
        self.t = np.where(fresh, 0, self.t + 1)
        self.cue = np.where(fresh, self.rng.integers(0, CUES, self.num_envs), self.cue)
        return self._observe(), reward, self.ended, np.zeros(self.num_envs, bool), {}


def create(context: dict[str, Any]) -> DelayedRecall:
    """For `ray.tune.register_env`."""
    return DelayedRecall(context["num_envs"], context["delay"])


def train(name: str, delay: int, seed: int, steps: int) -> dict[str, Any]:
    """One run: it ends at `steps`, or when the last 500 episodes are right in 98 of 100."""
    run = learn(
        "delayed_recall",
        MEMORIES[name],
        lambda episode: episode["return"],
        seed=seed,
        steps=steps,
        rows=ROWS,
        fragment=STEPS,
        last=500,
        enough=0.98,
        env_config={"delay": delay},
        minibatch_size=ROWS * STEPS // 2,
        num_epochs=3,
        lr=3e-3,
        gamma=0.95,
        entropy_coeff=0.01,
        least_advantage_std=0.05,
    )
    return {"memory": name, "delay": delay, "success": run.pop("score"), **run}


def draw(rows: list[dict[str, Any]], delays: list[int], path: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for name in MEMORIES:
        mine = [r for r in rows if r["memory"] == name]
        if not mine:
            continue
        points = [
            (d, [r["success"] for r in mine if r["delay"] == d])
            for d in delays
            if any(r["delay"] == d for r in mine)
        ]
        reach = horizon(MEMORIES[name])
        label = name if reach is None else f"{name} (reaches {reach} steps)"
        (line,) = axes.plot(
            [d for d, _ in points], [np.mean(s) for _, s in points], "o-", label=label
        )
        for d, successes in points:
            axes.plot([d] * len(successes), successes, ".", color=line.get_color(), alpha=0.5)
    axes.axhline(1 / CUES, color="grey", linestyle=":", label="without memory")
    axes.set(xlabel="delay D [steps]", ylabel="right answers, last 500 episodes", ylim=(0, 1.05))
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", nargs="+", default=list(MEMORIES), choices=list(MEMORIES))
    parser.add_argument("--delays", nargs="+", type=int, default=[4, 8, 16, 28])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150_000, help="at most, of each run")
    parser.add_argument("--out", type=Path, default=Path("docs/results/delayed_recall.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    at = commit()  # before this program's own results make the checkout differ
    rows: list[dict[str, Any]] = []
    with ray_session(0):
        register_env("delayed_recall", create)
        for seed in range(arguments.seeds):
            for delay in arguments.delays:
                for name in arguments.memories:
                    row = train(name, delay, seed, arguments.steps)
                    rows.append(row)
                    print(
                        f"{name:22} D={delay:3} seed {seed}: {row['success']:.2f} right after "
                        f"{row['steps']:,} steps, {row['seconds']:.0f} s",
                        flush=True,
                    )
                    arguments.out.write_text(
                        json.dumps(
                            {
                                "command": "python benchmarks/delayed_recall.py "
                                f"--delays {' '.join(map(str, arguments.delays))} "
                                f"--seeds {arguments.seeds} --steps {arguments.steps}",
                                "commit": at,
                                "machine": machine("one thread"),
                                "memories": {
                                    n: {
                                        "kind": MEMORIES[n][0],
                                        **MEMORIES[n][1],
                                        "reach": horizon(MEMORIES[n]),
                                    }
                                    for n in arguments.memories
                                },
                                "rows": rows,
                            },
                            indent=1,
                        )
                        + "\n"
                    )
                    draw(rows, arguments.delays, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
