"""Contiguous streams: row b of one batch goes on where row b of the batch before ended, so that memory is right."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ct_rl.errors import UserError


class Streams:
    """A corpus read by B readers side by side, each from its own place on; a batch is a function of its number alone.

    Readers start N / B tokens apart and go round: where one's part ends, it reads on into the next one's.

    Args:
        tokens: [N].
        documents: where documents start in `tokens`.
        batch: B.
        length: T, tokens of a row in a batch.
        rows: which of the B rows to give, for one of several processes; all by default.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        documents: np.ndarray,
        batch: int,
        length: int,
        rows: slice = slice(None),
    ):
        need = batch * (length + 1)
        if len(tokens) < need:
            raise UserError(
                f"the split has {len(tokens):,} tokens, {batch} streams of {length} need {need:,}: "
                "give more data, or a lower --batch or --length"
            )
        self.tokens, self.length, self.batch = tokens, length, batch
        self._starts = (np.arange(batch) * (len(tokens) // batch))[rows]
        self._documents = documents

    def __call__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Batch `number`, from 0.

        Returns:
            inputs int64 [B, T], targets int64 [B, T] (the inputs one later), and bool [B, T], True where an input is
            the first of a document.
        """
        return self.stretch(number * self.length, self.length)

    def stretch(self, start: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same of `length` tokens from each reader's token `start` on."""
        offset = np.arange(start, start + length + 1)
        place = (self._starts[:, None] + offset) % len(self.tokens)
        tokens = torch.from_numpy(self.tokens[place].astype(np.int64))
        place = place[:, :-1]
        found = np.searchsorted(self._documents, place, "right") - 1
        starts = torch.from_numpy(self._documents[found] == place)
        return tokens[:, :-1], tokens[:, 1:], starts
