"""DeepMind Lab's adapter against the strict double: what people and training rely on, and every way it can fail."""

import fcntl
import gc
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import psutil
import pytest
import yaml
from gymnasium.utils.env_checker import check_env

import envs
from envs.actions import action_names, action_vectors
from envs.dmlab import make, pool, process
from envs.dmlab.levels import DMLAB30, FIXED_LENGTH, LEVEL_NAMES, TEST_ONLY, TRAINING_VARIANTS
from envs.dmlab.settings import LabSettings
from envs.dmlab.vector import LabVectorEnv
from envs.dmlab.world import LabWorld
from envs.seeding import world_seeds
from tests.envs.conftest import DOUBLE

ROOMS = "rooms_select_nonmatching_object"
NINE = action_names("impala")
FORWARD, LEFT, FIRE = NINE.index("forward"), NINE.index("look_left"), NINE.index("fire")


@pytest.fixture
def open_env(lab, folders):
    """`LabVectorEnv`s that are closed when the test ends."""
    made = []

    def open_(level=ROOMS, num_envs=1, **settings):
        made.append(LabVectorEnv(level, num_envs, **settings))
        return made[-1]

    yield open_
    for env in made:
        env.close()


def play(env, actions, seed):
    """Everything that is observed and paid, as bytes, for a list of actions [steps, N]."""
    obs, info = env.reset(seed=seed)
    trace = [{**obs, "position": info["position"]}]
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        trace.append({**obs, "reward": reward, "over": terminated | truncated,
                      "position": info["position"]})  # fmt: skip
    return [{key: value.copy() for key, value in moment.items()} for moment in trace]


def one(trace, i):
    """World i of a trace."""
    return [{key: value[i].tobytes() for key, value in moment.items()} for moment in trace]


# The double is as strict as the real module.


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


# One world.


@pytest.fixture
def world(lab):
    world = LabWorld(LabSettings(ROOMS))
    yield world
    world.close()


def test_a_world_plays_the_same_from_its_first_episode_on(world, lab):
    def frames():
        seen = [world.reset(0, 11)]
        seen += [world.step(FORWARD)[0] for _ in range(5)]
        return [s.frame.tobytes() for s in seen]

    first = frames()  # the engine's own first reset was thrown away
    assert first == frames()
    other = LabWorld(LabSettings(ROOMS))
    assert other.reset(0, 11).frame.tobytes() == first[0]
    assert other.reset(1, 11).frame.tobytes() != first[0]
    other.close()


def test_any_whole_number_is_a_seed(world):
    for seed in (np.int64(3), -1, 2**40, np.uint32(2**32 - 1)):
        assert world.reset(np.int64(0), seed).frame.any()


def test_calls_out_of_order_are_errors_and_closing_never_crashes(world):
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        world.step(0)
    world.reset(0, 1)
    while not world.step(FIRE)[2]:
        pass
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        world.step(0)
    for _ in range(3):
        world.close()
    for call in (lambda: world.reset(0, 1), lambda: world.step(0)):
        with pytest.raises(RuntimeError):
            call()


def test_every_action_reaches_the_engine_as_its_seven_numbers(lab, monkeypatch):
    for name in ("impala", "extended"):
        taken = []
        world = LabWorld(LabSettings(ROOMS, actions=name, action_repeat=3))
        world.reset(0, 1)
        step = world._lab.step
        world._lab.step = lambda action, num_steps, step=step, taken=taken: (
            taken.append((action.copy(), num_steps)) or step(action, num_steps=num_steps)
        )
        for i in range(len(action_vectors(name))):
            world.step(i)
        assert (np.array([action for action, _ in taken]) == action_vectors(name)).all()
        assert {repeat for _, repeat in taken} == {3}
        world.close()
    assert len(action_vectors("impala")) == 9 and len(action_vectors("extended")) == 15


def test_a_level_without_debug_observations_runs_without_a_position(lab, monkeypatch):
    monkeypatch.setattr(lab, "FAULTS", {"no_debug"})
    world = LabWorld(LabSettings(ROOMS))
    seen = world.reset(0, 1)
    assert seen.frame.any() and np.isnan(seen.position).all() and np.isnan(seen.yaw)
    world.close()


@pytest.mark.parametrize("fault", ["reversed", "small"])
def test_an_engine_of_another_shape_is_refused(lab, monkeypatch, fault):
    monkeypatch.setattr(lab, "FAULTS", {fault})
    with pytest.raises((ValueError, RuntimeError), match=r"actions are|frame is"):
        LabWorld(LabSettings(ROOMS))


# Settings.


def test_the_engine_is_configured_with_strings_only(tmp_path):
    settings = LabSettings(
        "psychlab_visual_search", height=84, width=84, seconds=30, holdout=True,
        dataset_path=str(tmp_path), config={"logToStdErr": True, "gpuDeviceIndex": 0, "x": 2.0},
    )  # fmt: skip
    assert settings.engine_config() == {
        "width": "84", "height": "84", "episodeLengthSeconds": "30", "allowHoldOutLevels": "true",
        "mixerSeed": str(0x600D5EED), "datasetPath": str(tmp_path),
        "logToStdErr": "true", "gpuDeviceIndex": "0", "x": "2",
    }  # fmt: skip
    assert LabSettings(ROOMS).engine_config() == {"width": "96", "height": "72"}
    assert LabSettings(ROOMS, mixer_seed=5).engine_config()["mixerSeed"] == "5"


BAD = {
    "height": (70, "height=70 is not a positive multiple of 4"),
    "width": (0, "width=0 is not a positive multiple of 4"),
    "action_repeat": (0, "action_repeat=0: expected 1 or more"),
    "words": (2.5, "words=2.5: expected a whole number"),
    "holdout": ("yes", "holdout='yes': expected true or false"),
    "depth": (1, "depth=1: expected true or false"),
    "level_cache": (3, "level_cache=3: expected a text"),
    "actions": ("all", "unknown actions 'all': choose one of impala, extended"),
    "seconds": (0.01, "seconds=0.01 is shorter than a step"),
    "mixer_seed": (-1, "mixer_seed=-1"),
    "episode_seeds": (0, "episode_seeds=0"),
    "renderer": ("fast", "unknown renderer 'fast'"),
    "dataset_path": ("/nowhere", "dataset_path='/nowhere' is no folder"),
    "stagger": (None, "stagger=None: expected true or false"),
    "restarts": (-1, "restarts=-1: expected 0 or more"),
    "config": ({"width": 96}, "config has 'width'"),
    "render_mode": ("human", "unknown render_mode 'human'"),
    "heigth": (72, "unknown setting 'heigth' of the deepmind_lab engine: did you mean 'height'?"),
    "spawn": ((0, 0), "unknown setting 'spawn' of the deepmind_lab engine"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_named_in_one_line_before_any_engine_starts(lab, monkeypatch, name):
    monkeypatch.setattr(process.subprocess, "Popen", None)
    value, says = BAD[name]
    with pytest.raises((TypeError, ValueError)) as caught:
        LabVectorEnv(ROOMS, 1, **{name: value})
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["long", float("nan"), True])
def test_seconds_are_a_number(value):
    with pytest.raises(ValueError, match="expected a number"):
        LabSettings(ROOMS, seconds=value)


@pytest.mark.parametrize("key", ["levelDirectory", "appendCommand"])
def test_a_strangers_config_cannot_choose_other_code(key):
    with pytest.raises(ValueError, match="would run other code"):
        LabSettings(ROOMS, config={key: "x"})


@pytest.mark.parametrize("level", FIXED_LENGTH)
def test_a_length_is_refused_where_the_engine_would_ignore_it(level):
    with pytest.raises(ValueError) as caught:
        LabSettings(level, seconds=9)
    assert (
        str(caught.value)
        == f"seconds=9 does nothing in {level}, whose clock is always 60 s: leave it out"
    )
    assert LabSettings(level).frames == 3600


@pytest.mark.parametrize("level", TEST_ONLY)
def test_a_level_for_tests_is_played_as_a_hold_out_and_says_so(lab, capsys, level):
    make.say.cache_clear()
    env = envs.make_vec(f"dmlab_{level}", 1)
    assert env.reset(seed=1)[0]["frame"].any() and env.metadata["settings"]["holdout"] is True
    (note,) = env.metadata["notes"]
    assert note.startswith(
        f"{level} is for tests only: it is played with holdout=True, mixer seed 0x600d5eed"
    )
    env.close()
    envs.make_vec(f"dmlab_{level}", 1).close()
    assert capsys.readouterr().err == f"note: {note}\n"  # once
    asked = envs.make_vec(f"dmlab_{level}", 1, holdout=True)
    assert asked.metadata["notes"] == ()
    asked.close()
    with pytest.raises(ValueError, match=f"tests only: .*{level.removesuffix('_test')}_train"):
        envs.make_vec(f"dmlab_{level}", 1, holdout=False)


def test_other_levels_are_hold_outs_where_asked_only():
    assert (
        LabSettings(ROOMS).holdout is False and LabSettings(TRAINING_VARIANTS[0]).holdout is False
    )
    assert "allowHoldOutLevels" not in LabSettings(ROOMS).engine_config()


# Names and engines.


def test_every_level_of_dmlab30_has_a_name():
    assert {f"dmlab_{level}" for level in DMLAB30} <= set(envs.names())
    assert len(LEVEL_NAMES) == 32


@pytest.mark.parametrize(
    ("name", "near"),
    [("dmlab_rooms_watermase", "dmlab_rooms_watermaze"), ("dmlab_skymaze_hard", "dmlab_skymaze_")],
)
def test_an_unknown_level_is_answered_with_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"did you mean .*{near}"):
        envs.make(name)


def test_without_the_module_levels_say_what_is_missing_and_the_room_task_runs_embedded():
    assert make.choose_engine("auto") == "embedded"
    env = envs.make("dmlab_rooms_select")
    assert env.metadata["engine"] == "embedded"
    env.close()
    for name, hint in ((ROOMS, "dmlab_rooms_select is this level"), ("rooms_watermaze", "")):
        with pytest.raises(envs.MissingDependencyError) as caught:
            envs.make(f"dmlab_{name}")
        says = str(caught.value)
        assert "not installed" in says and "docs/deepmind_lab.md" in says and "\n" not in says
        assert hint in says
    with pytest.raises(envs.MissingDependencyError, match="not installed"):
        envs.make("dmlab_rooms_select", engine="deepmind_lab")


def test_a_module_that_cannot_be_imported_is_no_engine_and_says_why(tmp_path, monkeypatch):
    broken = tmp_path / "broken" / "deepmind_lab"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libOSMesa.so.8: cannot open')")
    monkeypatch.syspath_prepend(str(broken.parent))
    assert make.choose_engine("auto") == "embedded"
    with pytest.raises(envs.MissingDependencyError, match=r"cannot be imported by .*libOSMesa"):
        make.choose_engine("deepmind_lab")


def test_the_module_may_live_in_another_python(tmp_path, monkeypatch, folders):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{DOUBLE}" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("DEEPMIND_LAB_PYTHON", str(python))
    assert make.choose_engine("auto") == "deepmind_lab"
    env = envs.make("dmlab_rooms_select", seconds=1)
    assert env.reset(seed=1)[0]["frame"].any()
    env.close()
    monkeypatch.setenv("DEEPMIND_LAB_PYTHON", str(tmp_path / "nowhere"))
    assert make.choose_engine("auto") == "embedded"
    with pytest.raises(envs.MissingDependencyError, match=r"DEEPMIND_LAB_PYTHON=.*cannot be run"):
        envs.make("dmlab_rooms_watermaze")


def test_the_other_python_needs_numpy_and_the_module_and_nothing_else(
    tmp_path, monkeypatch, folders
):
    for name in ("cv2", "gymnasium", "yaml", "torch", "ray", "panda3d", "scipy"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('no {name} here')")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH="{tmp_path}:$PYTHONPATH:{DOUBLE}" exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    monkeypatch.setenv("DEEPMIND_LAB_PYTHON", str(python))
    assert make.why_missing() is None
    env = envs.make("dmlab_language_select_described_object", seconds=1)
    assert env.reset(seed=1)[0]["instruction"].any()
    env.close()


def test_the_other_python_gets_none_of_this_ones_packages(monkeypatch):
    assert process.interpreter() == (
        sys.executable,
        os.pathsep.join(p or os.getcwd() for p in sys.path),
    )
    monkeypatch.setenv("DEEPMIND_LAB_PYTHON", "/elsewhere/python")
    assert process.interpreter() == ("/elsewhere/python", "")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (None, "cannot be run: No such file or directory"),
        ("exit 1", "its import ends with status 1"),
        (
            "echo \"ModuleNotFoundError: No module named 'deepmind_lab'\" >&2; exit 1",
            "has no deepmind_lab",
        ),
        (
            "echo \"ModuleNotFoundError: No module named 'pkg_resources'\" >&2; exit 1",
            "its wheel needs dm-env, six, setuptools<80 and Python 3.11 or older",
        ),
    ],
)
def test_auto_says_once_why_it_passes_over_the_python_that_was_named(
    tmp_path, monkeypatch, capsys, source, says
):
    python = tmp_path / "python"
    if source is not None:
        python.write_text(f"#!/bin/sh\n{source}\n")
        python.chmod(0o755)
    monkeypatch.setenv("DEEPMIND_LAB_PYTHON", str(python))
    for _ in range(2):
        env = envs.make("dmlab_rooms_select", seconds=1)
        (note,) = env.metadata["notes"]
        assert env.metadata["engine"] == "embedded"
        env.close()
    assert note.startswith("engine=auto takes the embedded engine: ")
    assert str(python) in note and says in note
    assert capsys.readouterr().err == f"note: {note}\n"


def test_where_no_module_was_asked_for_there_is_nothing_to_say(capsys):
    for engine in ("auto", "embedded"):
        env = envs.make("dmlab_rooms_select", engine=engine)
        assert env.metadata["notes"] == ()
        env.close()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("module", ["dm_env", "six", "pkg_resources", "imp"])
def test_what_the_real_wheel_imports_and_does_not_ask_for_is_named(tmp_path, monkeypatch, module):
    package = tmp_path / "deepmind_lab"
    package.mkdir()
    error = f"No module named {module!r}"  # this Python may have it
    (package / "__init__.py").write_text(f"raise ModuleNotFoundError({error!r})")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(envs.MissingDependencyError) as caught:
        make.choose_engine("deepmind_lab")
    assert "dm-env, six, setuptools<80 and Python 3.11 or older" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_with_the_module_auto_takes_it_and_the_same_name_gives_the_same_spaces(lab):
    real = envs.make_vec("dmlab_rooms_select", 2, seconds=2)
    embedded = envs.make_vec("dmlab_rooms_select", 2, engine="embedded", seconds=2)
    assert (real.metadata["engine"], embedded.metadata["engine"]) == ("deepmind_lab", "embedded")
    assert real.observation_space == embedded.observation_space
    assert real.action_space == embedded.action_space
    for key in ("score_range", "action_repeat", "render_fps", "episode_metrics", "autoreset_mode"):
        assert real.metadata[key] == embedded.metadata[key], key
    (_, real_info), (_, embedded_info) = real.reset(seed=1), embedded.reset(seed=1)
    for key in ("room", "trial", "position", "yaw", *real.metadata["episode_metrics"]):
        assert np.shape(real_info[key]) == np.shape(embedded_info[key]), key
    real.close()
    embedded.close()


def test_other_engines_are_refused(lab):
    with pytest.raises(ValueError, match="unknown engine 'quake': choose one of auto, embedded"):
        envs.make("dmlab_rooms_select", engine="quake")
    with pytest.raises(ValueError, match="the embedded engine has dmlab_rooms_select only"):
        envs.make("dmlab_rooms_watermaze", engine="embedded")


# The environment.


def test_the_single_environment_passes_gymnasiums_checker(lab):
    env = envs.make("dmlab_language_select_located_object", seconds=1)
    check_env(env, skip_render_check=True)
    env.close()


def test_creators_travel_between_processes(lab):
    creator = pickle.loads(pickle.dumps(partial(envs.make, f"dmlab_{ROOMS}", seconds=1)))
    env = creator()
    env.reset(seed=1)
    env.close()


def test_the_same_seed_is_the_same_episode_in_any_batch_and_at_any_time(open_env):
    rng = np.random.default_rng(0)
    actions = rng.integers(9, size=(70, 3))  # beyond the end of an episode of 30 steps
    three, alone = open_env(num_envs=3, seconds=2), open_env(num_envs=1, seconds=2)
    together = play(three, actions, seed=40)
    seeds = world_seeds(40, 3)
    for i in range(3):
        assert one(play(alone, actions[:, i : i + 1], seed=[seeds[i]]), 0) == one(together, i)
    assert one(play(alone, actions[:, :1], seed=40), 0) == one(together, 0)
    assert [one(play(three, actions, seed=[41, 40, 40]), i) for i in range(2)] == [
        one(play(three, actions[:, [0, 1, 0]], seed=[41, 40, 40]), i) for i in range(2)
    ]
    assert one(together, 0) != one(together, 1)


def test_episodes_differ_and_a_reset_without_seed_goes_on(open_env):
    env = open_env(seconds=1)
    frames = [env.reset(seed=9)[0]["frame"].tobytes()]
    frames += [env.reset()[0]["frame"].tobytes() for _ in range(3)]
    assert len(set(frames)) == 4
    assert env.reset(seed=9)[0]["frame"].tobytes() == frames[0]
    assert env.reset()[0]["frame"].tobytes() == frames[1]


def test_an_episode_ends_with_the_last_frame_and_the_next_step_begins_another(open_env):
    env = open_env(num_envs=2, seconds=1)
    obs, info = env.reset(seed=1)
    for _ in range(15):
        before = obs["frame"]
        assert not env._ended.any()
        obs, reward, terminated, truncated, info = env.step(np.array([FORWARD, LEFT]))
        assert (obs["last_action"] == [FORWARD, LEFT]).all()
        assert (obs["last_reward"][:, 0] == reward).all()
    assert terminated.all() and not truncated.any()
    assert (obs["frame"] == before).all() and info["teleports"][0] == 1
    obs, reward, terminated, truncated, info = env.step(np.array([FORWARD, LEFT]))
    assert not (terminated | truncated).any() and not reward.any()
    assert not obs["last_reward"].any() and not obs["last_action"].any()
    assert (obs["frame"] != before).any() and not info["teleports"].any()
    assert (info["position"] == [-232, -64]).all()
    *_, info = env.step(np.array([FORWARD, FORWARD]))
    assert (info["position"][:, 0] > -232).all()


def test_the_levels_own_length_is_12_seconds(open_env):
    env = open_env()
    env.reset(seed=1)
    over = [bool(env.step(np.array([FIRE]))[2][0]) for _ in range(180)]
    assert over == [False] * 179 + [True]


def test_stagger_truncates_first_episodes_at_different_times(open_env):
    env = open_env(num_envs=3, seconds=2, stagger=True)
    env.reset(seed=1)
    ends = []
    for t in range(1, 62):
        *_, terminated, truncated, _ = env.step(np.full(3, FIRE))
        ends += [(i, t, "cut") for i in np.flatnonzero(truncated)]
        ends += [(i, t, "end") for i in np.flatnonzero(terminated)]
    assert ends[:3] == [(2, 10, "cut"), (1, 20, "cut"), (0, 30, "end")]
    assert ends[3:] == [(2, 41, "end"), (1, 51, "end"), (0, 61, "end")]


def test_stagger_cuts_no_episode_but_the_first(open_env):
    env = open_env("explore_object_rewards_few", 2, seconds=2, stagger=True)
    env.reset(seed=1)
    env._left[:] = 100  # as where a level ends its first episode before the cut
    cut = [env.step(np.full(2, FIRE))[3].any() for _ in range(120)]
    assert not any(cut)


def test_the_room_tasks_counts_follow_its_rewards(open_env):
    env = open_env()
    _, info = env.reset(seed=2)
    total, rooms = 0.0, [1]
    way = [FORWARD] * 15 + [LEFT] * 3 + [FORWARD] * 14  # onto the pad, then to the left stand
    for action in (way * 6)[:179]:
        _, reward, *_, info = env.step(np.array([action]))
        total += reward[0]
        rooms.append(info["room"][0])
        assert (info["position"][0, 0] > 192) == (info["room"][0] == 2)
    counts = {key: int(info[key][0]) for key in ("teleports", "correct", "wrong", "trials")}
    assert counts["teleports"] + 10 * counts["correct"] - 10 * counts["wrong"] == total
    assert counts["trials"] == counts["correct"] + counts["wrong"] >= 2
    assert counts["teleports"] >= 3 and set(rooms) == {1, 2}


def test_language_levels_give_their_instruction_as_text_and_as_numbers(open_env):
    env = open_env("language_select_described_object", 2, words=8, vocabulary=50)
    obs, info = env.reset(seed=3)
    assert all(text.startswith("Pick up the ") for text in info["instruction"])
    assert obs["instruction"].shape == (2, 8) and obs in env.observation_space
    assert (obs["instruction"][:, :5] > 0).all() and not obs["instruction"][:, 5:].any()
    assert "instruction" not in open_env(ROOMS).single_observation_space.spaces
    assert "instruction" in open_env(ROOMS, instruction=True).single_observation_space.spaces


def test_depth_and_the_lone_frame_are_options(open_env):
    plain, deep = open_env(num_envs=2), open_env(num_envs=2, depth=True, render_mode="rgb_array")
    alone = open_env(num_envs=2, frame_only=True)
    obs, (seen, _), (frames, _) = plain.reset(seed=1)[0], deep.reset(seed=1), alone.reset(seed=1)
    assert seen in deep.observation_space and seen["depth"].shape == (2, 72, 96, 1)
    assert seen["depth"].any() and (seen["frame"] == obs["frame"]).all()
    assert frames in alone.observation_space and (frames == obs["frame"]).all()
    assert deep.render()[0].shape == (72, 96, 3)
    with pytest.raises(ValueError, match="frame_only"):
        open_env(frame_only=True, depth=True)


def test_the_settings_stand_in_the_metadata_as_plain_values(open_env):
    settings = open_env(seconds=2, config={"logToStdErr": True}).metadata["settings"]
    assert yaml.safe_load(yaml.safe_dump(settings)) == settings
    assert settings["level"] == ROOMS and settings["seconds"] == 2 and settings["width"] == 96


def test_render_gives_the_frames_that_were_observed(open_env):
    env = open_env(num_envs=2, render_mode="rgb_array")
    obs, _ = env.reset(seed=1)
    assert all(
        (picture == frame).all() for picture, frame in zip(env.render(), obs["frame"], strict=True)
    )
    assert open_env().render() is None


@pytest.mark.parametrize(
    "actions",
    [np.array([0.0, 1.0]), np.array([0]), np.array([[0], [1]]), np.array([0, 9]), np.array([-1, 0]), [0.5, 1], "ab"],
)  # fmt: skip
def test_actions_of_wrong_shape_type_or_range_are_refused(open_env, actions):
    env = open_env(num_envs=2, seconds=1)
    with pytest.raises(ValueError, match=r"call reset\(\) first"):
        env.step(np.array([0, 0]))
    env.reset(seed=1)
    with pytest.raises(ValueError, match="expected"):
        env.step(actions)
    env.step(np.array([0, 8], np.int32))  # and it goes on


def test_seeds_must_be_one_or_as_many_as_worlds(open_env):
    with pytest.raises(ValueError, match="3 seeds for 2 worlds"):
        open_env(num_envs=2).reset(seed=[1, 2, 3])
    for seed in (-1, [3, -1]):
        with pytest.raises(ValueError, match="seed=-1: expected 0 or more"):
            open_env(num_envs=2).reset(seed=seed)


def test_neighbouring_seeds_share_no_world(open_env):
    env = open_env(num_envs=3, seconds=1)
    frames = [frame.tobytes() for seed in (1, 2, 3) for frame in env.reset(seed=seed)[0]["frame"]]
    assert len(set(frames)) == 9


def test_a_world_without_a_seed_of_its_own_goes_on(open_env):
    env = open_env(num_envs=2, seconds=1)
    first = env.reset(seed=[5, 6])[0]["frame"]
    second = env.reset(seed=[5, None])[0]["frame"]
    assert (second[0] == first[0]).all() and (second[1] != first[1]).any()


# Hold-out, mixer seed and the level cache.


def test_holdout_and_mixer_seed_give_other_episodes_under_the_same_seed(open_env):
    both = {"mixer_seed": 5, "holdout": True}
    frames = {
        open_env(ROOMS, **settings).reset(seed=1)[0]["frame"].tobytes()
        for settings in ({}, {"holdout": True}, {"mixer_seed": 5}, both)
    }
    assert len(frames) == 4


def test_maps_are_compiled_once_for_all_processes(open_env, tmp_path):
    level, cache = "explore_goal_locations_small", tmp_path / "cache" / "ct_rl" / "dmlab"
    first = open_env(level, 2, seconds=1)
    first.reset(seed=[5, 5])
    maps = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(maps) == 2  # one of the thrown-away reset, one of the episode
    open_env(level, 1, seconds=1).reset(seed=[5])
    assert {path.name for path in cache.iterdir()} == set(maps)
    elsewhere = tmp_path / "maps"
    open_env(level, 1, level_cache=str(elsewhere)).reset(seed=5)
    assert len(list(elsewhere.iterdir())) == 2
    open_env(level, 1, level_cache=None).reset(seed=77)
    assert {path.name for path in cache.iterdir()} == set(maps)


def test_language_levels_keep_their_maps_too(open_env, tmp_path):
    env = open_env("language_execute_random_task", seconds=1)
    for seed in range(12):
        env.reset(seed=seed)
    maps = list((tmp_path / "cache" / "ct_rl" / "dmlab").iterdir())
    assert 1 < len(maps) <= 4 and DMLAB30["language_execute_random_task"].compiles_maps


def test_few_episode_seeds_bring_maps_back(open_env, tmp_path):
    env = open_env("explore_object_rewards_few", seconds=1, episode_seeds=2)
    env.reset(seed=1)
    for _ in range(12):
        env.reset()
    assert len(list((tmp_path / "cache" / "ct_rl" / "dmlab").iterdir())) <= 3


# Processes.


def pids(env):
    return [world._process.pid for world in env._pool.processes]


def test_worlds_live_in_processes_of_their_own_that_end_with_the_environment(open_env, folders):
    del sys.modules["deepmind_lab"]
    env = open_env(num_envs=3)
    env.reset(seed=1)
    assert "deepmind_lab" not in sys.modules
    running = pids(env)
    assert len(set(running)) == 3 and os.getpid() not in running
    for pid in running:
        environment = psutil.Process(pid).environ()
        assert environment["LP_NUM_THREADS"] == "0"
        assert os.getpgid(pid) != os.getpgid(0)  # Ctrl-C in a terminal does not reach it
        assert Path(environment["TMPDIR"]).parent == folders
    assert len(list(folders.glob("*/dmlab_temp_folder_*"))) == 3
    for _ in range(3):
        env.close()
    assert not any(psutil.pid_exists(pid) for pid in running) and not list(folders.iterdir())
    for call in (env.reset, lambda: env.step(np.zeros(3, int))):
        with pytest.raises(RuntimeError, match="closed"):
            call()


def test_an_environment_that_is_forgotten_cleans_up(lab, folders):
    env = LabVectorEnv(ROOMS, 1)
    (pid,) = pids(env)
    del env
    gc.collect()
    assert not psutil.pid_exists(pid) and not list(folders.iterdir())


@pytest.mark.parametrize(
    ("level", "settings", "error", "says"),
    [
        ("natlab_fixed_large_map", {}, RuntimeError, "maps/natlab_forage_ltm_day.bsp is not part of this build"),
        ("psychlab_continuous_recognition", {}, RuntimeError, "give their folder as dataset_path"),
        ("rooms_watermaze", {"config": {"colour": "red"}}, ValueError, "colour"),
    ],
)  # fmt: skip
def test_a_level_that_cannot_run_is_an_error_here_not_the_end(lab, folders, level, settings, error, says):  # fmt: skip
    with pytest.raises(error) as caught:
        LabVectorEnv(level, 2, **settings)
    text = str(caught.value)
    assert says in text and text.startswith(level) and "\n" not in text
    gc.collect()
    assert not list(folders.iterdir())


def test_a_machine_without_the_hardware_renderers_library_is_told_so(lab, folders, monkeypatch):
    monkeypatch.setenv("DEEPMIND_LAB_DOUBLE", "no_hardware")
    with pytest.raises(envs.MissingDependencyError) as caught:
        LabVectorEnv(ROOMS, 1, renderer="hardware")
    text = str(caught.value)
    assert text.startswith(f"{ROOMS}: the engine cannot load its library for renderer='hardware'")
    assert "libEGL.so.1: cannot open shared object file" in text and "\n" not in text
    assert "renderer='software' needs none of it" in text
    gc.collect()
    LabVectorEnv(ROOMS, 1).close()


def test_where_no_death_is_allowed_one_is_an_error_and_a_reset_mends_it(open_env, folders):
    env = open_env(num_envs=2, seconds=1, restarts=0)
    before = play(env, np.zeros((3, 2), int), seed=4)
    os.kill(pids(env)[1], signal.SIGKILL)
    with pytest.raises(RuntimeError, match=f"{ROOMS}: the engine's process was ended by signal 9"):
        for _ in range(3):
            env.step(np.zeros(2, int))
    with pytest.raises(ValueError, match=r"call reset\(\) first"):
        env.step(np.zeros(2, int))
    after = play(env, np.zeros((3, 2), int), seed=4)
    assert [one(before, i) for i in range(2)] == [one(after, i) for i in range(2)]
    assert len(list(folders.iterdir())) == 2


def test_an_engine_that_hangs_is_an_error(open_env, monkeypatch):
    env = open_env(seconds=1, restarts=0)
    env.reset(seed=1)
    monkeypatch.setattr(process, "_PATIENCE", 0.2)
    os.kill(pids(env)[0], signal.SIGSTOP)
    monkeypatch.setattr(process, "_FAREWELL", 0.2)
    with pytest.raises(RuntimeError, match="no answer within"):
        env.step(np.zeros(1, int))


# Worlds that die in training.


def kill(env, i):
    os.kill(pids(env)[i], signal.SIGKILL)


def test_a_world_that_dies_loses_its_episode_and_no_other(open_env, folders, capsys):
    actions = np.random.default_rng(3).integers(9, size=(12, 2))
    undisturbed = play(open_env(num_envs=2, seconds=1), actions, seed=4)
    env = open_env(num_envs=2, seconds=1)
    trace = play(env, actions[:5], seed=4)
    kill(env, 1)
    obs, rewards, terminated, truncated, info = env.step(actions[5])
    assert truncated.tolist() == [False, True] and not terminated.any()
    assert info["lost"].tolist() == [0, 1] and env.lost_worlds == 1 and rewards[1] == 0
    assert (obs["frame"][1] == trace[-1]["frame"][1]).all()  # the last that was seen
    assert obs["last_action"][1] == actions[5, 1] and obs in env.observation_space
    assert len(set(pids(env))) == 2 and len(list(folders.glob("*/dmlab_temp_folder_*"))) == 4
    for t in range(6, 12):
        obs, rewards, terminated, truncated, info = env.step(actions[t])
        assert not (terminated | truncated).any() and info["lost"].tolist() == [0, 0]
        assert (obs["frame"][0] == undisturbed[t + 1]["frame"][0]).all()
        assert rewards[0] == undisturbed[t + 1]["reward"][0]
        if t == 6:  # the next episode begins in the step after, as after any end
            assert not obs["last_reward"][1] and not obs["last_action"][1]
            assert (info["position"][1] == [-232, -64]).all() and info["room"][1] == 1
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {ROOMS}: the engine's process was ended by signal 9")
    assert said.endswith("; world 1 is started anew\n") and said.count("\n") == 1


@pytest.mark.parametrize("seed", [6, [11, 5]])
def test_a_new_life_plays_what_its_seed_says_and_nothing_of_the_life_before(open_env, seed):
    env, twin = open_env(num_envs=2, seconds=1), open_env(seconds=1)
    first = env.reset(seed=seed)[0]["frame"][1]
    of_life = [first.tobytes()]
    for life in (1, 2):
        kill(env, 1)
        env.step(np.full(2, FIRE))
        frame = env.step(np.full(2, FIRE))[0]["frame"][1]
        drawn = (
            world_seeds(6, 2, incarnation=life)[1]
            if seed == 6
            else world_seeds(5, 1, incarnation=life)[0]
        )
        assert (frame == twin.reset(seed=[drawn])[0]["frame"][0]).all()
        of_life.append(frame.tobytes())
    assert len(set(of_life)) == 3
    assert (env.reset(seed=seed)[0]["frame"][1] == first).all()  # a seed begins everything again


def test_a_world_that_dies_between_two_episodes_begins_another_in_the_same_step(open_env):
    env = open_env(num_envs=2, seconds=1)
    env.reset(seed=1)
    for _ in range(15):
        *_, terminated, _, _ = env.step(np.full(2, FIRE))
    assert terminated.all()
    kill(env, 0)
    _, rewards, terminated, truncated, info = env.step(np.full(2, FORWARD))
    assert not (terminated | truncated).any() and not rewards.any()
    assert info["lost"].tolist() == [1, 0] and (info["position"] == [-232, -64]).all()
    *_, info = env.step(np.full(2, FORWARD))
    assert info["lost"].tolist() == [0, 0] and (info["position"][:, 0] > -232).all()


def test_a_world_that_died_before_a_reset_is_counted_by_it(open_env):
    env = open_env(num_envs=2, seconds=1)
    frame = env.reset(seed=1)[0]["frame"]
    kill(env, 1)
    obs, info = env.reset(seed=1)
    assert info["lost"].tolist() == [0, 1] and info["_lost"].all()
    assert (obs["frame"][0] == frame[0]).all() and (obs["frame"][1] != frame[1]).any()


@pytest.mark.parametrize("fault", ["mortal", "stumbles"])
def test_a_world_that_dies_again_and_again_is_an_error_in_the_end(
    open_env, monkeypatch, capsys, fault
):
    monkeypatch.setenv("DEEPMIND_LAB_DOUBLE", fault)
    env = open_env(num_envs=2, restarts=2)
    _, info = env.reset(seed=1)
    assert not info["lost"].any()
    lost = np.zeros(2, int)
    with pytest.raises(RuntimeError) as caught:
        for _ in range(100):
            *_, truncated, info = env.step(np.full(2, FIRE))
            lost += info["lost"]
            assert (truncated == (info["lost"] > 0)).all()
    assert lost.tolist() == [2, 2]
    assert "(world 0 died 3 times without 100 steps between)" in str(caught.value)
    assert {"mortal": "ended with status 3", "stumbles": "a nil value"}[fault] in str(caught.value)
    assert capsys.readouterr().err.count("is started anew") == 4
    with pytest.raises(ValueError, match=r"call reset\(\) first"):
        env.step(np.full(2, FIRE))
    assert env.reset(seed=1)[0]["frame"].any()


def test_a_world_that_dies_at_every_start_is_an_error(open_env, monkeypatch):
    monkeypatch.setenv("DEEPMIND_LAB_DOUBLE", "stillborn")
    env = open_env(restarts=1)
    with pytest.raises(RuntimeError, match=r"status 3.*\(world 0 died 2 times"):
        env.reset(seed=1)


def test_deaths_that_lie_apart_do_not_add_up(open_env, monkeypatch):
    monkeypatch.setattr(pool, "PROGRESS", 4)
    monkeypatch.setenv("DEEPMIND_LAB_DOUBLE", "mortal")
    env = open_env(restarts=1)
    env.reset(seed=1)
    lost = sum(int(env.step(np.array([FIRE]))[-1]["lost"][0]) for _ in range(40))
    assert lost == env.lost_worlds == 6  # every sixth step is lost, four are played before


def test_an_engine_that_hangs_is_lost_too(open_env, monkeypatch):
    env = open_env(seconds=1)
    env.reset(seed=1)
    os.kill(pids(env)[0], signal.SIGSTOP)
    with monkeypatch.context() as patch:
        answer, waits = process.LabProcess.answer, iter((0.2, 60))
        patch.setattr(
            process.LabProcess,
            "answer",
            lambda self: patch.setattr(process, "_PATIENCE", next(waits)) or answer(self),
        )
        patch.setattr(process, "_FAREWELL", 0.2)
        *_, truncated, info = env.step(np.array([FIRE]))
    assert truncated[0] and info["lost"][0] == 1
    env.step(np.array([FIRE]))


@pytest.mark.parametrize("method", ["ask", "answer"])
def test_an_interrupt_leaves_no_answer_behind(open_env, monkeypatch, method):
    env = open_env(num_envs=2, seconds=1)
    before = play(env, np.zeros((3, 2), int), seed=4)
    call, calls = getattr(process.LabProcess, method), []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:  # the second world's turn
            raise KeyboardInterrupt
        return call(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(process.LabProcess, method, interrupted)
        with pytest.raises(KeyboardInterrupt):
            env.step(np.zeros(2, int))
    after = play(env, np.zeros((3, 2), int), seed=4)
    assert [one(before, i) for i in range(2)] == [one(after, i) for i in range(2)]


def test_a_fork_while_an_environment_lives_does_not_hang(open_env):
    env = open_env(seconds=1)
    env.reset(seed=1)
    child = os.fork()
    if child == 0:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    env.step(np.zeros(1, int))


KILLED = """
import os, signal, sys
from envs.dmlab.vector import LabVectorEnv
env = LabVectorEnv("rooms_watermaze", 2)
env.reset(seed=1)
print(*[world._process.pid for world in env._pool.processes], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_and_folders_go_when_the_user_is_killed(lab, folders):
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: not any(alive(int(pid)) for pid in done.stdout.split()))
    wait_until(lambda: not list(folders.iterdir()))


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_until(holds, seconds=10):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_folders_of_the_killed_go_at_the_next_start_and_those_in_use_stay(open_env, folders):
    old = time.time() - 3600
    abandoned, used = folders / "ct_rl-dmlab-abandoned", open_env()._pool.processes[0]._folder
    abandoned.mkdir()
    (abandoned / "lock").touch()
    for folder in (abandoned, used):
        os.utime(folder, (old, old))
    open_env()
    assert not abandoned.exists() and used.exists()


def test_a_folder_is_in_use_as_long_as_its_process_lives(open_env):
    world = open_env()._pool.processes[0]
    os.close(world._lock)  # as where the process that started it was killed
    world._lock = -1
    with open(world._folder / "lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_engines_chatter_is_kept_small(tmp_path, monkeypatch):
    from envs.dmlab import worker

    log = tmp_path / "log"
    log.write_bytes(b"x" * (worker._LOG_BYTES + 1))
    with open(log, "ab") as file:
        monkeypatch.setattr(worker, "_LOG", file.fileno())
        worker._shorten_log()
        file.write(b"later")
    assert log.read_bytes() == b"later"


def test_it_is_a_gymnasium_vector_environment(open_env):
    env = open_env(num_envs=2, seconds=1)
    assert isinstance(env, gym.vector.VectorEnv)
    obs, _ = env.reset(seed=1)
    assert obs in env.observation_space and env.action_space.sample().shape == (2,)
