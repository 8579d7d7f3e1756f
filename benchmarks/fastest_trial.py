"""The fastest trials that there are on the embedded level, found by search over its dynamics' own state.

    python benchmarks/fastest_trial.py [--beam 3000] [--out benchmarks/fastest_trial.json]

A trial is two walks, from the spawn to the pad and from the arrival to the right object, and each begins in a state
that is always the same but for this: where in an agent step of four frames it begins, with which action, and which of
the engine's three frame lengths is next. So every walk is searched once for each such beginning (a beam over
position, velocity and yaw, in steps of the action set), and walks are joined to trials and trials to an episode of 720
frames exactly. A beam may miss a faster walk: what it finds is possible, what it does not find is not proven
impossible. The sequences found are then played in the real vector environment, frame by frame. This is the
embedded level; nothing was played on the real engine.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from provenance import commit, machine

import envs
from envs.actions import action_names, action_vectors
from envs.room.dynamics import PAD_FRAMES, RoomWorlds
from envs.room.layout import PAD_REACH, PICKUP
from envs.room.settings import RoomSettings
from envs.seeding import world_seeds

REPEAT, FRAMES = 4, 720
LEFT, RIGHT = 0, 1
SLACK = 6  # frames later than the fastest that a walk's other ends are kept for
_STATE = ("x", "y", "z", "vx", "vy", "vz", "yaw", "trial_frame", "on_pad", "floor", "room")
_MOMENTUM = 0.15  # seconds for which the present velocity counts as way already made

Steps = tuple[int, ...]  # actions of the agent steps that a walk chooses


@dataclass(frozen=True)
class Start:
    """How a walk begins: `frames` are left of the agent step, played with the action `held`, or any where None.

    `side` is that of the right object, None for the walk to the pad; `phase` the engine frame (0 to 2) at the arrival.
    """

    frames: int = REPEAT
    held: int | None = None
    side: int | None = None
    phase: int = 0


@dataclass
class Ends:
    """Where walks from a start end: steps chosen, by (frame of the reward from 1, action held then or None if free)."""

    by: dict[tuple[int, int | None], Steps] = field(default_factory=dict)

    def add(self, frame: int, action: int | None, steps: Steps) -> None:
        self.by.setdefault((frame, action), steps)

    @property
    def first(self) -> int:
        return min(frame for frame, _ in self.by)


class _Searched(RoomWorlds):
    """Worlds whose walk ends at the pad: `reached` instead of an arrival."""

    def __init__(self, n: int, settings: RoomSettings) -> None:
        super().__init__(n, settings)
        self.reached = np.zeros(n, bool)

    def _arrive(self, i: int) -> None:
        self.reached[i] = True


class Planner:
    """Searches walks of an action set and joins them; `beam` states are kept after each step."""

    def __init__(self, actions: str, beam: int) -> None:
        self.settings = RoomSettings(actions=actions, action_repeat=1, seconds=1e6)
        vectors = action_vectors(actions)[:, [0, 2, 3]]  # what moves a player
        self.actions = np.sort(np.unique(vectors, axis=0, return_index=True)[1])
        self.beam, self.states = beam, 0
        self._walks: dict[Start, Ends] = {}
        self._pools: dict[tuple[type, int], RoomWorlds] = {}

    def walk(self, start: Start) -> Ends:
        """Where walks from `start` end, from the fastest found to `SLACK` frames later."""
        if start not in self._walks:
            self._walks[start] = self._search(start)
        return self._walks[start]

    def _pool(self, kind: type, count: int) -> Any:
        """Worlds enough for `count`, made once."""
        size = len(self.actions)
        while size < count:
            size *= 4
        if (kind, size) not in self._pools:
            self._pools[kind, size] = kind(size, self.settings)
        return self._pools[kind, size]

    def _search(self, start: Start) -> Ends:
        ends = Ends()
        beginning = self._beginning(start)
        actions = self.actions if start.held is None else np.array([start.held])
        states = {name: values.repeat(len(actions)) for name, values in beginning.items()}
        parent = np.zeros(len(actions), np.int64)
        layers: list[tuple[np.ndarray, np.ndarray]] = []  # parents and actions of the states kept
        passed, frames = 0, start.frames
        while len(actions) and (not ends.by or passed <= ends.first + SLACK):
            worlds = self._pool(_Searched if layers else RoomWorlds, len(actions))
            left, hits = self._play(worlds, states, actions, frames, start)
            for k, frame in hits:
                path = [*self._path(layers, int(parent[k])), int(actions[k])]
                # In its first frame a step ends the walk with whatever action it has.
                free = frame == 0
                chosen = path if start.held is None else path[1:]
                ends.add(
                    passed + frame + 1,
                    None if free else path[-1],
                    tuple(chosen[:-1] if free else chosen),
                )
            states = {name: getattr(worlds, name)[left].copy() for name in _STATE}
            kept = self._best(states, start)
            layers.append((parent[left][kept], actions[left][kept]))
            passed, frames = passed + frames, REPEAT
            parent = np.arange(len(kept)).repeat(len(self.actions))
            actions = np.tile(self.actions, len(kept))
            states = {
                name: values[kept].repeat(len(self.actions)) for name, values in states.items()
            }
        return ends

    @staticmethod
    def _path(layers: list[tuple[np.ndarray, np.ndarray]], row: int) -> list[int]:
        """The actions that led to a state kept in the last layer."""
        path = []
        for parents, actions in reversed(layers):
            path.append(int(actions[row]))
            row = int(parents[row])
        return path[::-1]

    def _beginning(self, start: Start) -> dict[str, np.ndarray]:
        """The state before a walk's first frame: at the spawn, or on the pad, which takes the player in that frame."""
        worlds = RoomWorlds(1, self.settings)
        worlds.begin_episode(0)
        if start.side is not None:
            worlds.x[0], worlds.on_pad[0] = worlds.layout.pad[0], PAD_FRAMES - 1
            worlds.trial_frame[0] = start.phase
        return {name: getattr(worlds, name).copy() for name in _STATE}

    def _play(
        self,
        worlds: Any,
        states: dict[str, np.ndarray],
        actions: np.ndarray,
        frames: int,
        start: Start,
    ) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """One step of all states: which go on (rows), and which ended well, with the frame of the step from 0."""
        count, n = len(actions), worlds.n
        for name, values in states.items():
            getattr(worlds, name)[:count] = values
        room = int(states["room"][0])
        worlds.solids[:], worlds.bounds[:] = (
            worlds._solids[room][..., None],
            worlds._bounds[room][..., None],
        )
        worlds.match_side[:] = 1 - start.side if start.side is not None else 0
        worlds.finished[:] = False
        worlds.correct[:] = 0
        worlds.teleports[:] = 0
        worlds.frame[:] = 0
        if isinstance(worlds, _Searched):
            worlds.reached[:] = False
        active, padded = np.arange(n) < count, np.zeros(n, np.int64)
        padded[:count] = actions
        hits: list[tuple[int, int]] = []
        self.states += count
        for frame in range(frames):
            worlds.step(padded, active)
            if start.side is None:
                ended = worlds.reached if isinstance(worlds, _Searched) else worlds.room == 1
                good = ended
            else:
                ended, good = worlds.finished, worlds.correct > 0
            hits += [(int(k), frame) for k in np.flatnonzero(active & ended & good)]
            active = active & ~ended
        worlds.changed.clear()
        return np.flatnonzero(active[:count]), hits

    def _best(self, states: dict[str, np.ndarray], start: Start) -> np.ndarray:
        """Rows of the `beam` most promising states, one for each cell of a grid."""
        x, y, vx, vy = (states[name] for name in ("x", "y", "vx", "vy"))
        dx, dy = self._way(x, y, start)
        distance = np.hypot(dx, dy)
        along = (vx * dx + vy * dy) / np.maximum(distance, 1e-9)
        order = np.argsort(distance - _MOMENTUM * along, kind="stable")
        parts = (x + 1000, y + 1000, (vx + 1000) / 8, (vy + 1000) / 8, states["yaw"] / 100)
        cells = np.stack(parts, 1)[order].astype(np.int64)
        keys = cells @ np.array([1, 2_000, 4_000_000, 1_200_000_000, 360_000_000_000])
        firsts = np.sort(np.unique(keys, return_index=True)[1])[: self.beam]
        return order[firsts]

    def _way(self, x: np.ndarray, y: np.ndarray, start: Start) -> tuple[np.ndarray, np.ndarray]:
        """From points to the nearest one at which a walk ends."""
        worlds = self._pool(RoomWorlds, 1)
        if start.side is None:
            (px, py), reach = worlds.layout.pad, PAD_REACH
            box = px - reach, px + reach, py - reach, py + reach
        else:
            px, py = worlds.layout.choice_stands[start.side]
            x0, x1, y0, y1 = PICKUP
            box = px - x1, px - x0, py - y1, py - y0
        return np.clip(x, box[0], box[1]) - x, np.clip(y, box[2], box[3]) - y

    def trials(self, sides: tuple[int, ...]) -> list[tuple[int, int, Steps]]:
        """The earliest that the trials of an episode can end in: for each (frame of +1, of +10, actions until then).

        `sides` are those of the right objects. The actions are whole agent steps from the episode's begin.
        """
        best: list[tuple[int, int, Steps]] = []
        # Begins of a walk by (frames passed, start): frame of the last +1, and the actions so far.
        begins: dict[tuple[int, Start], tuple[int, Steps]] = {(0, Start()): (0, ())}
        for side in sides:
            arrivals: dict[tuple[int, Start], tuple[int, Steps]] = {}
            for (passed, start), (_, steps) in begins.items():
                for (frame, action), more in self.walk(start).by.items():
                    at = passed + frame  # the frame of the +1, in which the player moves on
                    left = REPEAT - (at - 1) % REPEAT
                    then = Start(left, action, side, (frame - 1) % 3)
                    arrivals.setdefault((at - 1, then), (at, steps + more))
            arrivals = _earliest(arrivals)
            begins, ended = {}, []
            for (passed, start), (pad, steps) in arrivals.items():
                for (frame, action), more in self.walk(start).by.items():
                    at = passed + frame
                    done = steps + more
                    ended.append((at, pad, done))
                    left = REPEAT - (at + 1) % REPEAT  # the frame after it is at the spawn
                    free = action is None or left >= 3
                    begin = Start(left, None if free else action)
                    begins.setdefault((at + 1, begin), (pad, done))
            begins = _earliest(begins)
            at, pad, done = min(ended)
            best.append((pad, at, done))
        return best


def _earliest(nodes: dict[tuple[int, Start], Any]) -> dict[tuple[int, Start], Any]:
    first = min(passed for passed, _ in nodes)
    return {node: what for node, what in nodes.items() if node[0] <= first + SLACK}


def sides_of(seed: int, count: int) -> tuple[int, ...]:
    """On which side the right object of the first trials stands in an episode of one world reset with `seed`."""
    worlds = RoomWorlds(1, RoomSettings())
    worlds.seed(0, world_seeds(seed, 1)[0])
    worlds.begin_episode(0)
    sides = [1 - int(worlds.match_side[0])]
    while len(sides) < count:
        worlds._begin_trial(0)
        sides.append(1 - int(worlds.match_side[0]))
    return tuple(sides)


def replay(actions: str, seed: int, steps: Steps, repeat: int) -> tuple[list[int], float]:
    """Plays agent steps in the real vector environment: frames (or steps, if `repeat` is 4) rewarded, and the return.

    With `repeat` 1 every action is given for four frames, one after another.
    """
    env = envs.make_vec(
        "dmlab_rooms_select",
        1,
        engine="embedded",
        renderer="cpu",
        height=4,
        width=4,
        actions=actions,
        action_repeat=repeat,
    )
    env.reset(seed=seed)
    rewarded, total = [], 0.0
    for k, action in enumerate(np.repeat(steps, REPEAT // repeat)):
        reward, ended = (values[0] for values in env.step(np.array([action]))[1:3])
        total += float(reward)
        if reward:
            rewarded.append(k + 1)
        if ended:
            break
    env.close()
    return rewarded, total


def measure(actions: str, beam: int, trials: int, seed: int) -> dict[str, Any]:
    """What an action set makes possible; raises RuntimeError where the environment does not play it as planned."""
    begun, planner = time.process_time(), Planner(actions, beam)
    names = action_names(actions)
    row: dict[str, Any] = {"actions": actions, "beam": beam, "first_trial": {}, "episodes": {}}
    for name, side in (("left", LEFT), ("right", RIGHT)):
        pad, end, steps = planner.trials((side,))[0]
        row["first_trial"][name] = {
            "pad_frame": pad,
            "choice_frame": end,
            "agent_steps": -(-end // REPEAT),
            "actions": [names[k] for k in steps],
        }
    drawn = sides_of(seed, trials)
    for name, sides in (
        ("all left", (LEFT,) * trials),
        ("all right", (RIGHT,) * trials),
        (f"seed {seed}", drawn),
    ):
        found = planner.trials(sides)
        row["episodes"][name] = {
            "pad_frames": [pad for pad, _, _ in found],
            "choice_frames": [end for _, end, _ in found],
            "possible_return": sum(1 for pad, _, _ in found if pad <= FRAMES)
            + sum(10 for _, end, _ in found if end <= FRAMES),
        }
    steps = planner.trials(drawn)[-1][2]
    steps = (steps + (int(planner.actions[0]),) * (FRAMES // REPEAT))[: FRAMES // REPEAT]
    row["replay"] = _proof(actions, seed, steps, planner.trials(drawn))
    row["states_searched"], row["cpu_seconds"] = planner.states, time.process_time() - begun
    return row


def _proof(
    actions: str, seed: int, steps: Steps, planned: list[tuple[int, int, Steps]]
) -> dict[str, Any]:
    """The last plan played, frame by frame and in agent steps."""
    frames, total = replay(actions, seed, steps, 1)
    in_steps, total_4 = replay(actions, seed, steps, REPEAT)
    last = planned[-1]
    expected = [frame for frame in (last[0], last[1]) if frame <= FRAMES]
    if total != total_4 or in_steps != [-(-frame // REPEAT) for frame in frames]:
        raise RuntimeError("single frames and agent steps of four give different rewards")
    before = 2 * (len(planned) - 1)
    if frames[before : before + 2] != expected:
        raise RuntimeError(f"planned {expected}, but the environment rewards {frames}")
    return {
        "seed": seed,
        "rewarded_frames": frames,
        "return": total,
        "actions": [action_names(actions)[k] for k in steps],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--beam", type=int, default=3000, help="states kept after each step")
    parser.add_argument("--trials", type=int, default=7, help="trials of an episode")
    parser.add_argument("--seed", type=int, default=0, help="of the episode that is played")
    parser.add_argument("--actions", nargs="+", default=["impala", "extended"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/fastest_trial.json"))
    arguments = parser.parse_args()
    report = {
        "command": f"python benchmarks/fastest_trial.py --beam {arguments.beam} "
        f"--trials {arguments.trials} --seed {arguments.seed} --actions {' '.join(arguments.actions)}",
        "commit": commit(),
        "machine": machine("one core"),
        "engine": "embedded",
        "straight_play": {"pad_frame": 56, "choice_frame": 111, "agent_steps": 28},
        "sets": [
            measure(name, arguments.beam, arguments.trials, arguments.seed)
            for name in arguments.actions
        ],
    }
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    show(report)


def show(report: dict[str, Any]) -> None:
    """Prints the table."""
    print(
        "the embedded level; frames are those of the rewards, counted from 1; straight play: 56, 111"
    )
    for row in report["sets"]:
        print(
            f"{row['actions']}: {row['states_searched']:,} states, {row['cpu_seconds']:.0f} CPU-s"
        )
        for side, trial in row["first_trial"].items():
            print(
                f"  one trial, object {side:6} pad {trial['pad_frame']:3}  choice {trial['choice_frame']:3}"
                f"  {trial['agent_steps']} agent steps"
            )
        for name, episode in row["episodes"].items():
            print(
                f"  episode, {name:10} choices {episode['choice_frames']}, "
                f"return {episode['possible_return']} in {FRAMES} frames"
            )
        played = row["replay"]
        print(
            f"  played, seed {played['seed']}: rewards in frames {played['rewarded_frames']}, "
            f"return {played['return']:g}"
        )


if __name__ == "__main__":
    main()
