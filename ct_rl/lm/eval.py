"""`python -m ct_rl.lm eval RUN`: bpc and perplexity, with longer memory than in training, and the paper's figures."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt, Le
from tyro.conf import Positional

from ct_rl.command_line import parse
from ct_rl.errors import DONE, UserError, os_message
from ct_rl.lm import analysis
from ct_rl.lm import config as configs
from ct_rl.lm.build import refuse_idle
from ct_rl.lm.config import Count, _short
from ct_rl.lm.display import loss_figure
from ct_rl.lm.dynamic import DynamicWeights
from ct_rl.lm.evaluation import price, word_perplexity
from ct_rl.lm.run import Run, open_model, require_same_vocabulary
from ct_rl.lm.sources import open_data
from ct_rl.lm.trainer import pick_device
from ct_rl.lm.words import by_frequency, count_words
from ct_rl.plain_files import write_under_free_name
from ct_rl.reader import Options, Text

PROG = "ct_rl.lm eval"


@dataclass
class Arguments:
    """Price a split of the data with a trained model."""

    run: Positional[Text]
    """Run folder."""
    data: Text | None = None
    """Other data than the run's own, with the same vocabulary."""
    split: Literal["train", "valid", "test"] = "test"
    """What is read."""
    memory_option: Annotated[Options, _short] = field(default_factory=dict)
    """Other sizes of memory than in training, such as compressed=3072."""
    tokens: Count | None = None
    """How many to read at most; all where absent."""
    batch: Count = 1
    """Readers side by side, each of a stretch of its own: faster, and each begins with an empty memory."""
    dynamic: bool = False
    """Dynamic evaluation: weights go on learning from what was read (forgotten afterwards)."""
    dynamic_rate: Annotated[float, Gt(0), Le(1e3)] | None = None
    """Its learning rate; 0.05 where absent."""
    figures: bool = False
    """Also attention, compression loss by layer and loss against position, drawn beside the numbers."""
    which: Literal["best", "last"] = "best"
    """Which checkpoint."""
    device: Text = "auto"
    """cpu, cuda, or auto."""


def command(argv: list[str]) -> int:
    """Read the flags, evaluate, print and write RUN/eval_SPLIT.json, or eval_SPLIT_2.json beside it and so on."""
    flags = parse(Arguments, argv, prog=PROG)
    path = Path(flags.run)
    if flags.dynamic_rate is not None and not flags.dynamic:
        raise UserError("--dynamic-rate is of dynamic evaluation: give --dynamic, too")
    result = evaluate(flags, path)
    show(result)  # at once: nothing that follows can lose it
    _keep(result, Run(path))
    return DONE


def evaluate(flags: Arguments, path: Path) -> dict[str, Any]:
    """Everything that the command prints, JSON-able."""
    run = Run(path)
    run.require()
    config = configs.read_yaml(run.config)
    over = {**config.eval_memory, **flags.memory_option}
    options = {**config.model.options, **over}
    refuse_idle("--memory-option", flags.memory_option, config.model.memory, options)
    model, vocabulary, _, step = open_model(path, pick_device(flags.device), flags.which, over)
    corpus = open_data(flags.data or config.data, config.sample_rate)
    require_same_vocabulary(corpus, vocabulary, path)
    begun = time.monotonic()
    prices = price(
        model,
        corpus,
        flags.split,
        batch=flags.batch,
        length=config.length,
        tokens=flags.tokens,
        reset_at_documents=config.reset_at_documents,
        precision=config.precision,
        dynamic=DynamicWeights(model, flags.dynamic_rate or 0.05) if flags.dynamic else None,
        watch=_watch if sys.stderr.isatty() else None,
    )
    seconds = time.monotonic() - begun
    nats = float(prices.nats.mean(dtype="float64"))
    unit, value = loss_figure(nats, vocabulary.kind)
    result: dict[str, Any] = {
        "run": path.resolve().name,
        "step": step,
        "data": corpus.name,
        "sizes": corpus.split_label,
        "split": flags.split,
        "tokens": len(prices.nats),
        "memory_options": options,
        "dynamic": flags.dynamic,
        "nats_per_token": nats,
        "unit": unit,
        "value": value,
        "perplexity": prices.perplexity,
        "tokens_per_second": len(prices.nats) / max(seconds, 1e-9),
        "by_frequency": by_frequency(prices, corpus),
    }
    whole = flags.tokens is None and flags.batch == 1
    if flags.split in corpus.words and whole:
        result["words"] = corpus.words[flags.split]
    elif vocabulary.kind == "bytes":
        result["words"] = count_words(prices.targets)
    if result.get("words"):
        result["word_perplexity"] = word_perplexity(prices, result["words"])
    if flags.figures:
        figures = analysis.attention(
            model,
            corpus,
            flags.split,
            length=config.length,
            reset_at_documents=config.reset_at_documents,
        )
        if not figures:
            print(f"note: memory {config.model.memory} does not attend: no figures of attention")
        if flags.batch == 1:
            figures["by_position"] = analysis.by_position(prices, corpus.documents[flags.split])
        else:
            print("note: loss against position needs one reader: it is left out with --batch")
        result["figures"] = figures
    return result


def _keep(result: dict[str, Any], run: Run) -> None:
    """Write the result, and draw its figures, under a name that no other evaluation has."""
    try:
        text = json.dumps(result, indent=1).encode()
        path = write_under_free_name(run.path / f"eval_{result['split']}", ".json", text)
        written = str(path)
        if result.get("figures"):
            title = f"{result['run']}: {result['data']} ({result['sizes']}), {result['split']}"
            picture = path.with_suffix(".png")
            analysis.draw(result["figures"], picture, title)
            written += f" and {picture}"
    except OSError as error:
        raise UserError(os_message(error, f"writing an evaluation of {run.path}")) from None
    print(f"written to {written}")


def _watch(read: int, tokens: int) -> None:
    print(f"\r{read:,} of {tokens:,} tokens", end="\n" if read == tokens else "", file=sys.stderr)


def show(result: dict[str, Any]) -> None:
    """The result for a person."""
    print(
        f"{result['data']} ({result['sizes']}), {result['split']}: {result['tokens']:,} tokens, "
        f"by the weights of step {result['step']:,}"
    )
    extra = "  dynamic evaluation" if result["dynamic"] else ""
    print(
        f"{result['value']:.4f} {result['unit']}  perplexity {result['perplexity']:.2f}  "
        f"{result['tokens_per_second']:,.0f} tokens/s{extra}"
    )
    if "word_perplexity" in result:
        print(f"perplexity by word {result['word_perplexity']:.1f} ({result['words']:,} words)")
    for label, bucket in result["by_frequency"].items():
        print(
            f"  words seen {label:>7} times: {bucket['words']:>9,}  perplexity {bucket['perplexity']:,.1f}"
        )
    for number, shares in enumerate(result.get("figures", {}).get("shares", ()), 1):
        parts = ", ".join(
            f"{name} {share:.0%}"
            for name, share in zip(("compressed", "memory", "window"), shares, strict=True)
        )
        print(f"  layer {number} looks at: {parts}")
