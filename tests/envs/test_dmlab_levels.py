"""The DMLab-30 table and its normalised scores."""

import pytest

from envs.dmlab.levels import DMLAB30, normalised_score, suite_score


def test_thirty_levels_each_with_people_above_random_play():
    assert len(DMLAB30) == 30
    assert all(level.human > level.random for level in DMLAB30.values())
    assert DMLAB30["rooms_select_nonmatching_object"][1:4] == (0.312, 65.9, 12)


def test_random_play_is_0_people_are_100_and_the_cap_holds_per_level():
    assert normalised_score("rooms_watermaze", 4.065) == 0
    assert normalised_score("rooms_watermaze", 54) == pytest.approx(100)
    better = {"rooms_watermaze": 1e6, "rooms_keys_doors_puzzle": 4.135}
    assert suite_score(better) == pytest.approx(50)


def test_training_variants_count_as_the_test_level_and_nothing_else_is_known():
    name = "rooms_collect_good_objects"
    assert normalised_score(f"{name}_train", 10) == pytest.approx(100)
    with pytest.raises(KeyError):
        normalised_score("rooms_of_doom", 1)
    with pytest.raises(ValueError, match="no levels"):
        suite_score({})
