"""`python -m ct_rl.lm prepare enwik8`: fetch (or take local files), check, and map a corpus."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le
from tyro.conf import Positional, arg

from ct_rl.command_line import parse
from ct_rl.errors import DONE, UserError, nearest
from ct_rl.lm import books, corpus, text_files
from ct_rl.lm.corpus import SPLITS, Corpus
from ct_rl.lm.download import Remote, download
from ct_rl.lm.sources import PREPARED
from ct_rl.lm.vocabulary import Bytes, Subwords, Words, line_words, require_tokenizers
from ct_rl.reader import Text, shown

PROG = "ct_rl.lm prepare"
_MAHONEY = "http://mattmahoney.net/dc"

# Sizes and checksums as published: enwik8's and text8's archives, WikiText-103's.
REMOTES = {
    "enwik8": Remote(
        f"{_MAHONEY}/enwik8.zip",
        36_445_475,
        "sha256:547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
    ),
    "text8": Remote(
        f"{_MAHONEY}/text8.zip",
        checksum="sha256:a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
    ),
    "wikitext103": Remote(
        "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-103-v1.zip",
        checksum="sha1:0aec09a7537b58d4bb65362fee27650eeaba625a",
    ),
}
_ENDS = (90_000_000, 95_000_000, 100_000_000)  # of the three splits of enwik8 and text8
NAMES = [*PREPARED, "words", "subwords"]
_OF_SUBWORDS = ("pg19", "subwords")
_URL = re.compile(r"\w+://[^/\s]+(/\S*)?")
# Rae et al. 2019, table 1.
PG19_WORDS = {"train": 1_973_136_207, "valid": 3_007_061, "test": 6_966_499}
PG19_BOOKS = {"train": 28_602, "valid": 50, "test": 100}


@dataclass
class Arguments:
    """Make a corpus of a known data set or of a text of one's own."""

    name: Positional[Text]
    """enwik8, text8, wikitext103, pg19; or words, subwords for files of one's own (--from)."""
    source: Annotated[Text | None, arg(name="from")] = None
    """Local file, archive or folder; fetched where absent."""
    out: Text | None = None
    """Folder to make; data/NAME where absent."""
    vocab: Annotated[int, Ge(257), Le(10**7)] | None = None
    """Subwords in the vocabulary of pg19 and subwords; 32,000 where absent."""
    url: Text | None = None
    """Another place to fetch from: of the file, or of pg19's folder."""


def command(argv: list[str]) -> int:
    """Read the flags, prepare, say what was made."""
    flags = parse(Arguments, argv, prog=PROG)
    if flags.name not in NAMES:
        hint = nearest(flags.name, NAMES)
        raise UserError(f"unknown data set {flags.name!r}{hint}: choose one of {', '.join(NAMES)}")
    if flags.vocab is not None and flags.name not in _OF_SUBWORDS:
        raise UserError(f"--vocab is of subwords, and {flags.name} has none: leave it out")
    if flags.url is not None and (flags.source is not None or flags.name in ("words", "subwords")):
        raise UserError("--url is where to fetch from, and nothing is fetched here: leave it out")
    if flags.url is not None and not _URL.fullmatch(flags.url):
        raise UserError(f"--url {shown(flags.url)}: expected https://HOST/PATH")
    out = Path(flags.out or f"data/{flags.name}")
    if out.exists() and not (out.is_dir() and corpus.is_corpus(out)):
        raise UserError(f"{out} is there and no corpus: give another --out")
    if corpus.is_corpus(out):
        _require_asked(flags, out, corpus.load(out))
        print(f"{out} is prepared already")
        return DONE
    _make(flags, out)
    made = corpus.load(out)
    _require_asked(flags, out, made)  # another start may have been first
    print(
        f"{out}: {made.name}, {made.split_label}, vocabulary {made.vocabulary.size:,} "
        f"{made.vocabulary.kind}; next: python -m ct_rl.lm train --data {shlex.quote(str(out))}"
    )
    return DONE


def _origin(flags: Arguments) -> dict[str, Any]:
    """What a corpus is made of; a --url is not among it, what it gives is checked."""
    source = None if flags.source is None else Path(flags.source).resolve()
    return {
        "name": flags.name,
        "source": None if source is None else str(source),
        "text": _facts(source) if source is not None and source.exists() else None,
        "vocab": (flags.vocab or 32_000) if flags.name in _OF_SUBWORDS else None,
    }


def _facts(source: Path) -> str:
    """A word that changes when a file of the source does, and not when it is moved or corpora are made in it."""
    found = (path for path in source.rglob("*") if not corpus.is_corpus(path.parent))
    files = sorted(path for path in found if path.is_file()) or [source]
    facts = [(path.relative_to(source).as_posix(), path.stat()) for path in files]
    told = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in facts]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:24]


def _require_asked(flags: Arguments, out: Path, found: Corpus) -> None:
    """Raise UserError where a corpus is of something else than the flags say; older ones do not tell."""
    asked = _origin(flags)
    said = {"name": ("as", "name"), "text": ("from", "source"), "vocab": ("with --vocab", "vocab")}
    for key, (what, told) in said.items():
        if asked[key] is None or found.origin.get(key, asked[key]) == asked[key]:
            continue
        before, now = found.origin[told] or "the network", asked[told]
        raise UserError(
            f"{out} was prepared {what} {before}, not {now if now != before else 'as it is now'}: "
            "give another --out"
        )


def _make(flags: Arguments, out: Path) -> None:
    origin = _origin(flags)
    if flags.source is not None and not Path(flags.source).exists():
        raise UserError(
            f"there is no {flags.source}: give a file, an archive or a folder as --from"
        )
    if flags.name == "pg19":
        require_tokenizers()
        folder = Path(flags.source or books.fetch(out.parent / "downloads" / "pg19", flags.url))
        found = {split: books.find(folder, split) for split in SPLITS}
        _subwords(found, origin, out, "PG-19", PG19_WORDS, PG19_BOOKS)
        return
    if flags.name in ("words", "subwords"):
        if flags.source is None:
            raise UserError(f"{flags.name} needs a text of your own: give it with --from")
        source = Path(flags.source)
        splits = text_files.three_splits(source)
        if flags.name == "words":
            _words(splits, origin, out, source.name)
        else:
            _subwords(splits, origin, out, source.name, {}, {})
        return
    remote = REMOTES[flags.name]
    if flags.url is not None:
        remote = Remote(flags.url, checksum=remote.checksum)
    if flags.source is not None:
        source = Path(flags.source)
    else:
        source = download(remote, out.parent / "downloads", Progress(remote.name))
    if flags.name == "wikitext103":
        _words(text_files.wikitext(source), origin, out, "WikiText-103")
    else:
        _bytes(text_files.member(source, flags.name), origin, out, flags.name)


def _bytes(content: Iterator[bytes], origin: dict[str, Any], out: Path, name: str) -> None:
    """A 100 MB file of bytes, cut at 90, 5 and 5."""
    bounds = dict(zip(SPLITS, _ENDS, strict=True))
    with corpus.writing(out, Bytes(), name) as writer:
        writer.origin = origin
        at = 0
        for begins, piece in text_files.pages(content):
            if begins:
                writer.document(next((s for s, end in bounds.items() if at < end), "test"))
            rest = piece
            while rest:
                split = next((s for s, bound in bounds.items() if at < bound), None)
                if split is None:
                    raise UserError(
                        f"{name} has more than its {_ENDS[-1]:,} bytes: give the file itself"
                    )
                room = bounds[split] - at
                writer.add(split, text_files.as_array(rest[:room]))
                at += min(room, len(rest))
                rest = rest[room:]
        if at != bounds["test"]:
            raise UserError(f"{name} has {at:,} bytes, not {_ENDS[-1]:,}: give the whole file")


def _words(
    splits: dict[str, text_files.Text], origin: dict[str, Any], out: Path, name: str
) -> None:
    counts: Counter[str] = Counter()
    for line in splits["train"].lines():
        counts.update(line_words(line))
    vocabulary = Words.from_counts(counts)
    with corpus.writing(out, vocabulary, name) as writer:
        writer.origin = origin
        for split, text in splits.items():
            total = 0
            for lines in text.pieces():
                for document in text_files.articles(lines):
                    if document.begins:
                        writer.document(split)
                    tokens = vocabulary.encode(document.text)
                    writer.add(split, tokens)
                    total += len(tokens)
            writer.words[split] = total


def _subwords(
    splits: dict[str, list[Path]] | dict[str, text_files.Text],
    origin: dict[str, Any],
    out: Path,
    name: str,
    official_words: dict[str, int],
    official_books: dict[str, int],
) -> None:
    """Byte-level BPE of the training split; words are counted, or the official number for the official books."""

    def texts(split: str) -> Iterator[str]:
        given = splits[split]
        if isinstance(given, text_files.Text):
            yield from given.pieces()
        else:
            yield from (text_files.decode(path.read_bytes(), path) for path in given)

    vocabulary = Subwords.train(texts("train"), origin["vocab"])
    with corpus.writing(out, vocabulary, name) as writer:
        writer.origin = origin
        for split in SPLITS:
            count, number = 0, 0
            for text in texts(split):
                if not isinstance(
                    splits[split], text_files.Text
                ):  # a book; a text's pieces are one document
                    writer.document(split)
                writer.add(split, vocabulary.encode(text))
                count += len(text.split())
                number += 1
            whole = official_books.get(split) == number
            writer.words[split] = official_words[split] if whole else count


class Progress:
    """One line that tells how far a download is."""

    def __init__(self, name: str):
        self.name, self._shown, self._begun = name, 0.0, time.monotonic()

    def __call__(self, have: int, total: int | None) -> None:
        now = time.monotonic()
        done = total is not None and have >= total
        if now - self._shown < 0.5 and not done:
            return
        self._shown = now
        of = f" of {total / 1e6:,.1f}" if total else ""
        live = sys.stderr.isatty()
        end = "\n" if done or not live else ""
        start = "\r" if live else ""
        print(f"{start}{self.name}: {have / 1e6:,.1f}{of} MB", end=end, file=sys.stderr)
