"""What a choice needs, with the answer given: features that can be compared, a memory, a head, a loss.

    python benchmarks/choice_probe.py [--steps 8000] [--seeds 2] [--part sizes]      # about 25 minutes on one core

A scripted player with 15% of its actions random walks the level as it is and guesses in room 2. What it saw is turned
into features of untrained encoders once. A network is then told on every step in room 2 which side is right, and
asked before it is told: chance is 0.5. No reinforcement learning, so that what stays at chance here cannot be learned
from rewards either.

`frames`: one frame of room 1 and one of room 2 of the same trial, side by side, no memory; how often a network with
one hidden layer is right on fresh trials after each pass over the others.
`memory`: everything step by step through a memory, from fragment to fragment; how often it is right on what it has
not learned from yet.
`sizes`: the same through one layer of the compressive memory, at sizes whose reach only the rate changes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
import torch.nn.functional as F
from provenance import commit, machine
from torch import Tensor, nn

import envs
from agents.auxiliary import Experience, Sizes, build_auxiliary
from agents.encoders import SmallEncoder
from agents.encoders.spots import Spots
from agents.rewards import reward_features
from ct_rl.memory import build_memory
from ct_rl.plain_files import write_atomically
from envs.room.scripted import ScriptedPlayer

WORLDS, FRAGMENT, ROWS, EPOCHS, LR = 32, 60, 16, 2, 5e-4
HIDDEN, BILINEAR, PASSES = 256, 64, 4
CROP = slice(8, 64)  # the display
MEMORIES: dict[str, dict[str, Any]] = {
    "compressive": {
        "rate": 4, "window": 12, "memory": 16, "compressed": 16, "d_model": 128, "n_layers": 2, "n_heads": 4,
    },
    "lstm": {"d_model": 128, "hidden": 256},
}  # fmt: skip
ONE_LAYER = {"d_model": 128, "n_layers": 1, "n_heads": 4}
SIZES: list[dict[str, Any]] = [
    {"rate": rate, "window": 4, "memory": memory, "compressed": compressed}
    for memory, compressed in ((0, 4), (4, 8))
    for rate in (1, 2, 4)
]


def strongest(spots: Spots, frames: Tensor) -> Tensor:
    """The strongest answers [N, F, K] before their median is taken away."""
    found = []
    for frame in frames.float() / 255:  # one at a time: its answers stay in the cache
        columns = (frame @ spots.weight.T).unflatten(1, (spots.columns, -1))  # (H, K, w, F)
        found.append(columns.amax(2).amax(0).T)
    return torch.stack(found)


@torch.no_grad()
def record(steps: int, seed: int) -> dict[str, Tensor]:
    """What WORLDS worlds showed in `steps` steps, as features [WORLDS, steps, ...], and what was right."""
    env = envs.make_vec(
        "dmlab_rooms_select", WORLDS, engine="embedded", stagger=True, spawn=[-232.0, -170.0]
    )
    torch.manual_seed(0)
    space = env.single_observation_space["frame"]
    spots = Spots(3)
    small = SmallEncoder(type(space)(0, 255, (56, 96, 3), np.uint8), 256)
    player = ScriptedPlayer(env.action_names, "guess", seed=seed)
    random = np.random.default_rng(seed)
    obs, infos = env.reset(seed=seed)
    begins, ended = np.ones(WORLDS, bool), np.zeros(WORLDS, bool)
    kept: dict[str, list[Any]] = {name: [] for name in ("raw", "small", "beside", "begins", "room")}
    kept |= {"left": [], "in_view": []}
    for _ in range(steps):
        frames = torch.from_numpy(obs["frame"][:, CROP])
        kept["raw"].append(strongest(spots, frames).half())
        kept["small"].append(small(frames).half())
        action = F.one_hot(torch.from_numpy(obs["last_action"]).long(), len(env.action_names))
        reward = reward_features(torch.from_numpy(obs["last_reward"]).float())
        kept["beside"].append(torch.cat([action.float(), reward], -1))
        kept["begins"].append(torch.from_numpy(begins))
        kept["room"].append(torch.from_numpy(infos["room"].copy()))
        kept["left"].append(torch.from_numpy(infos["match_side"] == "left"))
        view = (abs(infos["yaw"]) < 40) & ((infos["room"] == 2) | (infos["position"][:, 0] < -112))
        kept["in_view"].append(torch.from_numpy(view))
        wild = random.random(WORLDS) < 0.15
        actions = np.where(
            wild, random.integers(0, len(env.action_names), WORLDS), player.act(infos)
        )
        obs, _, terminated, truncated, infos = env.step(actions)
        begins, ended = ended, terminated | truncated
    env.close()
    return {name: torch.stack(values, 1) for name, values in kept.items()}


def features(data: dict[str, Tensor], kind: str) -> Tensor:
    """float32 [WORLDS, steps, F] of `small`, `strongest` or `spots`."""
    if kind == "small":
        return data["small"].float()
    raw = data["raw"].float()
    if kind == "spots":
        raw = raw - raw.median(-1, keepdim=True).values
    return raw.flatten(2)


class Head(nn.Module):
    """Which side is right, from what is held and what is seen: one hidden layer, products beside if asked for."""

    def __init__(self, held: int, seen: int, bilinear: bool):
        super().__init__()
        self.held = nn.Linear(held, BILINEAR) if bilinear else None
        self.seen = nn.Linear(seen, BILINEAR) if bilinear else None
        read = held + seen + (BILINEAR if bilinear else 0)
        self.layers = nn.Sequential(nn.Linear(read, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))

    def forward(self, held: Tensor, seen: Tensor) -> Tensor:
        parts = [held, seen]
        if self.held is not None and self.seen is not None:
            parts.append(self.held(held) * self.seen(seen))
        return self.layers(torch.cat(parts, -1))


def pairs(data: dict[str, Tensor], seed: int) -> tuple[Tensor, ...]:
    """World, step in room 1, step in room 2 of every trial in which the example was in view."""
    random = np.random.default_rng(seed)
    room, view, begins = (data[name].numpy() for name in ("room", "in_view", "begins"))
    found = []
    for world in range(len(room)):
        seen: list[int] = []
        inside = 0
        for step in range(room.shape[1]):
            if begins[world, step]:
                seen, inside = [], 0
            if room[world, step] == 1:
                if inside:
                    seen, inside = [], 0
                if view[world, step]:
                    seen.append(step)
            elif seen and view[world, step]:
                inside += 1
                if inside == 4:
                    found.append((world, int(random.choice(seen)), step))
    table = torch.tensor(found)[torch.from_numpy(random.permutation(len(found)))]
    return table[:, 0], table[:, 1], table[:, 2]


def from_frames(data: dict[str, Tensor], kind: str, bilinear: bool, seed: int) -> list[float]:
    """Share of right answers on the sixth of the trials that was kept apart, after each pass over the rest."""
    world, then, now = pairs(data, seed)
    x = features(data, kind)
    one, other = x[world, then], x[world, now]
    left = data["left"][world, now].long()
    torch.manual_seed(seed)
    head = Head(one.shape[-1], other.shape[-1], bilinear)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    kept = len(left) // 6
    shares = []
    for _ in range(PASSES):
        for index in (kept + torch.randperm(len(left) - kept)).split(64):
            loss = F.cross_entropy(head(one[index], other[index]), left[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            answer = head(one[:kept], other[:kept]).argmax(-1)
        shares.append(round((answer == left[:kept]).double().mean().item(), 3))
    return shares


class Told(nn.Module):
    """Features through a memory to the answer."""

    def __init__(self, width: int, core: Any, bilinear: bool, recall: bool, space: Any):
        super().__init__()
        self.core = core
        self.inlet = nn.Linear(width, self.core.d_model)
        self.norm = nn.LayerNorm(self.core.d_out)
        self.head = Head(self.core.d_out, width, bilinear)
        sizes = Sizes(width, self.core.d_out, space, space)
        self.recall = build_auxiliary("recall", sizes, {"horizon": 30}) if recall else None

    def forward(
        self, x: Tensor, state: dict[str, Tensor], begins: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        out = self.core(self.inlet(x), state, begins)
        loss = sum(out.losses.values(), torch.zeros(()))
        if self.recall is not None:
            nothing = torch.zeros_like(begins)
            seen = Experience(x, x, out.y, x, x[..., 0], resets=begins, ignored=nothing)
            loss = loss + 0.5 * self.recall(seen)
        return self.head(self.norm(out.y), x), out.state, loss


def through_memory(
    data: dict[str, Tensor],
    kind: str,
    memory: str,
    sizes: dict[str, Any],
    bilinear: bool,
    recall: bool,
    seed: int,
) -> list[float]:
    """Share of right answers in every 48,000 steps, each asked before it is learned from."""
    torch.manual_seed(seed)
    x = torch.cat([features(data, kind), data["beside"]], -1)
    core = build_memory(memory, **sizes)
    net = Told(x.shape[-1], core, bilinear, recall, None)
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, eps=1e-5)
    state, shares, block = net.core.initial_state(WORLDS), [], []
    for start in range(0, x.shape[1] - FRAGMENT + 1, FRAGMENT):
        here = slice(start, start + FRAGMENT)
        given, begins = x[:, here], data["begins"][:, here]
        left, asked = data["left"][:, here].long(), data["room"][:, here] == 2
        before = {key: value.clone() for key, value in state.items()}
        with torch.no_grad():
            answers, state, _ = net(given, before, begins)
        block.append(((answers.argmax(-1) == left) & asked).sum().item() / asked.sum().item())
        for _ in range(EPOCHS):
            for rows in torch.randperm(WORLDS).split(ROWS):
                part = {key: value[rows] for key, value in before.items()}
                answers, _, loss = net(given[rows], part, begins[rows])
                told = asked[rows]
                loss = loss + F.cross_entropy(answers[told], left[rows][told])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), 40.0)
                optimizer.step()
        if len(block) == 25:
            shares.append(round(sum(block) / len(block), 3))
            block = []
    return shares


FRAMES = [
    ("small", False),
    ("small", True),
    ("strongest", False),
    ("spots", False),
    ("spots", True),
]
MEMORY = [
    ("spots", "compressive", False, False),
    ("spots", "compressive", True, False),
    ("spots", "compressive", True, True),
    ("strongest", "compressive", True, True),
    ("small", "compressive", True, True),
    ("spots", "lstm", True, True),
]


def frames_rows(data: dict[str, Tensor], seed: int) -> Iterator[dict[str, Any]]:
    for kind, bilinear in FRAMES:
        right = from_frames(data, kind, bilinear, seed)
        yield {"features": kind, "bilinear": bilinear, "right": right}


def memory_rows(data: dict[str, Tensor], seed: int) -> Iterator[dict[str, Any]]:
    for kind, memory, bilinear, recall in MEMORY:
        right = through_memory(data, kind, memory, MEMORIES[memory], bilinear, recall, seed)
        row = {"features": kind, "memory": memory, "bilinear": bilinear, "recall": recall}
        yield row | {"right": right}


def sizes_rows(data: dict[str, Tensor], seed: int) -> Iterator[dict[str, Any]]:
    for sizes in SIZES:
        reach = build_memory("compressive", **ONE_LAYER, **sizes).context_length
        right = through_memory(data, "spots", "compressive", ONE_LAYER | sizes, True, True, seed)
        yield {**sizes, "reach": reach, "right": right}


PARTS = {"frames": frames_rows, "memory": memory_rows, "sizes": sizes_rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=8000, help="steps of each of 32 worlds")
    parser.add_argument("--seeds", type=int, default=2, help="of players, worlds and weights")
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="of the three; the others stay as they are"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    parts = given.part or list(PARTS)
    result = json.loads(given.out.read_text()) if given.out.exists() else {}
    made: dict[str, list[dict[str, Any]]] = {part: [] for part in parts}
    for seed in range(1, given.seeds + 1):
        data = record(given.steps, seed)
        for part in parts:
            for row in PARTS[part](data, seed):
                made[part].append({"seed": seed, **row})
                print(part, made[part][-1], flush=True)
                result[part] = {
                    "command": " ".join(["python", "benchmarks/choice_probe.py", *sys.argv[1:]]),
                    "commit": commit(),
                    "machine": machine("one core"),
                    "rows": made[part],
                }
                write_atomically(given.out, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
