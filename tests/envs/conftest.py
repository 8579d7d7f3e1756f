"""The strict double in the place of `deepmind_lab`, and folders of a test's own."""

import gc
import sys
import tempfile
from pathlib import Path

import pytest

from envs.dmlab.vector import LabVectorEnv

DOUBLE = Path(__file__).parent / "double"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Temporary files and the level cache of a test's own; nothing may be left there at its end."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gc.freeze()  # what is here already is not looked through again
    yield temporary
    gc.collect()
    gc.unfreeze()
    assert not list(temporary.iterdir())


@pytest.fixture
def lab(monkeypatch, folders):
    """The double in the place of deepmind_lab, here and in every process that starts."""
    monkeypatch.syspath_prepend(str(DOUBLE))
    monkeypatch.delitem(sys.modules, "deepmind_lab", raising=False)
    import deepmind_lab

    yield deepmind_lab
    sys.modules.pop("deepmind_lab", None)


@pytest.fixture
def open_env(lab, folders):
    """`LabVectorEnv`s that are closed when the test ends."""
    made = []

    def open_(level="rooms_select_nonmatching_object", num_envs=1, **settings):
        made.append(LabVectorEnv(level, num_envs, **settings))
        return made[-1]

    yield open_
    for env in made:
        env.close()
