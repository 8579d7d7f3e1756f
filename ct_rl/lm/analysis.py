"""The paper's figures of a trained model: where it looks, what compression loses, loss against position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ct_rl.errors import UserError
from ct_rl.lm.corpus import Corpus
from ct_rl.lm.evaluation import Prices
from ct_rl.lm.model import LanguageModel
from ct_rl.lm.streams import Streams
from ct_rl.memory.means import joined

BUCKETS = 6  # of each of compressed memory, memory and window


def attention(
    model: LanguageModel,
    corpus: Corpus,
    split: str,
    *,
    length: int,
    tokens: int = 16_384,
    reset_at_documents: bool = False,
) -> dict[str, Any]:
    """Where attention goes and how well each layer compresses, once memory is full.

    Returns:
        "buckets" [L][3 x BUCKETS]: mean weight of a place, heads averaged, oldest first; "shares" [L][3]: weight on
        compressed memory, memory, window; "compression_loss" [L]. Empty for a core without attention.
    """
    device = next(model.parameters()).device
    whole = corpus.tokens[split]
    reach = model.core.context_length or 0
    span = min(len(whole) - 1, reach + tokens)
    if span < 1:
        raise UserError(f"the {split} split has one token, two are the least: give more data")
    length = min(length, span)
    documents = corpus.documents[split]
    streams = Streams(whole[: span + 1], documents[documents <= span], 1, length)
    state = model.initial_state(1)
    places, shares, losses = [], [], []
    skip = min(reach, span // 2) // length  # the first calls find memory not yet full
    # The compression loss is of training mode; dropout would be too, so each part keeps its own.
    for number in range(span // length):
        x, _, starts = (part.to(device) for part in streams.stretch(number * length, length))
        resets = starts if reset_at_documents else None
        with torch.no_grad():
            model.eval()
            out = model.run(x, state, resets, attention=number >= skip)
            if out.attention is not None:
                model.core.train()
                for part in model.core.modules():
                    if isinstance(part, torch.nn.Dropout):
                        part.eval()
                trained = model.run(x, state, resets, attention=True)
                model.eval()
                report = out.attention
                places.append(report.buckets(BUCKETS).mean(1))
                parts = (report.compressed, report.memory, report.window)
                shares.append(torch.stack([part.mean(1) for part in parts], 1))
                learning = trained.attention
                if learning is not None and learning.compression_loss is not None:
                    losses.append((learning.compression_loss, trained.terms["compression"]))
        state = out.state
    if not places:
        return {}
    found = {
        "buckets": torch.stack(places).mean(0).tolist(),
        "shares": torch.stack(shares).mean(0).tolist(),
    }
    if losses:
        found["compression_loss"] = joined(losses)[0].tolist()
    return found


def by_position(prices: Prices, documents: np.ndarray) -> list[dict[str, float]]:
    """Mean nats by place in the document, in stretches that double: 1, 2 to 3, 4 to 7, ...

    Args:
        documents: where documents start in the split.
    """
    place = np.arange(len(prices.nats)) + prices.first
    start = documents[np.searchsorted(documents, place, "right") - 1]
    octave = np.floor(np.log2(np.maximum(place - start, 1))).astype(int)
    rows = []
    for at in range(octave.max() + 1):
        inside = octave == at
        if inside.any():
            rows.append(
                {
                    "from": float(2**at),
                    "tokens": float(inside.sum()),
                    "nats": float(prices.nats[inside].mean(dtype=np.float64)),
                }
            )
    return rows


def draw(figures: dict[str, Any], path: Path, title: str) -> None:
    """One PNG of what `attention` and `by_position` found."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [name for name in ("buckets", "compression_loss", "by_position") if figures.get(name)]
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False)
    for name, axis in zip(panels, axes[0], strict=True):
        if name == "buckets":
            _draw_buckets(axis, figures["buckets"])
        elif name == "compression_loss":
            values = figures["compression_loss"]
            axis.bar(range(1, len(values) + 1), values, color="#4878a8")
            axis.set(xlabel="layer", ylabel="compression loss", title="what compression loses")
            axis.set_xticks(range(1, len(values) + 1))
        else:
            rows = figures["by_position"]
            axis.plot([r["from"] for r in rows], [r["nats"] / np.log(2) for r in rows], marker="o")
            axis.set(xlabel="place in the document", ylabel="bits a token", xscale="log")
            axis.set_title("loss against position")
        axis.grid(alpha=0.3)
    figure.suptitle(title, parse_math=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_buckets(axis: Any, buckets: list[list[float]]) -> None:
    mean = np.mean(buckets, 0)
    colours = np.repeat(["#8c6bb1", "#4878a8", "#59a14f"], BUCKETS)
    axis.bar(range(len(mean)), mean, color=colours)
    axis.set_xticks([BUCKETS / 2 - 0.5 + BUCKETS * i for i in range(3)])
    axis.set_xticklabels(["compressed", "memory", "window"])
    axis.set(ylabel="mean weight of a place", title="attention, oldest to newest", yscale="log")
