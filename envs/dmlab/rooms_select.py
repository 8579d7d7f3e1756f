"""What the rewards of `rooms_select_nonmatching_object` tell of its trials: the engine itself tells nothing."""

from __future__ import annotations

import numpy as np

EPISODE_METRICS = ("teleports", "trials", "correct", "wrong")


class TrialCounts:
    """Counts of N worlds' running episodes, read off their rewards: +1 teleport, +10 right and -10 wrong object."""

    def __init__(self, num_envs: int):
        self.room = np.ones(num_envs, np.int64)
        self.teleports, self.correct, self.wrong = np.zeros((3, num_envs), np.int64)

    def begin(self, i: int) -> None:
        """World i begins an episode."""
        self.room[i] = 1
        self.teleports[i] = self.correct[i] = self.wrong[i] = 0

    def add(self, i: int, reward: float) -> None:
        """World i got the reward of one step, which is too short for two events of a kind."""
        teleports = round(reward) % 10
        choice = round(reward) - teleports
        self.teleports[i] += teleports
        self.correct[i] += choice > 0
        self.wrong[i] += choice < 0
        if teleports:
            self.room[i] = 2
        if choice:
            self.room[i] = 1

    def info(self) -> dict[str, np.ndarray]:
        """The room task's info, as far as rewards tell it."""
        trials = self.correct + self.wrong
        counts = {"teleports": self.teleports, "correct": self.correct, "wrong": self.wrong}
        info = {"room": self.room, "trial": trials, "trials": trials, **counts}
        return {key: value.copy() for key, value in info.items()}
