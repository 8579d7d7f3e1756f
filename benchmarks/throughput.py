"""Steps per second and CPU-microseconds per step: end to end, and each part alone.

    python benchmarks/throughput.py [--seconds 30] [--beside ../before] [--out benchmarks/throughput.json]

Everything is measured in one run, one thread a process. A part's cost is the CPU time of this process for it alone;
the end-to-end cost is the CPU time of ALL processes of a real training run, divided by its environment steps.
RLlib's share is what is left when the parts are taken away. On a processor with bfloat16 the fast path is measured in
that precision, too. Beside it: the same module on RLlib's stock path (8 environments, fragments of 32), the bytes of
state that each path ships, and the CPU time of a driver that only waits. `--beside` has another checkout's own
benchmark measure first, in the same run, and keeps what it found.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium as gym
import numpy as np
import psutil
import torch
from provenance import commit, machine
from ray.tune import register_env
from stock_path import ROWS as STOCK_ROWS
from stock_path import STEPS as STOCK_STEPS
from stock_path import shipped, stock_config

import envs
from agents import ActorCritic, MemoryIMPALAConfig
from agents.actor_critic import ActorCriticOutput, as_tensors
from agents.precision import has_bfloat16
from agents.rewards import clip_reward
from agents.vtrace import vtrace
from ct_rl.ray_session import ray_session

ENV, ROWS, STEPS, MINIBATCH_ROWS = "dmlab_rooms_select", 32, 60, 8
MEMORIES: dict[str, dict[str, Any]] = {
    "compressive": {
        "n_layers": 3,
        "n_heads": 4,
        "window": 16,
        "memory": 64,
        "compressed": 64,
        "rate": 4,
    },
    "lstm": {"hidden": 256},
}


def cpu_per_call(work: Callable[[], Any], seconds: float) -> float:
    """Median CPU seconds of one call, after a warm-up, over at least `seconds` of wall time."""
    for _ in range(3):
        work()
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end or len(times) < 5:
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return float(np.median(times))


def part_costs(memory: str, seconds: float, halves: bool) -> dict[str, float]:
    """CPU-microseconds per environment step of environment, acting and learning, each alone."""

    def precision() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=halves)

    env = envs.make_vec(ENV, ROWS, engine="embedded")
    obs, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    net = ActorCritic(
        env.single_observation_space,
        env.single_action_space,
        memory=memory,
        memory_options={"d_model": 128, **MEMORIES[memory]},
    )
    state, generator = net.initial_state(ROWS), torch.Generator()

    def act() -> None:
        with precision():
            policy, _ = net.step(as_tensors(obs), state)
        net.distribution(policy).sample(generator)

    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    start = net.initial_state(MINIBATCH_ROWS)  # its own: acting moves `state` on in place
    frames = rng.integers(0, 255, (MINIBATCH_ROWS, STEPS + 1, 72, 96, 3), np.uint8)
    batch = as_tensors(
        {
            "frame": frames,
            "last_reward": np.zeros((MINIBATCH_ROWS, STEPS + 1, 1), np.float32),
            "last_action": rng.integers(0, 9, (MINIBATCH_ROWS, STEPS + 1)),
        }
    )
    actions = torch.from_numpy(rng.integers(0, 9, (MINIBATCH_ROWS, STEPS)))
    nothing = torch.zeros(MINIBATCH_ROWS, STEPS, dtype=torch.bool)
    rewards = clip_reward(torch.zeros(MINIBATCH_ROWS, STEPS), net.reward_clip)

    def learn() -> None:
        with precision():
            loss = loss_of(
                net(batch, start, torch.zeros(MINIBATCH_ROWS, STEPS + 1, dtype=torch.bool))
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def loss_of(out: ActorCriticOutput) -> torch.Tensor:
        policy = net.distribution(out.policy[:, :-1])
        log_probs = policy.log_prob(actions)
        targets, advantages = vtrace(
            log_rho=torch.zeros_like(log_probs),
            rewards=rewards,
            values=out.value.detach(),
            terminateds=nothing,
            ignored=nothing,
            gamma=0.98,
        )
        loss = -(log_probs * advantages).mean() - 0.01 * policy.entropy().mean()
        return loss + (out.value[:, :-1] - targets).square().mean() + sum(out.losses.values())

    micro = 1e6
    costs = {
        "environment": cpu_per_call(lambda: env.step(rng.integers(0, 9, ROWS)), seconds) / ROWS,
        "acting": cpu_per_call(act, seconds) / ROWS,
        "learning": cpu_per_call(learn, seconds) / (MINIBATCH_ROWS * STEPS),
    }
    env.close()
    return {name: cost * micro for name, cost in costs.items()}


def _cpu_seconds() -> float:
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times = process.cpu_times()
            total += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return total


def end_to_end(memory: str, seconds: float, halves: bool) -> dict[str, float]:
    """Steps per second and CPU-microseconds per step of a real training run, start-up left out."""
    with ray_session(1):
        algo = (
            MemoryIMPALAConfig()
            .environment(ENV, env_config={"engine": "embedded"})
            .memory(memory, d_model=128, **MEMORIES[memory])
            .env_runners(
                num_env_runners=1,
                num_envs_per_env_runner=ROWS,
                rollout_fragment_length=STEPS,
            )
            .training(
                train_batch_size_per_learner=ROWS * STEPS,
                minibatch_size=MINIBATCH_ROWS * STEPS,
                mixed_precision=halves,
            )
            .reporting(min_time_s_per_iteration=1)
            .debugging(seed=0, log_level="ERROR")
            .build_algo()
        )
        while algo.train()["ct_rl"].get("updates", 0) < 5:
            pass
        steps, cpu, begun = algo.steps, _cpu_seconds(), time.monotonic()
        while time.monotonic() - begun < seconds:
            algo.train()
        wall, used, done = time.monotonic() - begun, _cpu_seconds() - cpu, algo.steps - steps
        state_bytes = algo.train()["ct_rl"]["memory_bytes_per_runner"]
        algo.stop()
    return {
        "steps_per_second": done / wall,
        "cpu_us_per_step": used / done * 1e6,
        "acting_state_bytes": state_bytes,
    }


def stock_end_to_end(memory: str, seconds: float) -> dict[str, float]:
    """The same module, environment and machine under RLlib's own IMPALA: its runner, connectors and learner."""
    with ray_session(1):
        algo = stock_config(ENV, memory, MEMORIES[memory], engine="embedded").build_algo()

        def sampled() -> int:
            return int(algo.train().get("num_env_steps_sampled_lifetime", 0))

        steps = sampled()
        while steps < 4 * STOCK_ROWS * STOCK_STEPS:
            steps = sampled()
        cpu, begun, done = _cpu_seconds(), time.monotonic(), steps
        while time.monotonic() - begun < seconds:
            done = sampled()
        wall, used = time.monotonic() - begun, _cpu_seconds() - cpu
        algo.stop()
    return {
        "steps_per_second": (done - steps) / wall,
        "cpu_us_per_step": used / max(1, done - steps) * 1e6,
    }


class _Slow(gym.Env):
    """An environment that sleeps: while it does, a driver has nothing to do."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        time.sleep(0.05)
        return np.zeros(2, np.float32), 0.0, False, False, {}


def idle_driver(seconds: float) -> float:
    """CPU seconds of the driver's process per second of waiting for a slow environment."""
    with ray_session(1):
        register_env("slow", lambda _: _Slow())
        algo = (
            MemoryIMPALAConfig()
            .environment("slow")
            .memory("gru", d_model=16, hidden=16)
            .env_runners(num_env_runners=1, rollout_fragment_length=40)
            .training(train_batch_size_per_learner=40)
            .reporting(min_time_s_per_iteration=1)
            .debugging(log_level="ERROR")
            .build_algo()
        )
        algo.train()
        cpu, begun = time.process_time(), time.monotonic()
        while time.monotonic() - begun < seconds:
            algo.train()
        share = (time.process_time() - cpu) / (time.monotonic() - begun)
        algo.stop()
    return share


def measure(memory: str, seconds: float, halves: bool = False) -> dict[str, Any]:
    """One row of the table."""
    parts = part_costs(memory, seconds / 6, halves)
    whole = end_to_end(memory, seconds, halves)
    own = sum(parts.values())
    return {
        "memory": memory,
        "precision": "bfloat16" if halves else "float32",
        "parts_us": parts,
        **whole,
        "rllib_us": whole["cpu_us_per_step"] - own,
        "end_to_end_over_parts": whole["cpu_us_per_step"] / own,
    }


def of_checkout(tree: Path, seconds: float) -> dict[str, Any]:
    """What another checkout's own benchmark finds: its commit and rows."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        words = [sys.executable, "benchmarks/throughput.py", "--seconds", str(seconds), "--out", str(out)]  # fmt: skip
        subprocess.run(words, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, check=True)
        found = json.loads(out.read_text())
    return {"commit": found["commit"], "rows": found["rows"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="of each end-to-end run")
    parser.add_argument("--beside", type=Path, help="another checkout, measured first")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/throughput.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    before = (
        of_checkout(arguments.beside.resolve(), arguments.seconds) if arguments.beside else None
    )
    rows = [
        measure(memory, arguments.seconds)
        | {"stock": stock_end_to_end(memory, arguments.seconds), "shipped": shipped(memory, sizes)}
        for memory, sizes in MEMORIES.items()
    ]
    in_halves = [measure(memory, arguments.seconds, True) for memory in MEMORIES if has_bfloat16()]
    idle = idle_driver(arguments.seconds / 2)
    print(
        f"{'memory':22}{'env':>8}{'act':>8}{'learn':>8}{'RLlib':>8}{'total':>8}  us/step   steps/s  total/parts"
    )
    for row in rows + in_halves:
        parts, name = row["parts_us"], f"{row['memory']}, {row['precision']}"
        print(
            f"{name:22}{parts['environment']:8.0f}{parts['acting']:8.0f}{parts['learning']:8.0f}"
            f"{row['rllib_us']:8.0f}{row['cpu_us_per_step']:8.0f}{row['steps_per_second']:19.0f}"
            f"{row['end_to_end_over_parts']:13.2f}"
        )
    for row in rows:
        stock, path = row["stock"], row["shipped"]
        print(
            f"{row['memory']:12} stock RLlib: {stock['cpu_us_per_step']:.0f} us/step, "
            f"{stock['steps_per_second']:.0f} steps/s; state {path['state_bytes_per_step']:,.0f} bytes/step "
            f"against {path['stock_state_bytes_per_step']:,.0f} ({path['stock_over_ours']:.0f} times); "
            f"without loss {path['batch_share_without_loss']:.0%} against "
            f"{path['stock_batch_share_without_loss']:.0%} of a batch"
        )
    print(f"a driver that waits uses {idle:.1%} of one core")
    # By CPU time: on a shared machine steps per second tell who else was at work.
    ratio = rows[1]["cpu_us_per_step"] / rows[0]["cpu_us_per_step"]
    print(f"{rows[0]['memory']} over {rows[1]['memory']}: {ratio:.2f} of its steps per CPU second")
    arguments.out.write_text(
        json.dumps(
            {
                "command": f"python benchmarks/throughput.py --seconds {arguments.seconds:g}"
                + (" --beside BEFORE" if before else ""),
                "commit": commit(),
                "machine": machine(),
                "load": os.getloadavg()[2],
                "sizes": {
                    "rows": ROWS,
                    "fragment": STEPS,
                    "frame": [72, 96, 3],
                    **MEMORIES,
                    "stock_rows": STOCK_ROWS,
                    "stock_fragment": STOCK_STEPS,
                },
                "rows": rows + in_halves,
                "compressive_over_lstm": ratio,
                "idle_driver_cpu_share": idle,
                **({"before": before} if before else {}),
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
