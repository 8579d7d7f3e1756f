"""Batches as contiguous streams."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ct_rl.errors import UserError
from ct_rl.lm.model import LanguageModel
from ct_rl.lm.streams import Streams
from ct_rl.memory import build_memory


def test_each_row_reads_on_where_it_stopped_and_round_at_the_end():
    streams = Streams(np.arange(50), np.array([0, 20]), batch=2, length=10)
    rows = [streams(number) for number in range(6)]
    assert torch.cat([x[0] for x, _, _ in rows]).tolist() == [*range(50), *range(10)]
    assert torch.cat([x[1] for x, _, _ in rows]).tolist() == [*range(25, 50), *range(35)]
    for x, y, starts in rows:
        assert torch.equal((x + 1) % 50, y)
        assert torch.equal(starts, (x == 0) | (x == 20))


def test_a_process_reads_its_own_rows_of_the_same_batch():
    whole = Streams(np.arange(97), np.array([0]), 4, 8)(3)[0]
    halves = [Streams(np.arange(97), np.array([0]), 4, 8, rows)(3)[0] for rows in
              (slice(0, 2), slice(2, 4))]  # fmt: skip
    assert torch.equal(whole, torch.cat(halves))


def test_too_little_data_is_refused_with_what_would_do():
    with pytest.raises(UserError, match="4 streams of 32 need 132"):
        Streams(np.arange(100), np.array([0]), 4, 32)


def test_shuffling_the_streams_breaks_memory():
    """Five tokens of six repeat the one 12 before, further back than a batch reaches: memory alone can tell."""

    def last_loss(shuffle):
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        tokens = np.tile(rng.integers(0, 8, (200, 1, 12)), (1, 6, 1)).flatten()
        streams = Streams(tokens, np.zeros(1, np.int64), 8, 6)
        core = build_memory(
            "transformer_xl", d_model=32, n_layers=1, n_heads=2, d_ff=64, window=6, memory=12
        )
        model = LanguageModel(8, core)
        adam = torch.optim.Adam(model.parameters(), 1e-2)
        state, losses = model.initial_state(8), []
        for number in range(150):
            x, y, _ = streams(number)
            if shuffle:
                order = torch.randperm(8)
                x, y = x[order], y[order]
            read = model(x, y, state)
            state = read.state
            adam.zero_grad()
            read.nll.mean().backward()
            adam.step()
            losses.append(read.nll.mean().item())
        return np.mean(losses[-10:])

    contiguous, shuffled = last_loss(False), last_loss(True)
    guess = float(F.cross_entropy(torch.zeros(1, 8), torch.zeros(1, dtype=torch.long)))
    assert contiguous < 0.5 * guess
    assert shuffled > 0.9 * guess
