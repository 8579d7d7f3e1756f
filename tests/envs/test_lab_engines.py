"""Which engine a name runs on, in which Python, and what is said of the choice."""

import os
import sys

import numpy as np
import pytest

import envs
from envs.dmlab import make, process
from envs.dmlab.levels import DMLAB30, LEVEL_NAMES
from tests.envs.conftest import DOUBLE
from tests.envs.lab import ROOMS


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
        ("exit 0", "is no Python: it does not answer: give the one that has deepmind_lab"),
        ('echo "$@"', "is no Python: it does not answer"),
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
