"""How well a linear read-out names room 1's object from an encoder's features: what an encoder tells apart.

    python benchmarks/encoder_probe.py                       # untrained encoders, a minute on one core
    python benchmarks/encoder_probe.py --runs runs/a runs/b  # the encoders of trained agents beside them

A scripted player with a fifth of its actions random walks the level as it is. Of the frames in which the example is in
view, those of three episodes in four fit a ridge regression onto the 36 objects, those of the fourth test it. Chance
is 0.03. Features that name the object are what a memory needs to keep, long before returns show it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from provenance import commit, machine
from torch import Tensor, nn

import envs
from agents.encoders import build_encoder, encoder_names
from ct_rl import load_agent
from envs.room.scripted import ScriptedPlayer

CROP, WIDTH = (8, 0), 256
WORLDS, STEPS, SEED = 32, 2000, 5
RIDGE = 30.0


def frames_with_example(steps: int, seed: int = SEED) -> dict[str, np.ndarray]:
    """Frames uint8 [N, H, W, C] of room 1 with the example in view, their object [N], and their episode [N]."""
    env = envs.make_vec("dmlab_rooms_select", WORLDS, engine="embedded", stagger=True)
    player = ScriptedPlayer(env.action_names, "guess", seed=seed)
    _, infos = env.reset(seed=seed)
    random = np.random.default_rng(seed)
    kept: dict[str, list[Any]] = {"frame": [], "object": [], "episode": []}
    ended = np.zeros(WORLDS, int)
    for _ in range(steps):
        actions = player.act(infos)
        wild = random.random(WORLDS) < 0.2
        actions = np.where(wild, random.integers(0, len(env.action_names), WORLDS), actions)
        observation, _, over, _, infos = env.step(actions)
        ended += over
        # The stands leave the view at x = -88; looking aside shows walls alone.
        in_view = (infos["room"] == 1) & (infos["position"][:, 0] < -112)
        in_view &= (abs(infos["yaw"]) < 40) & (random.random(WORLDS) < 0.35)
        for i in np.flatnonzero(in_view):
            kept["frame"].append(observation["frame"][i])
            kept["object"].append(infos["match"][i])
            kept["episode"].append(ended[i] * WORLDS + i)
    env.close()
    return {key: np.array(values) for key, values in kept.items()}


@torch.no_grad()
def named(encoder: nn.Module, data: dict[str, np.ndarray]) -> float:
    """Share of the test frames whose object the read-out names."""
    frames = torch.from_numpy(data["frame"])
    features = torch.cat([encoder(part) for part in frames.split(256)]).double()
    objects, test = (
        torch.from_numpy(data["object"]).long(),
        torch.from_numpy(data["episode"]) % 4 == 0,
    )
    features = (features - features[~test].mean(0)) / (features[~test].std(0) + 1e-3)
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    fit = features[~test]
    targets: Tensor = torch.nn.functional.one_hot(objects, 36).double()[~test]
    square = fit.T @ fit + RIDGE * torch.eye(fit.shape[1])
    read_out = torch.linalg.solve(square, fit.T @ targets)
    return float(((features[test] @ read_out).argmax(1) == objects[test]).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", nargs="*", default=[], help="folders that ct_rl.load_agent reads")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of each of 32 worlds")
    parser.add_argument("--seeds", type=int, default=3, help="of each untrained encoder's weights")
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".json")))
    given = parser.parse_args()
    data = frames_with_example(given.steps)
    space = envs.make_vec("dmlab_rooms_select", 1, engine="embedded").single_observation_space
    rows = []
    for name in encoder_names():
        shares = []
        for seed in range(given.seeds):
            torch.manual_seed(seed)
            shares.append(named(build_encoder(space["frame"], name, WIDTH, CROP), data))
        rows.append({"encoder": name, "trained": 0, "named": shares})
    for folder in given.runs:
        agent = load_agent(folder)
        encoder = agent.net.encoder.parts["frame"]
        rows.append({"encoder": Path(folder).name, "trained": agent.description["steps"],
                     "named": [named(encoder, data)]})  # fmt: skip
    print(f"{len(data['frame'])} frames; commit {commit()}; {machine('one core')}")
    print(f"{'encoder':24} {'agent steps':>12} {'named':>7}")
    for row in rows:
        print(f"{row['encoder']:24} {row['trained']:12,} {statistics.mean(row['named']):7.3f}")
    result = {
        "command": " ".join(["python", "benchmarks/encoder_probe.py", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine("one core"),
        "frames": len(data["frame"]),
        "rows": rows,
    }
    Path(given.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
