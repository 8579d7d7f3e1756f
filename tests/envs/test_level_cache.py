"""The level cache: whole files or none, shared by processes, bounded, never in the way."""

import os
import subprocess
import sys
import time

import pytest

from envs.dmlab.cache import LevelCache, default_folder


@pytest.fixture
def cache(tmp_path):
    return LevelCache(tmp_path / "maps")


def put(cache, key, content, tmp_path):
    source = tmp_path / "compiled.pk3"
    source.write_bytes(content)
    cache.write(key, str(source))


def get(cache, key, tmp_path):
    target = tmp_path / "fetched.pk3"
    target.unlink(missing_ok=True)
    return target.read_bytes() if cache.fetch(key, str(target)) else None


def test_what_was_written_is_fetched_and_nothing_else(cache, tmp_path):
    assert get(cache, "a", tmp_path) is None and not cache.folder.exists()
    put(cache, "a", b"one", tmp_path)
    put(cache, "b", b"two", tmp_path)
    assert (get(cache, "a", tmp_path), get(cache, "b", tmp_path)) == (b"one", b"two")
    assert get(LevelCache(cache.folder), "a", tmp_path) == b"one"
    assert get(cache, "c", tmp_path) is None


@pytest.mark.parametrize("key", ["../../escape", "/etc/passwd", "a/b", "", "x" * 5000])
def test_no_key_leaves_the_folder(cache, tmp_path, key):
    put(cache, key, b"map", tmp_path)
    assert get(cache, key, tmp_path) == b"map"
    assert [path.parent for path in tmp_path.rglob("*.pk3") if path.parent != tmp_path] == [
        cache.folder
    ]


def test_the_longest_unused_maps_go_first(tmp_path):
    cache = LevelCache(tmp_path / "maps", max_bytes=30)
    for key in ("a", "b", "c"):
        put(cache, key, b"x" * 10, tmp_path)
        old = time.time() - 100 + ord(key)
        os.utime(cache._path(key), (old, old))
    assert get(cache, "a", tmp_path)  # used now
    put(cache, "d", b"x" * 10, tmp_path)
    held = {key: get(cache, key, tmp_path) is not None for key in "abcd"}
    assert held == {"a": True, "b": False, "c": True, "d": True}
    put(cache, "large", b"x" * 100, tmp_path)
    assert get(cache, "large", tmp_path) and len(list(cache.folder.iterdir())) == 1


def test_a_folder_that_cannot_be_used_costs_one_warning_and_no_episode(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    cache = LevelCache(tmp_path / "file" / "below")
    for _ in range(3):
        put(cache, "a", b"map", tmp_path)
        assert get(cache, "a", tmp_path) is None
    said = capsys.readouterr().err
    assert said.count("warning: level cache") == 1


def test_a_map_that_vanished_from_the_engine_is_no_error(cache, tmp_path):
    cache.write("a", str(tmp_path / "nowhere.pk3"))
    assert get(cache, "a", tmp_path) is None and not list(cache.folder.iterdir())


WRITER = """
import sys
from envs.dmlab.cache import LevelCache
cache, source, target = LevelCache(sys.argv[1], max_bytes=5_000_000), sys.argv[2], sys.argv[2] + ".out"
content = sys.argv[3].encode() * 200_000
for i in range(100):
    open(source, "wb").write(content)
    cache.write("shared", source)
    cache.write(f"{sys.argv[3]}{i % 20}", source)
    assert cache.fetch("shared", target)
    found = open(target, "rb").read()
    assert len(found) == 200_000 and len(set(found)) == 1, "a torn map"
"""


def test_processes_that_write_the_same_map_at_once_never_see_half_of_it(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path / "maps", tmp_path / f"map{name}", name],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])},
            stderr=subprocess.PIPE,
        )
        for name in "abc"
    ]
    assert [(w.communicate()[1], w.returncode) for w in writers] == [(b"", 0)] * 3
    files = list((tmp_path / "maps").iterdir())
    assert files and all(path.suffix == ".pk3" for path in files)


def test_the_default_folder_is_the_users_own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "ct_rl" / "dmlab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "ct_rl" / "dmlab"
