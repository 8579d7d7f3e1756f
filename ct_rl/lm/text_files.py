"""Texts to prepare: archives, encodings, articles."""

from __future__ import annotations

import contextlib
import itertools
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ct_rl.errors import UserError
from ct_rl.lm.corpus import SPLITS

_PIECE = 1 << 22
_TITLE = re.compile(r"^ = [^=].* = \n$")  # WikiText's first line of an article


@dataclass
class Text:
    """A text that can be read several times.

    Attributes:
        open: a new binary stream of it.
        name: for messages.
        part: the bytes that belong to it, start and stop; None for all.
    """

    open: Callable[[], IO[bytes]]
    name: str
    part: tuple[int, int] | None = None

    def lines(self) -> Iterator[str]:
        """Lines with their ends; raises UserError where it is not UTF-8 or its archive is broken."""
        start, stop = self.part or (0, 1 << 62)
        with reading(self.name), self.open() as file:
            file.seek(start)
            at = start
            for line in file:
                if at >= stop:
                    break
                kept = line[: stop - at]
                yield decode(kept, self.name, at)
                at += len(line)

    def pieces(self) -> Iterator[str]:
        """Several lines at a time, some megabytes."""
        held: list[str] = []
        size = 0
        for line in self.lines():
            held.append(line)
            size += len(line)
            if size > _PIECE:
                yield "".join(held)
                held, size = [], 0
        if held:
            yield "".join(held)


@dataclass
class Article:
    """Text, and whether a document begins with it."""

    text: str
    begins: bool


def articles(piece: str) -> Iterator[Article]:
    """WikiText's articles in a piece of it; a piece without titles is one that goes on."""
    held: list[str] = []
    begins = False
    for line in piece.splitlines(keepends=True):
        if _TITLE.match(line):
            if held:
                yield Article("".join(held), begins)
            held, begins = [], True
        held.append(line)
    if held:
        yield Article("".join(held), begins)


def three_splits(source: Path) -> dict[str, Text]:
    """A folder's train.txt, valid.txt and test.txt, or one file's first 90, next 5 and last 5 % at line ends."""
    if source.is_dir():
        paths = {split: source / f"{split}.txt" for split in SPLITS}
        missing = [path.name for path in paths.values() if not path.is_file()]
        if missing:
            raise UserError(
                f"{source} has no {', '.join(missing)}: give a file, or a folder with all three"
            )
        return {split: _file(path) for split, path in paths.items()}
    size = source.stat().st_size
    bounds = [0, _line_end(source, size * 90 // 100), _line_end(source, size * 95 // 100), size]
    if not all(a < b for a, b in itertools.pairwise(bounds)):
        raise UserError(
            f"{source} has {size:,} bytes, too few lines for three splits: give more text"
        )
    parts = zip(SPLITS, bounds, bounds[1:], strict=False)
    return {
        split: Text(lambda: open(source, "rb"), str(source), (start, stop))
        for split, start, stop in parts
    }


def wikitext(source: Path) -> dict[str, Text]:
    """WikiText's three files, from its archive or a folder."""
    names = {split: f"wiki.{split}.tokens" for split in SPLITS}
    if source.is_dir():
        found = {split: next(source.rglob(name), None) for split, name in names.items()}
        missing = [names[split] for split, path in found.items() if path is None]
        if missing:
            raise UserError(f"{source} has no {', '.join(missing)}")
        return {split: _file(path) for split, path in found.items() if path is not None}
    archive = _archive(source)
    members = {Path(name).name: name for name in archive.namelist()}
    missing = [name for name in names.values() if name not in members]
    if missing:
        raise UserError(f"{source} has no {', '.join(missing)}")
    return {
        split: Text(lambda name=members[name]: archive.open(name), f"{source}:{name}")  # type: ignore[misc]
        for split, name in names.items()
    }


def member(source: Path, name: str) -> Iterator[bytes]:
    """The content of file `name`: the file itself, in an archive or in a folder; piece by piece."""
    if source.is_dir():
        source = source / name
        if not source.is_file():
            raise UserError(f"there is no {source}: give the file or its archive with --from")
    if source.suffix != ".zip":
        with open(source, "rb") as file:
            yield from iter(lambda: file.read(_PIECE), b"")
        return
    archive = _archive(source)
    if name not in archive.namelist():
        raise UserError(f"{source} holds no {name}")
    with reading(str(source)), archive.open(name) as packed:
        yield from iter(lambda: packed.read(_PIECE), b"")


def pages(content: Iterator[bytes]) -> Iterator[tuple[bool, bytes]]:
    """Wikipedia's pages in a dump that comes in pieces: bytes, and whether a page begins with them."""
    rest, begins = b"", False
    for piece in content:
        *whole, rest = re.split(rb"(?=  <page>)", rest + piece)
        for text in whole:
            yield begins, text
            begins = True
        # What is not yet a mark may become one: its length less one waits.
        if len(rest) > 7:
            yield begins, rest[:-7]
            rest, begins = rest[-7:], False
    if rest:
        yield begins, rest


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns a broken archive into one line."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(
            f"{name} is a broken archive ({error}): remove it, and fetch it again"
        ) from None
    except RuntimeError as error:  # a password, a compression of another kind
        raise UserError(f"{name} cannot be unpacked here ({error}): give the file itself") from None


def decode(content: bytes, name: object, offset: int = 0) -> str:
    """UTF-8; raises UserError naming the place where it is something else."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 (byte {offset + error.start:,}): convert it first, as by iconv -t UTF-8"
        ) from None


def as_array(content: bytes) -> np.ndarray:
    """Bytes [N]."""
    return np.frombuffer(content, np.uint8)


def _file(path: Path) -> Text:
    return Text(lambda: open(path, "rb"), str(path))


def _archive(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{source} is a broken archive ({error}): remove it, and fetch it again"
        ) from None


def _line_end(path: Path, at: int) -> int:
    with open(path, "rb") as file:
        file.seek(at)
        file.readline()
        return file.tell()
