"""What a run has done so far: from the algorithm's results to one flat row a report.

Rates and means of a row are over the time since the last row; episode means over the last 100 episodes.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from ct_rl.scores import EnvFacts, episode_means, human_normalised

RECENT_EPISODES = 100
_NOT_FIGURES = ("steps", "updates", "episodes")


class Progress:
    """Counts steps, episodes and time over a run's whole life, resumes included.

    Example:
        >>> progress.add(result["ct_rl"])
        >>> row = progress.row()
    """

    def __init__(self, facts: EnvFacts):
        self.facts = facts
        self.steps = self.updates = self.episodes = 0
        self.best_episode: float | None = None
        self.best_mean: float | None = None
        self._seconds_before = 0.0
        self._recent: deque[dict[str, float]] = deque(maxlen=RECENT_EPISODES)
        self._learner: dict[str, float] = {}
        self._begun = time.monotonic()
        self._mark = (self._begun, 0)

    def add(self, report: dict[str, Any]) -> None:
        """Take in one result of the algorithm."""
        self.steps = max(self.steps, int(report.get("steps", self.steps)))
        self.updates = int(report.get("updates", self.updates))
        self._learner |= {
            key: float(value)
            for key, value in report.items()
            if key not in _NOT_FIGURES and value is not None
        }
        for episode in report.get("episodes", ()):
            self.episodes += 1
            self._recent.append(dict(episode))
            if self.best_episode is None or episode["return"] > self.best_episode:
                self.best_episode = float(episode["return"])

    @property
    def seconds(self) -> float:
        """Wall time of the whole run [seconds]."""
        return self._seconds_before + time.monotonic() - self._begun

    @property
    def score(self) -> float | None:
        """Mean return of the recent episodes, which ranks checkpoints; None before there are enough."""
        if len(self._recent) < min(RECENT_EPISODES, 20):
            return None
        return sum(episode["return"] for episode in self._recent) / len(self._recent)

    def row(self) -> dict[str, Any]:
        """The report of this moment; keys without a value yet are absent."""
        now = time.monotonic()
        since, steps = self._mark
        rate = (self.steps - steps) / (now - since) if now > since else 0.0
        self._mark = (now, self.steps)
        row: dict[str, Any] = {
            "steps": self.steps,
            "frames": self.steps * self.facts.action_repeat,
            "seconds": round(self.seconds, 2),
            "steps_per_second": round(rate, 1),
            "updates": self.updates,
            "episodes": self.episodes,
        }
        if self._recent:
            means = episode_means(self._recent, self.facts.episode_metrics)
            row |= means
            score = self.score
            if score is not None and (self.best_mean is None or score > self.best_mean):
                self.best_mean = score
            row["return_best_mean"] = self.best_mean
            row["return_best_episode"] = self.best_episode
            row["human_normalised"] = human_normalised(means["return"], self.facts.score_range)
        return {key: value for key, value in (row | self._learner).items() if value is not None}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, JSON-able."""
        return {
            "steps": self.steps,
            "updates": self.updates,
            "episodes": self.episodes,
            "seconds": self.seconds,
            "best_episode": self.best_episode,
            "best_mean": self.best_mean,
            "recent": list(self._recent),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.steps, self.updates = int(state["steps"]), int(state["updates"])
        self.episodes = int(state["episodes"])
        self.best_episode, self.best_mean = state["best_episode"], state["best_mean"]
        self._seconds_before = float(state["seconds"])
        self._recent.extend(
            {str(key): float(value) for key, value in episode.items()}
            for episode in state["recent"]
        )
        if not all("return" in episode for episode in self._recent):
            raise ValueError("an episode without a return")
        self._mark = (time.monotonic(), self.steps)
