"""The double of deepmind_lab is as strict as the real module was measured to be."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from envs.dmlab.levels import TEST_ONLY, TRAINING_VARIANTS
from tests.envs.conftest import DOUBLE
from tests.envs.lab import ROOMS


def lab_of(lab, level=ROOMS, observations=("RGB_INTERLEAVED",), **settings):
    return lab.Lab(f"contributed/dmlab30/{level}", list(observations), settings)


STILL = np.zeros(7, np.intc)


@pytest.mark.parametrize(
    ("make_lab", "error"),
    [
        (lambda m: m.Lab(3, []), TypeError),
        (lambda m: m.Lab(ROOMS, ()), TypeError),
        (lambda m: m.Lab(ROOMS, [], renderer=None), TypeError),
        (lambda m: m.Lab(ROOMS, [], renderer="fast"), RuntimeError),
        (lambda m: m.Lab("nowhere", []), RuntimeError),
        (lambda m: lab_of(m, width=96), TypeError),
        (lambda m: lab_of(m, width="97"), RuntimeError),
        (lambda m: lab_of(m, colour="red"), RuntimeError),
        (lambda m: lab_of(m, mixerSeed="-1"), RuntimeError),
        (lambda m: lab_of(m, observations=["SMELL"]), ValueError),
    ],
)
def test_the_double_refuses_what_the_module_refuses_when_it_opens(lab, make_lab, error):
    with pytest.raises(error):
        make_lab(lab)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda x: x.reset(seed=np.int64(3)), ValueError),
        (lambda x: x.reset(seed="3"), ValueError),
        (lambda x: x.step(list(STILL)), TypeError),
        (lambda x: x.step(STILL.astype(np.int64)), ValueError),
        (lambda x: x.step(STILL[:6]), ValueError),
        (lambda x: x.step(STILL, num_steps=4.0), TypeError),
        (lambda x: [x.step(STILL, num_steps=1000), x.observations()], RuntimeError),
        (lambda x: [x.step(STILL, num_steps=1000), x.step(STILL)], RuntimeError),
        (lambda x: [x.close(), x.observations()], RuntimeError),
        (lambda x: [x.close(), x.step(STILL)], RuntimeError),
    ],
)
def test_the_double_refuses_what_the_module_refuses_while_it_runs(lab, call, error):
    engine = lab_of(lab)
    with pytest.raises(RuntimeError):
        engine.observations()  # before the first reset
    engine.reset(seed=1)
    with pytest.raises(error):
        call(engine)
    assert engine.close() in (True, False)


def test_the_first_reset_of_the_double_differs_from_later_ones(lab):
    engine = lab_of(lab)
    frames = []
    for _ in range(3):
        engine.reset(episode=0, seed=5)
        frames.append(engine.observations()["RGB_INTERLEAVED"])
    assert (frames[0] != frames[1]).any() and (frames[1] == frames[2]).all()
    engine.close()


@pytest.mark.parametrize(
    ("calls", "status"),
    [
        (f"x = Lab('contributed/dmlab30/{ROOMS}', []); x.close(); x.reset()", -signal.SIGSEGV),
        (
            f"x = Lab('contributed/dmlab30/{ROOMS}', []); x.close(); x.action_spec()",
            -signal.SIGSEGV,
        ),
        ("Lab('contributed/dmlab30/natlab_fixed_large_map', []).reset()", 1),
    ],
)
def test_the_double_ends_its_process_where_the_module_does(calls, status, tmp_path, folders):
    done = subprocess.run(
        [sys.executable, "-c", f"from deepmind_lab import Lab; {calls}"],
        env={**os.environ, "PYTHONPATH": str(DOUBLE), "TMPDIR": str(tmp_path)},
        capture_output=True,
    )
    assert done.returncode == status


def test_the_doubles_levels_for_tests_open_as_hold_outs_only(lab):
    for level in TEST_ONLY:
        with pytest.raises(RuntimeError, match=r"used during evaluation.*allowHoldOut"):
            lab_of(lab, level)
        lab_of(lab, level, allowHoldOutLevels="true").close()


@pytest.mark.parametrize(
    ("level", "seconds"), [(ROOMS, 1), ("rooms_keys_doors_puzzle", 60), (TRAINING_VARIANTS[0], 60)]
)
def test_the_double_ignores_a_length_where_the_level_does(lab, level, seconds):
    engine = lab_of(lab, level, episodeLengthSeconds="1")
    engine.reset(seed=1)
    frames = 0
    while engine.is_running():
        engine.step(STILL)
        frames += 1
    assert frames == 60 * seconds
    engine.close()


def test_the_doubles_language_levels_compile_some_maps_once_in_an_instance(lab):
    fetched = []

    class Cache:
        def fetch(self, key, path):
            fetched.append(key)
            return False

        def write(self, key, path):
            pass

    engine = lab.Lab(
        "contributed/dmlab30/language_execute_random_task", [], {}, level_cache=Cache()
    )
    for seed in range(20):
        engine.reset(seed=seed)
    assert 1 < len(fetched) == len(set(fetched)) <= 4
    engine.close()


def test_the_doubles_yaw_is_between_minus_180_and_180(lab):
    engine = lab_of(lab, observations=["DEBUG.POS.ROT"])
    engine.reset(seed=1)
    yaws = []
    for _ in range(300):
        engine.step(np.array([-20, 0, 0, 0, 0, 0, 0], np.intc))
        yaws.append(engine.observations()["DEBUG.POS.ROT"][1])
    assert -180 <= min(yaws) < -170 and 170 < max(yaws) <= 180
    engine.close()
