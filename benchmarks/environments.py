"""The room task beside other 3-D environments, its scripted scores, and its memory over many steps.

    python benchmarks/environments.py [--steps 100000] [--out benchmarks/environments.json]

Every speed is of whole steps with dynamics and reset under random actions: environment steps for each second of CPU
time of the process and its children. Each is taken in a process of its own, in three rounds that take turns, and the
median counts. ViZDoom and MiniWorld come with the extras `vizdoom` and `miniworld`; without them their rows are missing
and say why.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
from provenance import commit, machine

import envs
from envs.room.scripted import ScriptedPlayer

ROOM = "dmlab_rooms_select"
ROUNDS = 3


def room(worlds: int, **settings: Any) -> tuple[Callable[[], int], str]:
    """One call steps `worlds` rooms once; the other value says what is stepped."""
    env = envs.make_vec(ROOM, worlds, engine="embedded", **{"renderer": "cpu", **settings})
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def step() -> int:
        env.step(rng.integers(9, size=worlds))
        return worlds

    return step, "72x96, 4 frames a step"


def vizdoom() -> tuple[Callable[[], int], str]:
    import gymnasium as gym
    import vizdoom as game
    from vizdoom import gymnasium_wrapper  # noqa: F401  # registers the ids

    env = gym.make("VizdoomMyWayHome-v1", frame_skip=4)
    player = env.unwrapped.game
    player.close()
    player.set_screen_resolution(game.ScreenResolution.RES_160X120)  # its smallest
    player.init()
    return _gymnasium(env), "120x160, 4 tics a step"


def miniworld() -> tuple[Callable[[], int], str]:
    os.environ.setdefault("PYGLET_HEADLESS", "1")
    import gymnasium as gym
    import miniworld as package  # noqa: F401  # registers the ids

    env = gym.make("MiniWorld-Sign-v0", obs_width=96, obs_height=72)
    return _gymnasium(env), "72x96, 1 action a step"


def _gymnasium(env: Any) -> Callable[[], int]:
    env.reset(seed=0)
    env.action_space.seed(0)

    def step() -> int:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
        return 1

    return step


SPEEDS: dict[str, Callable[[], tuple[Callable[[], int], str]]] = {
    "room task, 1 world": lambda: room(1),
    "room task, 16 worlds": lambda: room(16),
    "room task, 16 worlds, depth": lambda: room(16, depth=True),
    "room task, 32 worlds": lambda: room(32),
    "room task, 16 worlds, GPU": lambda: room(16, renderer="gpu"),
    "ViZDoom MyWayHome": vizdoom,
    "MiniWorld Sign": miniworld,
}


def speed(name: str, seconds: float) -> dict[str, Any]:
    """Steps per CPU-second and per second of wall time of one environment in this process."""
    before = psutil.Process().memory_info().rss
    step, what = SPEEDS[name]()
    for _ in range(20):
        step()
    steps, cpu, begun = 0, _cpu(), time.monotonic()
    while time.monotonic() - begun < seconds:
        for _ in range(20):
            steps += step()
    wall, used = time.monotonic() - begun, _cpu() - cpu
    return {
        "what": what,
        "steps_per_cpu_second": steps / used,
        "steps_per_second": steps / wall,
        "memory_mb": (_resident() - before) / 1e6,
    }


def _family() -> list[psutil.Process]:
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def _cpu() -> float:
    return sum(sum(process.cpu_times()[:2]) for process in _family())


def _resident() -> int:
    return sum(process.memory_info().rss for process in _family())


def in_own_process(job: str, *words: object) -> dict[str, Any]:
    """What this program prints for a job that it runs in a fresh process, or the reason why there is nothing."""
    with tempfile.TemporaryDirectory() as folder:  # ViZDoom writes its files where it is started
        done = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), "--job", job, *map(str, words)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"not_run": lines[-1] if lines else f"exit status {done.returncode}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def speeds(seconds: float) -> list[dict[str, Any]]:
    """One row for each environment: medians over the rounds."""
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in _here()}
    for _ in range(ROUNDS):
        for name, rounds in taken.items():
            rounds.append(in_own_process("speed", name, seconds))
    rows = []
    for name, rounds in taken.items():
        good = [row for row in rounds if "not_run" not in row]
        if not good:
            rows.append({"environment": name, **rounds[0]})
            continue
        keys = ("steps_per_cpu_second", "steps_per_second", "memory_mb")
        medians = {key: statistics.median(row[key] for row in good) for key in keys}
        spread = [row["steps_per_cpu_second"] for row in good]
        rows.append({"environment": name, "what": good[0]["what"], **medians, "rounds": spread})
    return rows


def _here() -> list[str]:
    """The environments that make sense on this machine."""
    gpu = any(Path("/dev").glob("nvidia[0-9]*")) or any(Path("/dev/dri").glob("renderD*"))
    return [name for name in SPEEDS if gpu or not name.endswith("GPU")]


def score(choose: str, episodes: int) -> dict[str, Any]:
    """Mean return of a player over whole episodes of the level as it is."""
    env = envs.make_vec(ROOM, episodes, engine="embedded", height=4, width=4)
    rng = np.random.default_rng(0)
    player = None if choose == "random" else ScriptedPlayer(env.action_names, choose)
    _, info = env.reset(seed=0)
    returns, ended = np.zeros(episodes), np.zeros(episodes, bool)
    while not ended.any():
        actions = player.act(info) if player else rng.integers(9, size=episodes)
        _, rewards, ended, _, info = env.step(actions)
        returns += rewards
    return {
        "player": choose,
        "episodes": episodes,
        "mean_return": float(returns.mean()),
        "standard_error": float(returns.std(ddof=1) / episodes**0.5),
        "teleports": float(info["teleports"].mean()),
        "choices": float(info["trials"].mean()),
    }


def memory(steps: int, worlds: int = 4) -> dict[str, Any]:
    """Resident memory in MB at the start, after a tenth of the steps, and at the end."""
    step, _ = room(worlds, seconds=2.0)
    at: dict[int, float] = {}
    for done in range(steps + 1):
        if done % max(1, steps // 10) == 0:
            at[done] = round(_resident() / 1e6, 2)
        step()
    sizes = list(at.values())
    return {
        "vector_steps": steps,
        "worlds": worlds,
        "resident_mb": at,
        "growth_mb": sizes[-1] - sizes[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each speed in each round")
    parser.add_argument("--episodes", type=int, default=512, help="of each scripted player")
    parser.add_argument("--steps", type=int, default=100_000, help="over which memory is watched")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/environments.json"))
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        kind, *words = arguments.job
        jobs: dict[str, Callable[..., dict[str, Any]]] = {
            "speed": lambda name, seconds: speed(name, float(seconds)),
            "score": lambda choose, episodes: score(choose, int(episodes)),
            "memory": lambda steps: memory(int(steps)),
        }
        print(json.dumps(jobs[kind](*words)))
        return
    report = {
        "command": f"python benchmarks/environments.py --seconds {arguments.seconds:g} "
        f"--episodes {arguments.episodes} --steps {arguments.steps}",
        "commit": commit(),
        "machine": machine(),
        "speeds": speeds(arguments.seconds),
        "scores": [
            in_own_process("score", choose, arguments.episodes)
            for choose in ("right", "guess", "wrong", "random")
        ],
        "memory": in_own_process("memory", arguments.steps),
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    show(report)


def show(report: dict[str, Any]) -> None:
    """Prints the tables."""
    print(f"{'environment':30}{'steps/CPU-s':>12}{'steps/s':>10}{'MB':>7}  what")
    for row in report["speeds"]:
        if "not_run" in row:
            print(f"{row['environment']:30}not run: {row['not_run']}")
            continue
        print(
            f"{row['environment']:30}{row['steps_per_cpu_second']:12.0f}{row['steps_per_second']:10.0f}"
            f"{row['memory_mb']:7.0f}  {row['what']}"
        )
    for row in report["scores"]:
        print(
            f"{row['player']:8}{row['mean_return']:8.2f} +- {row['standard_error']:.2f} "
            f"({row['teleports']:.2f} teleports, {row['choices']:.2f} choices, {row['episodes']} episodes)"
        )
    watched = report["memory"]
    print(
        f"memory over {watched['vector_steps']} steps of {watched['worlds']} worlds: "
        f"{watched['growth_mb']:+.2f} MB after the first tenth"
    )


if __name__ == "__main__":
    main()
