"""Scores: what an environment's numbers mean, and their means over episodes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agents.episodes import LENGTH, RETURN, count_place, episode_counts
from ct_rl.metrics import count_key


@dataclass(frozen=True)
class EnvFacts:
    """What reports need to know of an environment, from its metadata.

    Attributes:
        action_repeat: frames an agent step lasts.
        episode_metrics: names of the counts that `info` carries.
        score_range: (random agent's, human's) mean return, or None.
        fps: agent steps a second in real time.
        engine: which engine runs, for environments that have several.
        settings: every setting of the environment with its value, where it states them.
    """

    action_repeat: int = 1
    episode_metrics: tuple[str, ...] = ()
    score_range: tuple[float, float] | None = None
    fps: float = 30.0
    engine: str | None = None
    settings: Mapping[str, Any] | None = None


def env_facts(metadata: Mapping[str, Any]) -> EnvFacts:
    """The facts that an environment's metadata states, defaults for the rest.

    Raises:
        ValueError: for counts that are no list of names, and a range of scores that is not two different numbers.
    """
    bounds = metadata.get("score_range")
    if bounds is not None:
        try:
            random, human = map(float, bounds)
        except (TypeError, ValueError):
            random = human = math.nan
        if not (math.isfinite(random) and math.isfinite(human) and random != human):
            raise ValueError(
                f"metadata['score_range'] is {bounds!r}: expected a random agent's and people's mean return, "
                "two different numbers"
            )
    return EnvFacts(
        action_repeat=int(metadata.get("action_repeat", 1)),
        episode_metrics=episode_counts(metadata),
        score_range=None if bounds is None else (random, human),
        fps=float(metadata.get("render_fps") or 30.0),
        engine=metadata.get("engine"),
        settings=metadata.get("settings"),
    )


def human_normalised(mean_return: float, score_range: tuple[float, float] | None) -> float | None:
    """100 x (mean return - random) / (human - random), in percent, uncapped; None without the range."""
    if score_range is None:
        return None
    random, human = score_range
    return 100.0 * (mean_return - random) / (human - random)


def episode_means(
    episodes: Iterable[Mapping[str, float]], metrics: tuple[str, ...] = ()
) -> dict[str, float]:
    """Means over episodes of return, length and the environment's counts; right choices among all choices.

    A count is averaged over the episodes that gave it, and absent where none did.
    """
    episodes = list(episodes)
    means: dict[str, float] = {}
    counts = [(count_place(m), count_key(m)) for m in metrics]
    for key, name in ((RETURN, RETURN), (LENGTH, LENGTH), *counts):
        given = [float(episode[key]) for episode in episodes if episode.get(key) is not None]
        if given and name not in means:
            means[name] = sum(given) / len(given)
    accuracy = choice_accuracy(episodes)
    return means if accuracy is None else means | {"choice_accuracy": accuracy}


def choice_accuracy(episodes: Iterable[Mapping[str, float]]) -> float | None:
    """Right choices among all choices of the episodes that count both; None where none was made or counted."""
    both = [(e["correct"], e["wrong"]) for e in episodes if "correct" in e and "wrong" in e]
    right, wrong = sum(pair[0] for pair in both), sum(pair[1] for pair in both)
    return right / (right + wrong) if right + wrong else None
