"""Checkpoints: whole or absent, verified, free of pickle, the last and the best kept."""

import errno
import json
import os

import pytest
import torch

from ct_rl import checkpoint
from ct_rl.errors import UserError

TENSORS = {"weights/a": torch.arange(6.0).view(2, 3), "optimizer/0": torch.ones(4)}
FILES = [checkpoint.WEIGHTS, checkpoint.TRAINING, checkpoint.META, checkpoint.MANIFEST]


def save(folder, step, score=None):
    return checkpoint.save(folder, step, TENSORS, {"score": score, "note": step})


def test_what_was_saved_is_what_is_loaded(tmp_path):
    loaded = checkpoint.load(save(tmp_path, 7))
    assert loaded.step == 7 and loaded.meta["note"] == 7
    assert set(loaded.tensors) == set(TENSORS)
    assert all(torch.equal(loaded.tensors[key], value) for key, value in TENSORS.items())
    assert torch.equal(loaded.weights["a"], TENSORS["weights/a"])


def test_what_is_not_finite_can_be_read_again(tmp_path):
    meta = {"note": float("inf"), "deep": [{"share": float("nan")}]}
    loaded = checkpoint.load(checkpoint.save(tmp_path, 1, TENSORS, {"score": None, **meta}))
    assert loaded.meta["note"] is None and loaded.meta["deep"] == [{"share": None}]


def test_the_last_two_and_the_best_are_kept(tmp_path):
    for step, score in ((1, 0.0), (2, 9.0), (3, 1.0), (4, None), (5, 2.0)):
        save(tmp_path, step, score)
    assert checkpoint.steps(tmp_path) == [2, 4, 5]
    assert checkpoint.load_last(tmp_path)[0].step == 5
    assert checkpoint.load_best(tmp_path)[0].step == 2


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "one bit": _flip,
    "other": lambda path: path.write_bytes(b'{"format": 1, "files": {}}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(tmp_path, name, damage):
    save(tmp_path, 1)
    last = save(tmp_path, 2)
    DAMAGES[damage](last / name)
    found, damaged = checkpoint.load_last(tmp_path)
    assert found.step == 1
    assert len(damaged) == 1 and str(last) in damaged[0]


def test_with_every_checkpoint_damaged_there_is_none(tmp_path):
    (save(tmp_path, 1) / checkpoint.WEIGHTS).unlink()
    found, damaged = checkpoint.load_last(tmp_path)
    assert found is None and len(damaged) == 1


def test_a_consistent_file_of_pickled_tensors_is_refused_not_opened(tmp_path):
    """A stranger can make every checksum fit; what they put there still must not run."""
    path = save(tmp_path, 1)
    torch.save({"weights/a": torch.ones(1)}, path / checkpoint.WEIGHTS)
    content = (path / checkpoint.WEIGHTS).read_bytes()
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    manifest["files"][checkpoint.WEIGHTS] = {
        "bytes": len(content),
        "sha256": checkpoint.hashlib.sha256(content).hexdigest(),
    }
    (path / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(checkpoint.Damaged, match="holds no tensors"):
        checkpoint.load(path)


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
@pytest.mark.parametrize("after", range(5))
def test_a_full_disk_at_any_call_keeps_the_good_ones_and_says_so(
    tmp_path, monkeypatch, call, after
):
    save(tmp_path, 1)
    real, calls = getattr(os, call), []

    def full(*args, **kwargs):
        calls.append(args)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, full)
    try:
        save(tmp_path, 2)
    except UserError as error:
        assert "no space left" in str(error) and "step_000000000001" in str(error)
    else:
        assert len(calls) <= after
    monkeypatch.undo()
    found, damaged = checkpoint.load_last(tmp_path)
    assert found.step in (1, 2) and not damaged
    assert 1 in checkpoint.steps(tmp_path)


@pytest.mark.parametrize("moment", ["fsync", "rename", "replace"])
def test_a_kill_at_any_moment_leaves_only_whole_checkpoints(tmp_path, monkeypatch, moment):
    save(tmp_path, 1, 5.0)
    real = getattr(os, moment)
    for stop in range(8):
        pid = os.fork()
        if pid == 0:  # the child is killed at the stop-th call
            count = 0

            def dying(*args, **kwargs):
                nonlocal count
                count += 1
                if count > stop:  # noqa: B023
                    os.kill(os.getpid(), 9)
                return real(*args, **kwargs)

            setattr(os, moment, dying)
            save(tmp_path, 10 + stop)
            os._exit(0)
        os.waitpid(pid, 0)
        for step in checkpoint.steps(tmp_path):
            checkpoint.load(tmp_path / f"step_{step:012d}")
        assert 1 in checkpoint.steps(tmp_path)  # the best one
    checkpoint.clean(tmp_path)
    assert not list(tmp_path.glob(".partial-*"))
