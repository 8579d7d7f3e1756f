"""The embedded room beside the real engine: `python -m envs.dmlab.compare` plays both and prints the differences.

The same scripted and sticky random sequences are played on the embedded engine and, where `deepmind_lab` is
installed, on the real one. Elsewhere the committed recording (`recording.json`) is what the embedded room is held to.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from envs.dmlab.make import why_missing
from envs.room.make import make_rooms_select

RECORDING = Path(__file__).with_name("recording.json")
Make = Callable[..., VectorEnv]
_FORWARD, _LOOK_LEFT, _LOOK_RIGHT, _RUN_LEFT, _RUN_RIGHT, _NOTHING = 0, 4, 5, 6, 7, 8
_PAD, _LEFT_OBJECT = (64.0, -64.0), (582.0, 52.0)
_STEP_DEGREES = 8.4375  # a step of look; a half of it is not worth a turn
_SEQUENCES, _STEPS = 24, 60


def recording() -> dict[str, Any]:
    """What was measured on the real engine: `figures` by name, `reach` and `random_play`, each with its source."""
    return json.loads(RECORDING.read_text(encoding="utf-8"))


def measure(make: Make) -> dict[str, Any]:
    """The recording's `figures` as the engine of `make` has them; without `fall` where heights are not told."""
    one = Played(make(1, action_repeat=1))
    rewards = one.walk(720)
    gone = np.diff(one.xs)
    walked = gone[(one.xs[1:] < 0) & (one.xs[1:] > -150) & (gone > 0)]
    figures: dict[str, Any] = {
        "reward_frames": rewards,
        "first_frame": gone[0],
        "walk_frame": _ends(walked),
        "arrival_x": one.xs[rewards[0]],
    }
    one.close()
    four = Played(make(1, action_repeat=4))
    figures["reward_steps"] = four.walk(180)
    walked = np.diff(four.xs[:11])[5:]
    figures["walk_step"] = _ends(walked)
    four.close()
    still = Played(make(1, action_repeat=1))
    still.play([_FORWARD] * 56 + [_NOTHING] * 140)
    figures["rest_x"] = still.xs[-1]
    if still.zs:
        floor = still.zs[-1]
        fallen = next(k for k, z in enumerate(still.zs[56:], 1) if z == floor)
        figures["fall"] = [still.zs[56], floor, fallen]
    still.close()
    looking = Played(make(1, action_repeat=1))
    looking.play([_LOOK_LEFT] * 20)
    figures["look_frame"] = looking.yaws[-1] / 20
    looking.close()
    return figures


class Played:
    """One world and what it told from the reset on: x, yaw and, on the embedded engine, height."""

    def __init__(self, env: VectorEnv, seed: int = 0) -> None:
        self.env = env
        env.reset(seed=seed)  # the real engine's first reset differs a little from all later ones
        _, self._info = env.reset(seed=seed)
        self.positions: list[np.ndarray] = []
        self.yaws: list[float] = []
        self.zs: list[float] = []
        self._note()

    @property
    def xs(self) -> np.ndarray:
        return np.array(self.positions)[:, 0]

    def walk(self, steps: int) -> list[int]:
        """Walks to the pad, then to the left object, and so on; the steps that were rewarded, from 1."""
        return [k + 1 for k in range(steps) if self._step(self._way())]

    def play(self, actions: Sequence[int]) -> None:
        for action in actions:
            self._step(action)

    def close(self) -> None:
        self.env.close()

    def _way(self) -> int:
        (x, y), yaw = self.positions[-1], self.yaws[-1]
        to = _PAD if self._info["room"][0] == 1 else _LEFT_OBJECT
        turn = (np.degrees(np.arctan2(to[1] - y, to[0] - x)) - yaw + 180) % 360 - 180
        if abs(turn) > 30:
            return _LOOK_LEFT if turn > 0 else _LOOK_RIGHT
        if abs(turn) > _STEP_DEGREES / 2:
            return _RUN_LEFT if turn > 0 else _RUN_RIGHT
        return _FORWARD

    def _step(self, action: int) -> float:
        _, reward, _, _, self._info = self.env.step(np.array([action]))
        self._note()
        return float(reward[0])

    def _note(self) -> None:
        self.positions.append(np.array(self._info["position"][0], float))
        self.yaws.append(float(self._info["yaw"][0]))
        worlds = getattr(self.env, "worlds", None)
        if worlds is not None:
            self.zs.append(float(worlds.z[0]))


def random_paths(make: Make) -> np.ndarray:
    """Positions under sticky random actions, float64 [sequences, steps + 1, 2]: each kept with probability 0.8."""
    paths = []
    env = make(1, action_repeat=4)
    for sequence in range(_SEQUENCES):
        rng, action, actions = np.random.default_rng(sequence), 0, []
        for _ in range(_STEPS):
            action = action if rng.random() < 0.8 else int(rng.integers(9))
            actions.append(action)
        played = Played(env, seed=sequence)
        played.play(actions)
        paths.append(played.positions)
    env.close()
    return np.array(paths)


def gap(value: Any, recorded: Any) -> float:
    """The largest difference between two figures of one kind; infinite where their lengths differ."""
    mine, theirs = np.atleast_1d(value), np.atleast_1d(recorded)
    return float(abs(mine - theirs).max()) if mine.shape == theirs.shape else float("inf")


def _ends(values: np.ndarray) -> list[float]:
    return [float(values.min()), float(values.max())]


def _text(value: Any) -> str:
    return " ".join(f"{number:.5g}" for number in np.atleast_1d(value))


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one block a figure: recorded, embedded and, where it can be imported, real."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write what was measured, as JSON")
    arguments = parser.parse_args(argv)
    engines: dict[str, Make] = {"embedded": partial(make_rooms_select, engine="embedded")}
    if arguments.out and not arguments.out.absolute().parent.is_dir():
        parser.error(f"--out {arguments.out}: its folder is not there")
    missing = why_missing()
    if missing is None:
        engines["real"] = partial(make_rooms_select, engine="deepmind_lab")
    else:
        print(f"{missing}: the embedded room beside the recording alone")
    measured = {name: measure(make) for name, make in engines.items()}
    for name, figure in recording()["figures"].items():
        print(f"{name}: {figure['what']}\n  recorded  {_text(figure['value'])}")
        for engine, figures in measured.items():
            if name in figures:
                off = gap(figures[name], figure["value"])
                fits = "" if off <= figure["within"] else f"   OFF by {off:.3g}"
                print(f"  {engine:9} {_text(figures[name])}{fits}")
    if "real" in engines:
        ours, theirs = (random_paths(make) for make in engines.values())
        far = np.quantile(np.linalg.norm(ours - theirs, axis=-1), 0.9, axis=0)
        print(f"random: 90% distance of {_SEQUENCES} sticky random sequences, units")
        print("  " + ", ".join(f"step {k}: {far[k]:.1f}" for k in (10, 20, 40, 60)))
    if arguments.out:
        arguments.out.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
