"""Instructions as numbers: hashed words in a fixed array, as IMPALA's language encoder reads them."""

from __future__ import annotations

import re
import zlib

import numpy as np
from gymnasium import spaces

from envs.dmlab.settings import VOCABULARY, WORDS


def instruction_space(words: int = WORDS, vocabulary: int = VOCABULARY) -> spaces.MultiDiscrete:
    """What `hash_words` gives: int64 [words], 0 for no word."""
    return spaces.MultiDiscrete(np.full(words, vocabulary))


def hash_words(text: str, words: int = WORDS, vocabulary: int = VOCABULARY) -> np.ndarray:
    """The text's first words as 1 ... vocabulary - 1, then zeros: int64 [words].

    A word is hashed alone, without case or punctuation, by CRC-32: the same in every process and on every machine.
    """
    found = re.findall(r"[a-z0-9]+", text.lower())[:words]
    hashed = np.zeros(words, np.int64)
    hashed[: len(found)] = [1 + zlib.crc32(word.encode()) % (vocabulary - 1) for word in found]
    return hashed
