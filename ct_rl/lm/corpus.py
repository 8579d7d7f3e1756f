"""Corpora: tokens in three splits, memory-mapped, with the places where documents start.

On disk a corpus is a folder: `SPLIT.bin` (tokens), `SPLIT.documents.npy` (starts), `vocabulary.json` and, written
last, `corpus.json`. It is written under another name and renamed, so what bears its name is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ct_rl.errors import UserError, is_disk_error, os_message
from ct_rl.lm import vocabulary as vocabularies
from ct_rl.lm.vocabulary import Vocabulary
from ct_rl.plain_files import partial_name, write_synced

_AGAIN = "remove it, and prepare the data again (a corpus below a cache makes itself again)"
SPLITS = ("train", "valid", "test")
FILE = "corpus.json"
_FORMAT = 1
_LEAST = 2  # tokens of a split: one to read and one to price


@dataclass(frozen=True)
class Corpus:
    """Tokens to learn from.

    Attributes:
        name: what figures are labelled with.
        tokens: of each split, [N].
        documents: where documents start in each split, ascending, the first at 0.
        words: official number of words of a split, where perplexity is counted by words and tokens are not words.
        origin: what `prepare` was asked for; empty for other corpora.
    """

    name: str
    vocabulary: Vocabulary
    tokens: dict[str, np.ndarray]
    documents: dict[str, np.ndarray]
    words: dict[str, int] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def split_label(self) -> str:
        """The sizes of the splits, for figures: "90/5/5 MB"."""
        unit = "MB" if self.vocabulary.kind == "bytes" else "M tokens"
        sizes = [len(self.tokens[split]) / 1e6 for split in SPLITS]
        return "/".join(f"{size:.3g}" for size in sizes) + f" {unit}"


class Writer:
    """Writes a corpus, split by split and piece by piece."""

    def __init__(self, folder: Path, vocabulary: Vocabulary, name: str):
        self.folder, self.vocabulary, self.name = folder, vocabulary, name
        self.words: dict[str, int] = {}
        self.origin: Mapping[str, Any] = {}
        self._sizes = dict.fromkeys(SPLITS, 0)
        self._starts: dict[str, list[int]] = {split: [] for split in SPLITS}

    def document(self, split: str) -> None:
        """What comes next in the split is a new document."""
        self._starts[split].append(self._sizes[split])

    def add(self, split: str, tokens: np.ndarray) -> None:
        """Append tokens."""
        with open(self.folder / f"{split}.bin", "ab") as file:
            file.write(tokens.astype(self.vocabulary.dtype).tobytes())
        self._sizes[split] += len(tokens)

    def finish(self) -> None:
        """Write what makes the folder a corpus."""
        for split in SPLITS:
            if self._sizes[split] < _LEAST:
                raise UserError(
                    f"{self.name} has {self._sizes[split] or 'nothing'} for its {split} split, "
                    f"{_LEAST} tokens are the least: give more data"
                )
            starts = np.unique(np.array([0, *self._starts[split]], np.int64))
            np.save(self.folder / f"{split}.documents.npy", starts[starts < self._sizes[split]])
        vocabularies.save(self.folder, self.vocabulary)
        meta = {
            "format": _FORMAT,
            "name": self.name,
            "tokens": self._sizes,
            "words": self.words,
            "origin": dict(self.origin),
            "vocabulary": self.vocabulary.fingerprint,
        }
        for split in SPLITS:
            _sync(self.folder / f"{split}.bin")
            _sync(self.folder / f"{split}.documents.npy")
        write_synced(self.folder / FILE, json.dumps(meta, indent=1).encode())


@contextlib.contextmanager
def writing(folder: Path, vocabulary: Vocabulary, name: str) -> Iterator[Writer]:
    """A `Writer` whose folder appears when the block is done, whole, and not at all when it fails.

    Where another start has made a corpus of that name meanwhile, that one stays; nothing is ever replaced.

    Raises:
        UserError: where the disk or its permissions do not allow it, or the name is taken by something else.
    """
    partial = partial_name(folder)
    try:
        partial.mkdir(parents=True)
        writer = Writer(partial, vocabulary, name)
        yield writer
        writer.finish()
        _name(partial, folder)
    except OSError as error:
        if not is_disk_error(error):
            raise
        raise UserError(os_message(error, f"preparing {name}; nothing was kept")) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _name(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)  # fails where there is anything but an empty folder
    except OSError as error:
        if is_disk_error(error) or not os.path.lexists(folder):
            raise
        if not is_corpus(folder):
            raise UserError(f"{folder} is there and no corpus: move it away") from None


def is_corpus(folder: Path) -> bool:
    """Whether a folder holds a prepared corpus."""
    return (folder / FILE).is_file()


def load(folder: Path) -> Corpus:
    """Map a prepared corpus into memory; raises UserError for a damaged one."""
    try:
        meta: dict[str, Any] = json.loads((folder / FILE).read_bytes())
        sizes = {split: int(meta["tokens"][split]) for split in SPLITS}
        name, expected = str(meta["name"]), str(meta["vocabulary"])
        words = {split: int(count) for split, count in meta["words"].items()}
        origin = dict(meta.get("origin", {}))
        if meta["format"] != _FORMAT:
            raise UserError(
                f"{folder} is of format {str(meta['format'])[:20]}, this version reads {_FORMAT}: {_AGAIN}"
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / FILE} is damaged: {_AGAIN}") from None
    vocabulary = vocabularies.load(folder)
    if vocabulary.fingerprint != expected:
        raise UserError(f"{folder}: tokens and vocabulary do not match: {_AGAIN}")
    tokens: dict[str, np.ndarray] = {}
    documents: dict[str, np.ndarray] = {}
    for split, size in sizes.items():
        path = folder / f"{split}.bin"
        bytes_expected = size * np.dtype(vocabulary.dtype).itemsize
        given = path.stat().st_size if path.is_file() else 0
        if given != bytes_expected:
            raise UserError(
                f"{path} has {given:,} bytes, {bytes_expected:,} were written: {_AGAIN}"
            )
        tokens[split] = np.memmap(path, vocabulary.dtype, "r")
        try:
            starts = np.load(folder / f"{split}.documents.npy")
            if starts.dtype != np.int64 or starts.ndim != 1 or not len(starts):
                raise ValueError
            documents[split] = starts
        except (OSError, ValueError, EOFError):
            raise UserError(f"{folder / split}.documents.npy is damaged: {_AGAIN}") from None
    return Corpus(name, vocabulary, tokens, documents, words, origin)


def fingerprint(tokens: np.ndarray) -> str:
    """A word that tells texts of one length apart, of 64 stretches all over it."""
    stretch = 4096
    starts = np.linspace(0, max(len(tokens) - stretch, 0), 64).astype(int)
    found = hashlib.sha256()
    for start in starts:
        found.update(np.ascontiguousarray(tokens[start : start + stretch]).tobytes())
    return found.hexdigest()[:24]


def cut(total: int) -> dict[str, slice]:
    """The paper's 90/5/5 split of `total` tokens, in this order."""
    first, second = total * 90 // 100, total * 95 // 100
    return dict(
        zip(SPLITS, (slice(first), slice(first, second), slice(second, total)), strict=True)
    )


def from_array(tokens: np.ndarray, starts: np.ndarray, vocabulary: Vocabulary, name: str) -> Corpus:
    """A corpus of one array, split 90/5/5; raises UserError where a split would have nothing to price."""
    parts = cut(len(tokens))
    if any(part.stop - part.start < _LEAST for part in list(parts.values())[1:]):
        raise UserError(
            f"{name} has {len(tokens):,} tokens, too few for three splits of 90, 5 and 5 %: give at least 40"
        )
    documents = {}
    for split, part in parts.items():
        low = part.start or 0
        inside = starts[(starts > low) & (starts < part.stop)] - low
        documents[split] = np.concatenate([[0], inside]).astype(np.int64)
    return Corpus(name, vocabulary, {k: tokens[part] for k, part in parts.items()}, documents)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
