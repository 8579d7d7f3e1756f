"""The DMLab-30 table and its normalised scores."""

import re
from pathlib import Path

import pytest

from envs.dmlab.levels import (
    DMLAB30,
    FIXED_LENGTH,
    LEVEL_NAMES,
    NEEDS_IMAGES,
    ROOMS_SELECT,
    TEST_ONLY,
    TRAINING_VARIANTS,
    Level,
    find_level,
    level_of,
    normalised_score,
    suite_score,
)
from envs.dmlab.process import NEEDS
from envs.dmlab.settings import setting_names


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


def test_training_variants_have_their_test_levels_scores():
    for name in TRAINING_VARIANTS:
        assert find_level(name) is DMLAB30[name.removesuffix("_train") + "_test"]
    with pytest.raises(KeyError):
        find_level("rooms_watermaze_train")


def test_levels_that_need_something_of_their_own_are_named():
    assert set(TEST_ONLY) == {
        "rooms_collect_good_objects_test",
        "rooms_exploit_deferred_effects_test",
    }
    assert set(FIXED_LENGTH) == {*TEST_ONLY, *TRAINING_VARIANTS, "rooms_keys_doors_puzzle"}
    assert len(LEVEL_NAMES) == 32 and {*FIXED_LENGTH, *NEEDS_IMAGES} <= set(LEVEL_NAMES)
    compiling = {name.split("_")[0] for name, level in DMLAB30.items() if level.compiles_maps}
    assert compiling == {"rooms", "language", "lasertag", "skymaze", "explore"}
    assert sum(level.compiles_maps for level in DMLAB30.values()) == 19


def test_environments_names_stand_for_levels():
    assert level_of("dmlab_rooms_select") == ROOMS_SELECT
    assert {level_of(f"dmlab_{name}") for name in LEVEL_NAMES} == set(LEVEL_NAMES)
    for name in ("rooms_watermaze", "dmlab_", "dmlab_nowhere", "CartPole-v1"):
        assert level_of(name) is None


def test_the_documented_table_is_the_one_in_use():
    text = (Path(__file__).parents[2] / "docs" / "deepmind_lab.md").read_text()
    rows = re.findall(r"^\| dmlab_(\w+) \| (\S+) \| (\S+) \| (\d+) \| (yes)? ?\|$", text, re.M)
    documented = [Level(n, float(r), float(h), int(s), bool(c)) for n, r, h, s, c in rows]
    assert documented == list(DMLAB30.values())


def test_the_documented_settings_are_those_there_are():
    text = (Path(__file__).parents[2] / "docs" / "deepmind_lab.md").read_text()
    table = text.split("| setting |")[1].split("\n\n")[0]
    named = [
        name for row in re.findall(r"^\| ([\w, ]+) \|", table, re.M) for name in row.split(", ")
    ]
    assert sorted(named) == sorted(setting_names())


def test_the_install_page_names_all_that_the_wheel_needs():
    text = (Path(__file__).parents[2] / "docs" / "deepmind_lab.md").read_text()
    install = text.split("## Install")[1].split("\n## ")[0]
    for need in re.split(", | and ", NEEDS):
        assert need in install, need
