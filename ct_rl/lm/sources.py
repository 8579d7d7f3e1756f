"""Where data comes from when nothing was prepared: any file or folder, and text that every Python brings along."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
import shlex
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ct_rl.errors import UserError
from ct_rl.lm import audio, corpus
from ct_rl.lm.corpus import Corpus
from ct_rl.lm.vocabulary import Bytes, MuLaw

PYTHON, PROSE = "python", "pydoc"
PREPARED = ("enwik8", "text8", "wikitext103", "pg19")  # what `prepare` makes
_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "lib-dynload"}


def open_data(data: str, sample_rate: int = 16_000) -> Corpus:
    """The corpus that `data` names.

    Args:
        data: "python" (the standard library's sources), "pydoc" (its language reference, prose), a folder that
            `prepare` made, a text file or a folder of them (bytes), a WAV or FLAC file or a folder of them.
        sample_rate: of sound [Hz].

    Raises:
        UserError: for what is missing, empty or too small.
    """
    if data == PYTHON:
        root = Path(sysconfig.get_paths()["stdlib"])
        return _from_files("python standard library", root, sorted(_sources(root)))
    if data == PROSE:
        spec = importlib.util.find_spec("pydoc_data.topics")
        if spec is None or spec.origin is None:
            raise UserError("this Python has no pydoc_data.topics: give --data FILE")
        return open_prose()
    path = Path(data)
    if not path.exists():
        if path.name in PREPARED:
            raise UserError(
                f"there is no {data}: make it by "
                f"python -m ct_rl.lm prepare {path.name} --out {shlex.quote(data)}"
            )
        raise UserError(
            f"there is no {data}: give a file, a folder, {PYTHON!r} or {PROSE!r} as --data"
        )
    if path.is_dir() and corpus.is_corpus(path):
        return corpus.load(path)
    files = [path] if path.is_file() else sorted(_all_files(path))
    sounds = [file for file in files if audio.is_sound(file)]
    name = path.resolve().name
    if 0 < len(sounds) < len(files):
        raise UserError(
            f"{data} holds {len(sounds)} files of sound and {len(files) - len(sounds)} others: "
            "give a folder of one kind"
        )
    if sounds:
        return _from_sound(name, path, sounds, sample_rate)
    if path.is_dir():
        return _from_files(name, path, files)
    if not path.stat().st_size:
        raise UserError(f"{data} is empty: give a file with text")
    return corpus.from_array(
        np.memmap(path, np.uint8, "r"), np.zeros(1, np.int64), Bytes(), path.name
    )


def open_prose() -> Corpus:
    """`pydoc_data.topics`, each topic a document."""
    from pydoc_data.topics import topics

    texts = [topics[name].encode() for name in sorted(topics)]
    starts = np.cumsum([0, *map(len, texts)])[:-1]
    return corpus.from_array(
        np.frombuffer(b"".join(texts), np.uint8), starts, Bytes(), "pydoc topics"
    )


def cache_folder() -> Path:
    """Where corpora made on the way are kept: `$XDG_CACHE_HOME/ct_rl/lm`, by default under ~/.cache."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ct_rl" / "lm"
    except RuntimeError:  # a user whom the system does not know, and no HOME
        raise UserError("there is no home folder to keep data in: set XDG_CACHE_HOME") from None


def _sources(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*.py") if not _SKIPPED & set(path.relative_to(root).parts))


def _all_files(root: Path) -> Iterator[Path]:
    """The files below a folder and below folders that it links to; hidden ones are left out."""
    read = set()  # links may lead in a circle
    for folder, below, names in os.walk(root, onerror=_raise, followlinks=True):
        place = os.path.realpath(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))
        if place in read:
            below.clear()
            continue
        read.add(place)
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not name.startswith("."):
                yield path


def _raise(error: OSError) -> None:
    """A folder that cannot be read is not left out without a word."""
    raise error


def _by_hash(root: Path, files: list[Path]) -> list[Path]:
    """The files of a folder in the order of their paths' hashes, so that splits are alike."""
    return sorted(
        files,
        key=lambda file: hashlib.sha256(os.fsencode(file.relative_to(root).as_posix())).digest(),
    )


def _from_files(name: str, root: Path, files: list[Path]) -> Corpus:
    """The bytes of all files, each a document."""
    order = _by_hash(root, files)
    sizes = [file.stat().st_size for file in order]
    total = sum(sizes)
    if not total:
        raise UserError(f"{root} holds no text: give a folder with files")
    target = cache_folder() / _key("bytes", order)
    if not corpus.is_corpus(target):
        bounds = [part.stop for part in corpus.cut(total).values()]
        with corpus.writing(target, Bytes(), name) as writer:
            at = 0
            for file, size in zip(order, sizes, strict=True):
                rest = np.fromfile(file, np.uint8, size)
                if len(rest) < size:
                    raise UserError(f"{file} became shorter while it was read: start again")
                while len(rest):
                    i = next(i for i, bound in enumerate(bounds) if at < bound)
                    split, room = corpus.SPLITS[i], bounds[i] - at
                    writer.document(split)
                    writer.add(split, rest[:room])
                    at += min(room, len(rest))
                    rest = rest[room:]
    return corpus.load(target)


def _from_sound(name: str, root: Path, files: list[Path], sample_rate: int) -> Corpus:
    files = _by_hash(root, files) if root.is_dir() else files
    target = cache_folder() / _key(f"audio {sample_rate}", files)
    if not corpus.is_corpus(target):
        vocabulary = MuLaw(sample_rate)
        pieces = [audio.mu_law(audio.read(file, sample_rate)) for file in files]
        whole = corpus.from_array(
            np.concatenate(pieces),
            np.cumsum([0, *map(len, pieces)])[:-1],
            vocabulary,
            f"{name}, {sample_rate} Hz",
        )
        with corpus.writing(target, vocabulary, whole.name) as writer:
            for split in corpus.SPLITS:
                edges = [*whole.documents[split], len(whole.tokens[split])]
                for start, end in itertools.pairwise(edges):
                    writer.document(split)
                    writer.add(split, whole.tokens[split][start:end])
    return corpus.load(target)


def _key(what: str, files: list[Path]) -> str:
    """A name that changes when a file does."""
    facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((what, facts)).encode()).hexdigest()[:24]
