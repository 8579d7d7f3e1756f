"""Vocabularies: what a token number means. One JSON value each, so that a run carries its own."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ct_rl.errors import UserError
from ct_rl.plain_files import write_atomically

UNKNOWN, END_OF_LINE = "<unk>", "<eos>"
FILE = "vocabulary.json"


class Vocabulary(ABC):
    """Text (or sound) to token numbers and back."""

    kind: str
    size: int

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """The smallest type that holds every token."""
        return np.uint8 if self.size <= 2**8 else np.uint16 if self.size <= 2**16 else np.uint32

    @property
    def fingerprint(self) -> str:
        """Equal for equal vocabularies."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """A value that `from_json` turns back into this vocabulary."""

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Token numbers of a text."""

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> bytes:
        """UTF-8 (for bytes and sound whatever they are) of tokens."""


class Bytes(Vocabulary):
    """256 bytes; text is UTF-8."""

    kind, size = "bytes", 256

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def encode(self, text: str) -> np.ndarray:
        # A terminal's bytes that are no text of its encoding come as surrogates, and are bytes again here.
        return np.frombuffer(text.encode(errors="surrogateescape"), np.uint8)

    def decode(self, tokens: Iterable[int]) -> bytes:
        return bytes(tokens)


class MuLaw(Vocabulary):
    """256 levels of a waveform (ITU-T G.711's curve with mu = 255), at one sample rate [Hz]."""

    kind, size = "audio", 256

    def __init__(self, sample_rate: int):
        self.sample_rate = sample_rate

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "sample_rate": self.sample_rate}

    def encode(self, text: str) -> np.ndarray:
        raise UserError("this run models sound: give a WAV or FLAC file as prompt, not text")

    def decode(self, tokens: Iterable[int]) -> bytes:
        return bytes(tokens)


class Words(Vocabulary):
    """Words between blanks, the most frequent first; a line ends with `<eos>`."""

    kind = "words"

    def __init__(self, words: list[str], counts: list[int] | None = None):
        self.words, self.size = words, len(words)
        self.counts = counts
        self._numbers = {word: number for number, word in enumerate(words)}

    @classmethod
    def from_counts(cls, counts: dict[str, int]) -> Words:
        """Every word counted, by falling count; `<unk>` is always among them."""
        counts = {UNKNOWN: 0, **counts}
        words = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(words, [counts[word] for word in words])

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "words": self.words, "counts": self.counts}

    def encode(self, text: str) -> np.ndarray:
        unknown = self._numbers[UNKNOWN]
        numbers = [
            self._numbers.get(word, unknown)
            for line in re.findall(r"[^\n]*\n|[^\n]+", text)
            for word in line_words(line)
        ]
        return np.array(numbers, self.dtype)

    def decode(self, tokens: Iterable[int]) -> bytes:
        words = (self.words[token] for token in tokens)
        return "".join("\n" if word == END_OF_LINE else f"{word} " for word in words).encode()


class Subwords(Vocabulary):
    """Byte-level byte-pair encoding by the `tokenizers` library."""

    kind = "subwords"

    def __init__(self, serialised: str):
        self._json = serialised
        self.tokenizer = require_tokenizers().Tokenizer.from_str(serialised)
        self.size = self.tokenizer.get_vocab_size()

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> Subwords:
        """The `size` subwords that suit `texts`."""
        lib = require_tokenizers()
        tokenizer = lib.Tokenizer(lib.models.BPE())
        tokenizer.pre_tokenizer = lib.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = lib.decoders.ByteLevel()
        alphabet = lib.pre_tokenizers.ByteLevel.alphabet()
        trainer = lib.trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer.to_str())

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "tokenizer": self._json}

    def encode(self, text: str) -> np.ndarray:
        return np.array(self.tokenizer.encode(text).ids, self.dtype)

    def decode(self, tokens: Iterable[int]) -> bytes:
        return self.tokenizer.decode(list(tokens)).encode()


def line_words(line: str) -> list[str]:
    """The tokens of one line, `<eos>` for its end."""
    return line.split() + [END_OF_LINE] * line.endswith("\n")


def require_tokenizers() -> Any:
    """The `tokenizers` library, or one line that says how to get it."""
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            "subwords need the package tokenizers: pip install 'ct_rl[tokenizers]'"
        ) from None
    return tokenizers


def from_json(value: dict[str, Any]) -> Vocabulary:
    """The vocabulary that `to_json` wrote; raises KeyError, TypeError or ValueError for anything else."""
    kind = value["kind"]
    if kind == "bytes":
        return Bytes()
    if kind == "audio":
        return MuLaw(int(value["sample_rate"]))
    if kind == "words":
        return Words(list(value["words"]), value["counts"])
    if kind == "subwords":
        return Subwords(value["tokenizer"])
    raise ValueError(f"unknown kind of vocabulary {kind!r}")


def save(folder: Path, vocabulary: Vocabulary) -> None:
    """Write a vocabulary into a folder."""
    write_atomically(folder / FILE, json.dumps(vocabulary.to_json()).encode())


def load(folder: Path) -> Vocabulary:
    """Read the vocabulary of a folder; raises UserError where there is none."""
    path = folder / FILE
    try:
        return from_json(json.loads(path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UserError:
        raise
    except Exception:  # of the tokenizers library, too
        raise UserError(f"{path} is no vocabulary: prepare the data again") from None
