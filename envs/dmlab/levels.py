"""The levels of DMLab-30: what each of them needs, the scores of random play and of people, the normalised score.

Scores are those of scalable_agent's dmlab30.py; the two levels that have a training variant go by their test names.
What a level needs was measured on a build of the engine's snapshot b1db91a, or read from its level scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Level(NamedTuple):
    """A level: its name, mean returns of random play and of people, seconds, whether maps are compiled at reset."""

    name: str
    random: float
    human: float
    seconds: int
    compiles_maps: bool


DMLAB30: dict[str, Level] = {
    level.name: level
    for level in (
        Level("rooms_collect_good_objects_test", 0.073, 10, 60, False),
        Level("rooms_exploit_deferred_effects_test", 8.501, 85.65, 60, False),
        Level("rooms_select_nonmatching_object", 0.312, 65.9, 12, False),
        Level("rooms_watermaze", 4.065, 54, 120, False),
        Level("rooms_keys_doors_puzzle", 4.135, 53.8, 60, True),
        Level("language_select_described_object", -0.07, 389.5, 60, True),
        Level("language_select_located_object", 1.929, 280.7, 120, True),
        Level("language_execute_random_task", -5.913, 254.05, 120, True),
        Level("language_answer_quantitative_question", -0.33, 184.5, 60, True),
        Level("lasertag_one_opponent_small", -0.224, 12.65, 240, True),
        Level("lasertag_three_opponents_small", -0.214, 18.55, 240, True),
        Level("lasertag_one_opponent_large", -0.083, 18.6, 240, True),
        Level("lasertag_three_opponents_large", -0.102, 31.5, 240, True),
        Level("natlab_fixed_large_map", 2.173, 36.9, 120, False),
        Level("natlab_varying_map_regrowth", 2.989, 24.45, 120, False),
        Level("natlab_varying_map_randomized", 7.346, 42.35, 120, False),
        Level("skymaze_irreversible_path_hard", 0.1, 100, 60, True),
        Level("skymaze_irreversible_path_varied", 14.4, 100, 60, True),
        Level("psychlab_arbitrary_visuomotor_mapping", 0.163, 58.75, 300, False),
        Level("psychlab_continuous_recognition", 0.224, 58.3, 300, False),
        Level("psychlab_sequential_comparison", 0.129, 39.5, 300, False),
        Level("psychlab_visual_search", 0.085, 78.5, 150, False),
        Level("explore_object_locations_small", 3.575, 74.45, 90, True),
        Level("explore_object_locations_large", 4.673, 65.65, 120, True),
        Level("explore_obstructed_goals_small", 6.76, 206, 90, True),
        Level("explore_obstructed_goals_large", 2.61, 119.5, 120, True),
        Level("explore_goal_locations_small", 7.66, 267.5, 90, True),
        Level("explore_goal_locations_large", 3.14, 194.5, 120, True),
        Level("explore_object_rewards_few", 2.073, 77.7, 90, True),
        Level("explore_object_rewards_many", 2.438, 106.7, 120, True),
    )
}


ROOMS_SELECT = "rooms_select_nonmatching_object"
TRAINING_VARIANTS = ("rooms_collect_good_objects_train", "rooms_exploit_deferred_effects_train")
LEVEL_NAMES = (*DMLAB30, *TRAINING_VARIANTS)
# The engine refuses these without its setting allowHoldOutLevels.
TEST_ONLY = tuple(name.replace("_train", "_test") for name in TRAINING_VARIANTS)
# Their scripts hand their own length to the timeout: the engine's setting of it is taken and ignored.
FIXED_LENGTH = (*TEST_ONLY, *TRAINING_VARIANTS, "rooms_keys_doors_puzzle")
# Show photographs of Brady, Konkle, Alvarez and Oliva (2008), which DeepMind Lab does not ship.
NEEDS_IMAGES = ("psychlab_arbitrary_visuomotor_mapping", "psychlab_continuous_recognition")


def find_level(name: str) -> Level:
    """The level of that name; a training variant's scores are its test level's. KeyError for others."""
    if name in TRAINING_VARIANTS:
        return DMLAB30[name.removesuffix("_train") + "_test"]
    return DMLAB30[name]


def level_of(environment: str) -> str | None:
    """The level that an environment's name stands for; None where it is no level of DMLab-30."""
    name = environment.removeprefix("dmlab_")
    if environment == "dmlab_rooms_select":
        return ROOMS_SELECT
    return name if name in LEVEL_NAMES and name != environment else None


def level_script(name: str) -> str:
    """What the engine calls the level."""
    return f"contributed/dmlab30/{name}"


def normalised_score(level: str, mean_return: float, cap: float | None = None) -> float:
    """Human-normalised score in percent, 0 for random play and 100 for people, at most `cap`.

    `mean_return` is the mean over episodes: normalising comes after averaging. Training variants count as the
    test level. Raises KeyError for a level that is not in DMLab-30.
    """
    scores = find_level(level)
    score = 100 * (mean_return - scores.random) / (scores.human - scores.random)
    return score if cap is None else min(cap, score)


def suite_score(mean_returns: Mapping[str, float], cap: float | None = 100) -> float:
    """Mean over levels of the capped human-normalised score in percent (IMPALA, arXiv 1802.01561, section 5.3)."""
    if not mean_returns:
        raise ValueError("no levels given: expected a mean return for each level's name")
    return float(np.mean([normalised_score(name, r, cap) for name, r in mean_returns.items()]))
