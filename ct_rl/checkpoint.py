"""Checkpoints: folders that are either whole or absent, verified when read, and free of pickle.

`checkpoints/step_000001200000/` holds `weights.safetensors`, `training.safetensors` (optimiser), `meta.json`
(counters, schedules, random state, score) and `manifest.json` (size and SHA-256 of the others, written last).
A checkpoint is written under a temporary name, forced to disk and renamed, so a kill or a full disk at any
moment leaves only whole ones behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from ct_rl.errors import UserError, is_disk_error, one_line, os_message
from ct_rl.plain_files import Unreadable, finite, parse_json, read_bytes, write_synced
from ct_rl.reader import Invalid, quoted, read

if TYPE_CHECKING:  # torch takes a second to import, and the commands read their flags first
    from torch import Tensor

WEIGHTS, TRAINING, META, MANIFEST = (
    "weights.safetensors",
    "training.safetensors",
    "meta.json",
    "manifest.json",
)
_NAME = re.compile(r"step_(\d{12})")
_FORMAT = 1
_MOST_BYTES, _MOST_META = 2**36, 2**26
_KEPT_LATEST = 2  # the last and, should it be damaged later, the one before


@dataclass(frozen=True)
class _Meta:
    """What every checkpoint's meta.json holds, whoever wrote it."""

    step: Annotated[int, Ge(0)]
    score: float | None = None
    env: str = ""
    network: dict[str, Any] = field(default_factory=dict)
    algorithm: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """One verified checkpoint: its folder, training step [agent steps], tensors and meta data."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's parameters by the names that `load_state_dict` takes."""
        start = len("weights/")
        return {key[start:]: at for key, at in self.tensors.items() if key.startswith("weights/")}


class Damaged(Exception):
    """A checkpoint that fails its check; the text names the file and what is wrong with it."""


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
    """Write one checkpoint into `folder` atomically, drop the ones no longer kept, return its path.

    `meta["score"]` (a number or None) decides which checkpoint is the best. Raises UserError when
    the disk is full or cannot be written; earlier checkpoints are untouched then.
    """
    target = folder / f"step_{step:012d}"
    partial = folder / f".partial-{os.getpid()}-{target.name}"
    try:
        folder.mkdir(exist_ok=True)  # not its parents: a run's folder that is gone stays so
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _write_files(partial, step, tensors, meta)
        if target.exists():  # a checkpoint of the same step, from before a resume
            old = folder / f".partial-{os.getpid()}-old"
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            partial.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            partial.rename(target)
        _sync_folder(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not is_disk_error(error):
            raise
        whole = steps(folder)
        kept = f"last good one: {folder / _name(whole[-1])}" if whole else "there is none before it"
        raise UserError(os_message(error, f"saving a checkpoint; {kept}")) from None
    _drop_old(folder)
    return target


def steps(folder: Path) -> list[int]:
    """Training steps of the checkpoints in a folder, ascending; none is opened."""
    names = (item.name for item in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint folder; raises Damaged. Executes nothing that it reads."""
    manifest = _read_json(path / MANIFEST)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or set(files) != {WEIGHTS, TRAINING, META}:
        raise Damaged(f"{path / MANIFEST} is not a checkpoint's list of files")
    if manifest.get("format") != _FORMAT:
        given = quoted(manifest.get("format"))
        raise Damaged(f"{path / MANIFEST} has format {given}, not {_FORMAT}")
    contents = {name: _read_verified(path / name, entry) for name, entry in files.items()}
    import safetensors.torch

    tensors: dict[str, Tensor] = {}
    for name in (WEIGHTS, TRAINING):
        try:
            tensors |= safetensors.torch.load(contents[name])
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise Damaged(f"{path / name} holds no tensors: {one_line(error)[:200]}") from None
    meta = _parse_json(contents[META], path / META)
    try:
        step = read(_Meta, meta, extra="ignore").step
    except Invalid as error:
        raise Damaged(f"{path / META} is no checkpoint's: {one_line(error)}") from None
    return Checkpoint(path, step, tensors, meta)


def load_last(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint (None when there is none) and a line about every damaged newer one."""
    damaged: list[str] = []
    for step in reversed(steps(folder)):
        try:
            return load(folder / _name(step)), damaged
        except Damaged as error:
            damaged.append(str(error))
    return None, damaged


def say_damaged(damaged: list[str]) -> None:
    """A warning for each checkpoint that was passed over (`load_last`, `load_best`)."""
    for line in damaged:
        print(f"warning: {line}; falling back", file=sys.stderr)


def load_best(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The whole checkpoint with the highest score, the last one where none has a score, and damages."""
    damaged: list[str] = []
    for step in sorted(steps(folder), key=lambda at: (_score(folder, at), at), reverse=True):
        try:
            return load(folder / _name(step)), damaged
        except Damaged as error:
            damaged.append(str(error))
    return None, damaged


def clean(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for item in folder.glob(".partial-*"):
        shutil.rmtree(item, ignore_errors=True)


def _name(step: int) -> str:
    return f"step_{step:012d}"


def _write_files(
    folder: Path, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    import safetensors.torch

    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    weights = {key: value for key, value in plain.items() if key.startswith("weights/")}
    training = {key: value for key, value in plain.items() if key not in weights}
    contents = {
        WEIGHTS: safetensors.torch.save(weights),
        TRAINING: safetensors.torch.save(training),
        META: json.dumps(finite({**meta, "step": step}), indent=1, allow_nan=False).encode(),
    }
    files = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    contents[MANIFEST] = json.dumps({"format": _FORMAT, "files": files}, indent=1).encode()
    for name, content in contents.items():
        write_synced(folder / name, content)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_verified(path: Path, entry: Any) -> bytes:
    content = _read(path, _MOST_BYTES)
    if not isinstance(entry, dict) or entry.get("bytes") != len(content):
        expected = entry.get("bytes") if isinstance(entry, dict) else "?"
        raise Damaged(f"{path} has {len(content)} bytes, {quoted(expected)} were written")
    if entry.get("sha256") != hashlib.sha256(content).hexdigest():
        raise Damaged(f"{path} is not what was written: its checksum differs")
    return content


def _read(path: Path, most: int) -> bytes:
    try:
        return read_bytes(path, most)
    except FileNotFoundError:
        raise Damaged(f"{path} cannot be read: no such file") from None
    except Unreadable as error:
        raise Damaged(str(error)) from None


def _read_json(path: Path) -> Any:
    return _parse_json(_read(path, _MOST_META), path)


def _parse_json(content: bytes, path: Path) -> Any:
    try:
        return parse_json(content, str(path))
    except Unreadable:
        raise Damaged(f"{path} is not JSON") from None


def _score(folder: Path, step: int) -> float:
    try:
        meta = _read_json(folder / _name(step) / META)
        score = read(_Meta, meta, extra="ignore").score
    except (Damaged, Invalid):
        return float("-inf")
    return float("-inf") if score is None else score


def _drop_old(folder: Path) -> None:
    have = steps(folder)
    if not have:  # somebody took the folder away in this moment
        return
    keep = {*have[-_KEPT_LATEST:], max(have, key=lambda at: (_score(folder, at), at))}
    for step in have:
        if step not in keep:
            _remove(folder / _name(step))


def _remove(path: Path) -> None:
    """Rename first: a kill while files go must not leave a folder with a checkpoint's name."""
    doomed = path.with_name(f".partial-{os.getpid()}-{path.name}")
    with contextlib.suppress(OSError):
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
