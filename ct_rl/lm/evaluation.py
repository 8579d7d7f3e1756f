"""The price of a text: nats of every token, and the figures made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ct_rl.errors import UserError
from ct_rl.lm.corpus import Corpus
from ct_rl.lm.dynamic import DynamicWeights
from ct_rl.lm.model import LanguageModel
from ct_rl.lm.streams import Streams
from ct_rl.lm.trainer import autocast


@dataclass
class Prices:
    """What a model makes of a stretch of tokens.

    Attributes:
        nats: float32 [N], of each target, in the order of the text.
        targets: [N].
        first: the place of the first target in its split.
    """

    nats: np.ndarray
    targets: np.ndarray
    first: int = 1

    @property
    def bits(self) -> float:
        """Mean bits a token: bpc where tokens are bytes."""
        return float(self.nats.mean(dtype=np.float64)) / math.log(2)

    @property
    def perplexity(self) -> float:
        """exp of the mean nats a token."""
        return math.exp(min(float(self.nats.mean(dtype=np.float64)), 700.0))


def price(
    model: LanguageModel,
    corpus: Corpus,
    split: str,
    *,
    batch: int = 1,
    length: int = 128,
    tokens: int | None = None,
    reset_at_documents: bool = False,
    precision: str = "float32",
    dynamic: DynamicWeights | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Prices:
    """Reads a split with memory carried on, one reader for each of `batch` stretches.

    Args:
        tokens: how many to read at most, all by default; what is left of a division by `batch` is not read.
        dynamic: weights that go on learning from what was read (dynamic evaluation); restored afterwards.
        watch: called with the tokens read and all, now and then.
    """
    whole, documents = corpus.tokens[split], corpus.documents[split]
    if tokens is not None:
        whole = whole[: tokens + 1]
    span = (len(whole) - 1) // batch
    if span < 1:
        raise UserError(
            f"the {split} split has {len(whole):,} tokens, {batch} readers need {batch + 1:,}: "
            "give more data or a lower --batch"
        )
    length = min(length, span)
    device = next(model.parameters()).device
    streams = Streams(whole[: span * batch + 1], documents[documents < span * batch], batch, 1)
    was_training = model.training
    model.eval()
    state = model.initial_state(batch)
    parts: list[Tensor] = []
    try:
        for start in range(0, span, length):
            x, y, starts = streams.stretch(start, min(length, span - start))
            resets = starts.to(device) if reset_at_documents else None
            with (
                torch.set_grad_enabled(dynamic is not None),
                autocast(device, precision),
            ):
                read = model(x.to(device), y.to(device), state, resets)
            state = read.state
            parts.append(read.nll.detach().float().cpu())
            if dynamic is not None:
                dynamic.learn(read.nll.mean())
            if watch is not None:
                watch((start + x.shape[1]) * batch, span * batch)
    finally:
        if dynamic is not None:
            dynamic.restore()
        model.train(was_training)
    nats = torch.cat(parts, 1).numpy().reshape(-1)
    return Prices(nats, np.asarray(whole[1 : span * batch + 1]))


def word_perplexity(prices: Prices, words: int) -> float:
    """exp of total nats over the number of words, whatever the tokens are (Rae et al. 2019, section 4.2)."""
    return math.exp(min(float(prices.nats.sum(dtype=np.float64)) / words, 700.0))
