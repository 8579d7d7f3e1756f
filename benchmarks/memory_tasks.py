"""Two tasks that ask for memory, several memories and a control without one: curves over seeds, one JSON, one picture.

    python benchmarks/memory_tasks.py [--tasks stateless_cartpole minigrid_memory] [--seeds 3] [--first-seed 0]
    python benchmarks/memory_tasks.py --tasks minigrid_losses --seeds 3

stateless_cartpole is CartPole-v1 without its two velocities; the score is the length of an episode, at most 500.
minigrid_memory is MiniGrid-MemoryS7-v0 as memory-RL work plays it, with the three actions that move the agent and a
view of 3 x 3 cells: with MiniGrid's own 7 cells an agent sees the cue and both choices from one place, and needs no
memory. Three of four episodes begin past the cue, with the agent's back to it: it must learn to go and look. The score
is the share of right choices; a guess gives 0.5, an episode that runs out of time counts as wrong. "no memory" is a
transformer that attends to the present step only. PPO on the fast path, acting and learning in this process, one
thread; every run goes on to the same number of steps, is written down when it is done, and is not repeated where --out
has it. minigrid_losses is minigrid_memory with each auxiliary loss beside PPO's, and with none, for two memories.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import matplotlib
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit, TransformReward
from gymnasium.wrappers.vector import TransformAction
from learning import horizon, learn
from provenance import commit, machine
from ray.rllib.examples.envs.classes.stateless_cartpole import StatelessCartPole
from ray.tune import register_env

import envs
from agents.auxiliary import auxiliary_names, auxiliary_options
from ct_rl.plain_files import write_atomically
from ct_rl.ray_session import ray_session

Memory = tuple[str, dict[str, Any]]
Side = tuple[Memory, dict[str, Any]]
NO_MEMORY: Memory = ("transformer_xl", {"n_layers": 1, "n_heads": 2, "window": 1, "memory": 0})


def cartpole(context: dict[str, Any]) -> VectorEnv:
    """For `ray.tune.register_env`: N CartPoles without velocities, at most 500 steps long."""

    def one() -> gym.Env:
        # Values near 1 instead of 50: the value's gradient must not drown the policy's.
        return TransformReward(TimeLimit(StatelessCartPole(), 500), lambda reward: reward / 20)

    return SyncVectorEnv([one] * context["num_envs"])


def minigrid(context: dict[str, Any]) -> VectorEnv:
    """For `ray.tune.register_env`: N of the smallest memory task, three cells seen, three actions."""
    worlds = envs.make_vec("MiniGrid-MemoryS7-v0", context["num_envs"], agent_view_size=3)
    # Left, right and forward; the others do nothing here.
    return TransformAction(
        worlds, lambda action: action, single_action_space=gym.spaces.Discrete(3)
    )


def attention(window: int, memory: int, compressed: int) -> dict[str, Memory]:
    """The memories of a task: compressive ones of these sizes and gtrxl with the same number of places."""
    sizes = {"n_layers": 1, "n_heads": 2, "window": window}
    return {
        "compressive, rate 4": (
            "compressive",
            {**sizes, "memory": memory, "compressed": compressed, "rate": 4},
        ),
        "gtrxl": ("gtrxl", {**sizes, "memory": memory + compressed}),
        "lstm": ("lstm", {"hidden": 64}),
        "gru": ("gru", {"hidden": 64}),
        "linear, min_gru": ("linear", {"hidden": 64}),
        "linear, lru": ("linear", {"hidden": 32, "cell": "lru"}),
        "no memory": NO_MEMORY,
    }


LOSS_SETTINGS: dict[str, dict[str, Any]] = {"recall": {"horizon": 30}}  # as on the room
LOSS_COEFF = 0.5


def with_losses(memories: dict[str, Memory]) -> dict[str, Side]:
    """Each memory without a loss beside PPO's, and with each that is registered by itself."""
    sides: dict[str, Side] = {}
    for name, memory in memories.items():
        sides[name] = (memory, {})
        for loss in auxiliary_names():
            chosen = asdict(auxiliary_options(loss)(**LOSS_SETTINGS.get(loss, {})))
            more = {"auxiliary": {loss: chosen}, "loss_coeffs": {loss: LOSS_COEFF}}
            sides[f"{name}, {loss}"] = (memory, more)
    return sides


@dataclass(frozen=True)
class Task:
    """A task: `score` is of one ended episode, `guess` is what guessing gives, None where unknown.

    A side is a memory and what it changes in `learn`.
    """

    create: Callable[[dict[str, Any]], VectorEnv]
    score: Callable[[dict[str, float]], float]
    label: str
    best: float
    sides: dict[str, Side]
    learn: Callable[..., dict[str, Any]]
    guess: float | None = None


def alone(memories: dict[str, Memory]) -> dict[str, Side]:
    """Sides that add nothing."""
    return {name: (memory, {}) for name, memory in memories.items()}


_PPO = {"fragment": 64, "num_epochs": 4, "gamma": 0.98}
MINIGRID = attention(window=8, memory=8, compressed=8)
TASKS = {
    "stateless_cartpole": Task(
        create=cartpole,
        score=lambda episode: episode["length"],
        label="episode length, last 50 episodes",
        best=500.0,
        sides=alone(attention(window=4, memory=4, compressed=4)),
        learn=partial(
            learn,
            steps=60_000,
            rows=16,
            last=50,
            minibatch_size=256,
            lr=2e-3,
            entropy_coeff=0.01,
            **_PPO,
        ),
    ),
    "minigrid_memory": Task(
        create=minigrid,
        score=lambda episode: float(episode["return"] > 0),
        label="right choices, last 200 episodes",
        best=1.0,
        sides=alone(MINIGRID),
        learn=partial(
            learn,
            steps=500_000,
            rows=32,
            last=200,
            minibatch_size=512,
            head=64,
            lr=[[0, 1.5e-3], [500_000, 2e-4]],
            # Whoever stops looking around never sees the cue: with 0.01, one run of nine found it in 1,000,000 steps.
            entropy_coeff=0.08,
            least_advantage_std=0.05,
            **_PPO,
        ),
        guess=0.5,
    ),
}
TASKS["minigrid_losses"] = replace(
    TASKS["minigrid_memory"],
    sides=with_losses({name: MINIGRID[name] for name in ("compressive, rate 4", "lstm")}),
)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each task and memory: the seeds' scores at the end, their mean and its standard error."""
    found: dict[str, Any] = {}
    for task, name in dict.fromkeys((row["task"], row["memory"]) for row in rows):
        scores = [r["score"] for r in rows if (r["task"], r["memory"]) == (task, name)]
        error = float(np.std(scores, ddof=1) / len(scores) ** 0.5) if len(scores) > 1 else None
        found.setdefault(task, {})[name] = {
            "mean": float(np.mean(scores)),
            "standard_error": error,
            "seeds": scores,
        }
    return found


def _seeds(count: int) -> str:
    return f"{count} seed" if count == 1 else f"{count} seeds"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The mean over seeds, the range of all seeds as a band, and the seeds as thin lines."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    most = max(len(TASKS[task].sides) for task in tasks)
    size = 6 * len(tasks), 4 if most < 8 else 5.5
    figure, panels = plt.subplots(1, len(tasks), figsize=size, squeeze=False, layout="constrained")
    for axes, task in zip(panels[0], tasks, strict=True):
        for number, name in enumerate(TASKS[task].sides):
            curves = [
                np.array(r["curve"]) for r in rows if (r["task"], r["memory"]) == (task, name)
            ]
            if not curves:
                continue
            grid = np.linspace(0, min(c[-1, 0] for c in curves), 100)
            seeds = np.stack([np.interp(grid, c[:, 0], c[:, 1]) for c in curves])
            color = f"C{number}"
            axes.plot(grid, seeds.mean(0), color=color, label=f"{name} ({_seeds(len(curves))})")
            axes.plot(grid, seeds.T, color=color, linewidth=0.5, alpha=0.6)
            axes.fill_between(grid, seeds.min(0), seeds.max(0), color=color, alpha=0.12)
        if TASKS[task].guess is not None:
            axes.axhline(TASKS[task].guess, color="grey", linestyle=":", label="a guess")
        axes.set(xlabel="environment steps", ylabel=TASKS[task].label, title=task)
        axes.set_ylim(0, 1.05 * TASKS[task].best)
        under: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "ncols": 2}
        axes.legend(fontsize=8, **(under if len(TASKS[task].sides) >= 8 else {}))
    figure.savefig(path, dpi=120)
    plt.close(figure)


DEFAULT = ["stateless_cartpole", "minigrid_memory"]


def settings(tasks: list[str]) -> dict[str, Any]:
    """What the runs of these tasks are made with, as it is written down."""
    return {
        name: {
            "memories": {
                side: {"kind": kind, **options, "reach": horizon((kind, options)), **more}
                for side, ((kind, options), more) in TASKS[name].sides.items()
            },
            **TASKS[name].learn.keywords,
        }
        for name in tasks
    }


def finished(path: Path, tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that a file has already; one of other tasks or settings than `tasks` ends the program."""
    if not path.exists():
        return []
    try:
        known = json.loads(path.read_text())
    except ValueError as error:
        raise SystemExit(f"{path} is no result of this benchmark: {error}") from None
    for row in known["rows"]:
        task, memory = row["task"], row["memory"]
        made, asked = (_of(where, task, memory) for where in (known["tasks"], tasks))
        if asked is None:
            raise SystemExit(f"{path} holds rows of {task}, too: name it in --tasks")
        if made != asked:
            raise SystemExit(
                f"{path}: {memory} on {task} was made with other settings: give --out another file"
            )
    rows: list[dict[str, Any]] = known["rows"]
    return rows


def _of(tasks: dict[str, Any], task: str, memory: str) -> Any:
    """The settings of one side of a task as JSON has them; None where it is not among them."""
    if task not in tasks or memory not in tasks[task]["memories"]:
        return None
    side = tasks[task] | {"memories": tasks[task]["memories"][memory]}
    return json.loads(json.dumps(side))


def main() -> None:
    names = list(dict.fromkeys(name for task in TASKS.values() for name in task.sides))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=DEFAULT, choices=list(TASKS))
    parser.add_argument("--memories", nargs="+", default=names, choices=names)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/memory_tasks.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    head = {"tasks": settings(arguments.tasks)}
    rows = finished(arguments.out, head["tasks"])
    made_by = {"commit": commit(), "machine": machine("one thread")}
    with ray_session(0):
        for task in arguments.tasks:
            register_env(task, TASKS[task].create)
        for seed, task in itertools.product(
            range(arguments.first_seed, arguments.first_seed + arguments.seeds), arguments.tasks
        ):
            for name, (memory, more) in TASKS[task].sides.items():
                asked = (task, name, seed)
                there = any((r["task"], r["memory"], r["seed"]) == asked for r in rows)
                if name not in arguments.memories or there:
                    continue
                run = TASKS[task].learn(task, memory, TASKS[task].score, seed=seed, **more)
                rows.append({"task": task, "memory": name, **made_by, **run})
                print(
                    f"{task:20} {name:35} seed {seed}: {run['score']:.2f} after "
                    f"{run['steps']:,} steps, {run['seconds']:.0f} s",
                    flush=True,
                )
                report = head | {"at_the_end": summary(rows), "rows": rows}
                write_atomically(arguments.out, (json.dumps(report, indent=1) + "\n").encode())
                draw(rows, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
