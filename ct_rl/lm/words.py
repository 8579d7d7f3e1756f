"""Words in tokens, and what they cost by how often the training split has them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np

from ct_rl.lm.corpus import Corpus
from ct_rl.lm.evaluation import Prices
from ct_rl.lm.vocabulary import Words

# The paper's table 6: times that the training split has a word.
BOUNDS = (10_000, 1_000, 100, 0)
LABELS = (">10K", "1K-10K", "100-1K", "<100")
_BLANKS = np.frombuffer(b" \t\n\r\x0b\x0c", np.uint8)
_PIECE = 1 << 24


def by_frequency(prices: Prices, corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Words, mean nats a word and perplexity in each bucket of training frequency; empty for sound and subwords.

    A word of bytes is what stands between blanks, with the blank behind it; its price is the sum over its bytes.
    """
    kind = corpus.vocabulary.kind
    if kind == "words":
        counts = _token_counts(corpus)
        frequency, nats = counts[prices.targets], prices.nats.astype(np.float64)
    elif kind == "bytes":
        words, nats = _byte_words(prices)
        known = _byte_counts(corpus.tokens["train"], set(words))
        frequency = np.array([known[word] for word in words], np.int64)
    else:
        return {}
    buckets = {}
    upper = math.inf
    for bound, label in zip(BOUNDS, LABELS, strict=True):
        inside = (frequency >= bound) & (frequency < upper)
        upper = bound
        count = int(inside.sum())
        if count:
            mean = float(nats[inside].mean())
            buckets[label] = {"words": count, "nats": mean, "perplexity": math.exp(min(mean, 700))}
    return buckets


def count_words(tokens: np.ndarray) -> int:
    """Words between blanks in bytes [N]."""
    blank = np.isin(tokens, _BLANKS)
    return int((~blank & np.concatenate([[True], blank[:-1]])).sum())


def _token_counts(corpus: Corpus) -> np.ndarray:
    vocabulary = corpus.vocabulary
    if isinstance(vocabulary, Words) and vocabulary.counts is not None:
        return np.array(vocabulary.counts, np.int64)
    return np.bincount(corpus.tokens["train"], minlength=vocabulary.size)


def _byte_words(prices: Prices) -> tuple[list[bytes], np.ndarray]:
    """The words whose every byte was priced, and the price of each."""
    blank = np.isin(prices.targets, _BLANKS)
    edges = np.concatenate([[-1], np.nonzero(blank)[0]])
    total = np.concatenate([[0], prices.nats.cumsum(dtype=np.float64)])
    text = prices.targets.tobytes()
    words, nats = [], []
    for before, end in itertools.pairwise(edges[1:]):
        if end - before > 1:
            words.append(text[before + 1 : end])
            nats.append(total[end + 1] - total[before + 1])
    return words, np.array(nats)


def _byte_counts(tokens: np.ndarray, wanted: set[bytes]) -> Counter[bytes]:
    counts: Counter[bytes] = Counter()
    rest = b""
    for start in range(0, len(tokens), _PIECE):
        text = rest + tokens[start : start + _PIECE].tobytes()
        words = text.split()
        rest = words.pop() if words and not text[-1:].isspace() else b""
        counts.update(word for word in words if word in wanted)
    counts.update([rest] if rest in wanted else [])
    return counts
