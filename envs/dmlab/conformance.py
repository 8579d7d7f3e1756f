"""Checks the adapter against the real engine, level by level: `python -m envs.dmlab.conformance [LEVEL ...]`.

Prints a table; exit status 0 where all levels pass, 1 where one fails, 2 where deepmind_lab is missing or a level is
unknown. Every level is opened three times and played for some short episodes.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from envs.dmlab.levels import FIXED_LENGTH, LEVEL_NAMES, ROOMS_SELECT, find_level
from envs.dmlab.make import why_missing
from envs.dmlab.settings import FRAMES_PER_SECOND
from envs.dmlab.vector import LabVectorEnv

PASSED, FAILED, BAD_INPUT = 0, 1, 2
SECONDS = 2.0  # of the episodes that are played, where the level has no length of its own that cannot be set
SEED = 7


class Nonconformance(Exception):
    """A check that failed; its text says what was seen and what was expected."""


@dataclass
class Trial:
    """One level under test: two worlds under equal seeds, a level cache of their own, all fifteen actions."""

    level: str
    cache: Path
    settings: dict[str, Any]
    env: LabVectorEnv = field(init=False)

    def open(self) -> None:
        """The level starts, resets once and ends on request."""
        seconds = None if self.level in FIXED_LENGTH else SECONDS
        self.env = self._make(2, seconds=seconds, actions="extended")

    def frames(self) -> None:
        """Observations are what their space says, and show something."""
        obs, info = self.env.reset(seed=[SEED, SEED])
        _expect(obs in self.env.observation_space, "an observation is not in its space")
        _expect(np.ptp(obs["frame"]) > 0, "the first frame is of one colour")
        if "instruction" in obs:
            _expect(obs["instruction"].any(), f"the instruction is {info['instruction'][0]!r}")

    def exact(self) -> None:
        """Equal seeds and actions give equal frames and rewards, in two processes and once more."""
        first, second = (self._play(SEED) for _ in range(2))
        for t, (one, other) in enumerate(zip(first, second, strict=True)):
            for key, value in one.items():
                _expect((value[0] == value[1]).all(), f"step {t}: {key} differs between processes")
                _expect((value == other[key]).all(), f"step {t}: {key} differs when played again")

    def ends(self) -> None:
        """An episode ends by its clock with a frame, and the next one begins in the step after."""
        env, steps = self.env, self.env.settings.steps
        env.reset(seed=SEED)
        over, t = np.zeros(2, bool), 0
        while not over.any() and t < steps:
            obs, _, terminated, truncated, _ = env.step(np.full(2, 14))
            over, t = terminated | truncated, t + 1
        seconds = env.settings.frames / FRAMES_PER_SECOND
        _expect(over.any(), f"no episode of {seconds:g} s ended within {steps} steps")
        _expect(not truncated.any(), "an episode was truncated, not terminated")
        _expect(obs in env.observation_space, "the last observation is not in its space")
        obs, rewards, terminated, _, _ = env.step(np.full(2, 14))
        began = over & (rewards == 0) & (obs["last_reward"][:, 0] == 0) & ~terminated
        _expect((began == over).all(), f"no episode began in the step after step {t}")

    def cached(self) -> None:
        """A level that compiles maps keeps them and finds them again under the same seed."""
        if not find_level(self.level).compiles_maps:
            raise _NotApplicable
        self.env.reset(seed=SEED)
        files = sorted(self.cache.iterdir()) if self.cache.is_dir() else []
        _expect(bool(files), "the level compiled no map into the level cache")
        self.env.reset(seed=SEED)
        _expect(sorted(self.cache.iterdir()) == files, "the same seed compiled another map")

    def pays(self) -> None:
        """In the room task, 14 steps forward from the start lead onto the pad, which pays 1; turning is as measured."""
        if self.level != ROOMS_SELECT:
            raise _NotApplicable
        _, info = self.env.reset(seed=SEED)
        forward, right = (self.env.action_names.index(name) for name in ("forward", "look_right"))
        yaw = info["yaw"]
        for _ in range(4):
            *_, info = self.env.step(np.full(2, right))
        turned = (yaw - info["yaw"]) / 4
        _expect((abs(turned - 4.22) < 0.2).all(), f"look_right turns {turned} degrees, not 4.22")
        self.env.reset(seed=SEED)
        rewards = [self.env.step(np.full(2, forward))[1] for _ in range(15)]
        paid = [[t + 1 for t, reward in enumerate(rewards) if reward[i] == 1] for i in range(2)]
        _expect(all(len(times) == 1 for times in paid), f"15 steps forward paid {rewards}")
        _expect(all(13 <= times[0] <= 15 for times in paid), f"the pad paid in step {paid}, not 14")

    def closed(self) -> None:
        """Closing twice is harmless, ends the processes, removes their folders, and later calls say so."""
        worlds = [world for world in self.env.pool.processes if world is not None]
        self.env.close()
        self.env.close()
        for call in (self.env.reset, lambda: self.env.step(np.zeros(2, int))):
            with contextlib.suppress(RuntimeError):
                call()
                raise Nonconformance("a call after close went through")
        for world in worlds:
            _expect(world._process.poll() is not None, "a process is left")
            _expect(not world._folder.exists(), f"{world._folder} is left")

    def holdout(self) -> None:
        """The held-out variant under the mixer seed of tests starts."""
        env = self._make(1, holdout=True)
        try:
            env.reset(seed=SEED)
        finally:
            env.close()

    def _make(self, num_envs: int, **settings: Any) -> LabVectorEnv:
        settings |= {**self.settings, "level_cache": str(self.cache), "restarts": 0}
        return LabVectorEnv(self.level, num_envs, **settings)

    def _play(self, seed: int) -> list[dict[str, np.ndarray]]:
        """Half an episode of random actions, the same in both worlds."""
        rng = np.random.default_rng(seed)
        obs, _ = self.env.reset(seed=[seed, seed])
        seen = [dict(obs)]
        for _ in range(self.env.settings.steps // 2):
            obs, rewards, *_ = self.env.step(np.full(2, rng.integers(15)))
            seen.append({**obs, "reward": rewards})
        return seen


CHECKS: tuple[Callable[[Trial], None], ...] = (
    Trial.open,
    Trial.frames,
    Trial.exact,
    Trial.ends,
    Trial.cached,
    Trial.pays,
    Trial.closed,
    Trial.holdout,
)


class _NotApplicable(Exception):
    pass


def _expect(holds: Any, otherwise: str) -> None:
    if not holds:
        raise Nonconformance(otherwise)


@dataclass(frozen=True)
class Result:
    """A level's verdicts in the order of `CHECKS`: "ok", "FAIL", "-" (does not apply) or "" (not reached)."""

    level: str
    verdicts: tuple[str, ...]
    failures: tuple[str, ...]
    seconds: float


def check_level(level: str, settings: dict[str, Any]) -> Result:
    """All checks of one level under further settings; without `open` the others are not reached."""
    began = time.monotonic()
    verdicts, failures = [], []
    with tempfile.TemporaryDirectory(prefix="ct_rl-conformance-") as folder:
        trial = Trial(level, Path(folder) / "cache", settings)
        try:
            for check in CHECKS:
                verdict = "ok"
                try:
                    check(trial)
                except _NotApplicable:
                    verdict = "-"
                except Exception as error:
                    verdict = "FAIL"
                    failures.append(f"{level}: {check.__name__}: {_brief(error, level)}")
                verdicts.append(verdict)
                if verdict == "FAIL" and check is Trial.open:
                    break
        finally:
            if hasattr(trial, "env"):
                trial.env.close()
    verdicts += [""] * (len(CHECKS) - len(verdicts))
    return Result(level, tuple(verdicts), tuple(failures), time.monotonic() - began)


def _brief(error: Exception, level: str) -> str:
    text = " ".join(str(error).split()).removeprefix(f"{level}: ")
    return text if isinstance(error, Nonconformance) else f"{type(error).__name__}: {text}"


def report(results: Iterator[Result]) -> bool:
    """Prints a line a level as it comes, then what failed; gives whether nothing did."""
    width = max(map(len, LEVEL_NAMES)) + 1
    heads = [check.__name__ for check in CHECKS]
    print(f"{'level':{width}}" + "".join(f"{head:>9}" for head in heads) + f"{'seconds':>9}")
    failures, levels = [], 0
    for result in results:
        cells = "".join(f"{verdict:>9}" for verdict in result.verdicts)
        print(f"{result.level:{width}}{cells}{result.seconds:9.1f}", flush=True)
        levels += 1
        failures.append(result.failures)
    for line in (line for lines in failures for line in lines):
        print(f"FAIL {line}")
    print(f"{sum(not lines for lines in failures)} of {levels} levels pass")
    return not any(failures)


def main(words: Sequence[str]) -> int:
    """What `python -m envs.dmlab.conformance` runs; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="envs.dmlab.conformance",
        description="Check the adapter against the real deepmind_lab, level by level.",
    )
    parser.add_argument("levels", nargs="*", help="names with or without dmlab_; all 32 if absent")
    parser.add_argument("--dataset-path", help="photographs that two psychlab levels show")
    parser.add_argument("--renderer", choices=("software", "hardware"), default="software")
    given = parser.parse_args(words)
    levels = [word.removeprefix("dmlab_") for word in given.levels]
    for level in levels:
        if level not in LEVEL_NAMES:
            near = difflib.get_close_matches(level, LEVEL_NAMES, 3, 0.5)
            hint = f"did you mean {', '.join(near)}?" if near else "see docs/deepmind_lab.md"
            print(f"error: unknown level {level!r}: {hint}", file=sys.stderr)
            return BAD_INPUT
    if given.dataset_path is not None and not Path(given.dataset_path).is_dir():
        print(f"error: --dataset-path {given.dataset_path!r} is no folder", file=sys.stderr)
        return BAD_INPUT
    reason = why_missing()
    if reason is not None:
        print(f"error: {reason}", file=sys.stderr)
        return BAD_INPUT
    settings = {"renderer": given.renderer, "dataset_path": given.dataset_path}
    passed = report(check_level(level, settings) for level in levels or LEVEL_NAMES)
    return PASSED if passed else FAILED


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        os._exit(130)
