"""The conformance command: passes where the engine keeps its word, finds every fault, says so by its exit status."""

import re

import pytest

from envs.dmlab import conformance
from envs.dmlab.levels import LEVEL_NAMES

ROOMS = "rooms_select_nonmatching_object"


def run(capsys, *words):
    status = conformance.main(words)
    out, err = capsys.readouterr()
    return status, out, err


def row(out, level):
    (line,) = re.findall(rf"^{level} +(.*)$", out, re.M)
    return line.split()


def test_an_engine_that_keeps_its_word_passes_level_by_level(lab, capsys):
    levels = (ROOMS, "dmlab_rooms_keys_doors_puzzle", "language_execute_random_task")
    status, out, err = run(capsys, *levels)
    assert (status, err) == (0, ""), out
    assert row(out, ROOMS)[:-1] == ["ok", "ok", "ok", "ok", "-", "ok", "ok", "ok"]
    assert row(out, "rooms_keys_doors_puzzle")[:-1] == ["ok"] * 5 + ["-", "ok", "ok"]
    assert out.splitlines()[-1] == "3 of 3 levels pass"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("random", "exact: step 0: frame differs"),
        ("reversed", "open: ValueError: the engine's actions are"),
        ("small", "open: RuntimeError: the engine's frame is"),
        ("endless", "ends: no episode of 2 s ended within 30 steps"),
        ("no_debug", "pays: look_right turns"),
        ("slow", "pays: 15 steps forward paid"),
    ],
)
def test_a_fault_of_the_engine_is_found_and_named(lab, capsys, monkeypatch, fault, says):
    monkeypatch.setenv("DEEPMIND_LAB_DOUBLE", fault)
    status, out, _ = run(capsys, ROOMS)
    assert status == 1 and f"FAIL {ROOMS}: {says}" in out
    assert out.splitlines()[-1] == "0 of 1 levels pass"


def test_a_level_that_does_not_load_fails_and_the_others_go_on(lab, capsys):
    status, out, _ = run(capsys, "natlab_fixed_large_map", "rooms_watermaze")
    assert status == 1 and "FAIL natlab_fixed_large_map: open: RuntimeError: the map maps/" in out
    assert row(out, "natlab_fixed_large_map")[0] == "FAIL"
    assert "1 of 2 levels pass" in out


def test_levels_that_show_photographs_take_their_folder(lab, capsys, tmp_path):
    level = "psychlab_continuous_recognition"
    assert run(capsys, level)[0] == 1
    assert run(capsys, level, "--dataset-path", str(tmp_path))[0] == 0


def test_no_engine_and_unknown_levels_are_one_line_and_status_2(capsys, folders):
    status, out, err = run(capsys)
    assert (status, out, len(err.splitlines())) == (2, "", 1) and "not installed" in err
    status, out, err = run(capsys, "rooms_watermase")
    assert (status, out) == (2, "")
    assert err == "error: unknown level 'rooms_watermase': did you mean rooms_watermaze?\n"
    status, out, err = run(capsys, "--dataset-path", "nowhere")
    assert (status, out) == (2, "") and err == "error: --dataset-path 'nowhere' is no folder\n"


def test_without_words_all_levels_are_checked(lab, capsys, monkeypatch):
    checked = []
    monkeypatch.setattr(
        conformance,
        "check_level",
        lambda level, _: checked.append(level) or conformance.Result(level, ("ok",), (), 0.0),
    )
    assert run(capsys)[0] == 0 and tuple(checked) == LEVEL_NAMES
