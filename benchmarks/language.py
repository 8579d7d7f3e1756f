"""The memory core as a language and speech model, beside others: same data, steps and near-equal parameters.

    python benchmarks/language.py --quick            # every table, short runs of a small model
    python benchmarks/language.py --only cores       # one table: cores, reach, compression, recall, speed, speech
    python benchmarks/language.py                    # all of it; goes on where it was stopped
    python benchmarks/language.py --steps 1500       # shorter runs
    python benchmarks/language.py --only cores --side "compressive, with gates" --side linear

Each run is written into the JSON file as soon as it is done, and is not repeated. The peer, compressive-transformer-
pytorch 0.4.0, takes part where it is installed; speech is synthesised where espeak-ng is, or given with --speech.
Text is the standard library's sources (`python`) or its reference (`pydoc`), bytes, split 90/5/5.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib
import numpy as np
import torch
from language_peer import peer_model
from provenance import commit, machine

from ct_rl.lm import audio, sampling
from ct_rl.lm.build import build_model
from ct_rl.lm.config import LMConfig, ModelConfig, OptimiserConfig
from ct_rl.lm.corpus import Corpus
from ct_rl.lm.evaluation import price
from ct_rl.lm.model import LanguageModel
from ct_rl.lm.parallel import Group
from ct_rl.lm.sources import open_data
from ct_rl.lm.trainer import Trainer
from ct_rl.memory import memory_names
from ct_rl.plain_files import write_atomically

FILE = Path(__file__).with_suffix(".json")
CPU = torch.device("cpu")
TABLES = ("cores", "reach", "compression", "recall", "speed", "speech")
ANCHORS = {
    "Transformer-XL, 12 layers, 41M (Dai et al. 2019)": 1.06,
    "SHA-LSTM, 63M (Merity 2019)": 1.07,
    "Compressive Transformer, 277M (Rae et al. 2019)": 0.97,
}
# Enwik8, best rate of 2, 3, 4 (Rae et al. 2019, table 5).
PAPER_BPC = {
    "conv, none (BPTT)": 0.996, "max, none": 0.986, "conv, auto_encoding": 0.984, "mean, none": 0.982,
    "most_used, none": 0.980, "dilated, attention": 0.977, "conv, attention": 0.973,
}  # fmt: skip
BATCH = 16  # streams
MEANS = {"compression": "mean", "compression_loss": "none"}  # no weights of a compressor
GATES = {"activation": "swiglu"}  # a recurrence's reads are gated as it is
WITH_GATES = {**GATES, "gated_reads": True, "near_first": True}
LR = 1e-3
Record = dict[str, Any]
Run = Callable[[], Record]
Side = tuple[str, Record]  # a memory and its options
T = TypeVar("T")


class Book:
    """The JSON file: runs by name, each written when it is done."""

    def __init__(self, path: Path):
        self.path = path
        self.content: Record = json.loads(path.read_text()) if path.exists() else {"runs": {}}

    def run(self, name: str, work: Run, tokens: int | None = None) -> Record:
        """The record of a run, made now unless it is there; one of other `tokens` of training ends the program."""
        found = self.content["runs"].get(name)
        if found is not None and tokens is not None and found["train_tokens"] != tokens:
            raise SystemExit(
                f"{self.path}: {name} was trained on {found['train_tokens']:,} tokens, and {tokens:,} are asked: "
                "give the same --steps, or --out another file"
            )
        if found is None:
            begun = time.monotonic()
            record = work()
            record |= {"seconds": round(time.monotonic() - begun, 1), "commit": commit()}
            record |= {"machine": machine("1 thread")}
            self.content["runs"][name] = record
            write_atomically(self.path, (json.dumps(self.content, indent=1) + "\n").encode())
            print(f"{name}: {record}", flush=True)
        return self.content["runs"][name]

    def of(self, table: str) -> dict[str, Record]:
        """The runs of one table, by side, seed and the rest of their name."""
        start = f"{table}/"
        return {k[len(start) :]: v for k, v in self.content["runs"].items() if k.startswith(start)}


class Scale:
    """How large everything is: whole, or quick."""

    def __init__(self, quick: bool, steps: int | None = None, sides: list[str] | None = None):
        self.quick = quick
        self.asked = sides
        self.prefix = "quick-" if quick else ""
        self.seeds = range(2) if quick else range(3)
        self.variant_seeds = range(1) if quick else range(3)  # of compression and speech
        self.data = "pydoc" if quick else "python"
        self.steps = steps or (600 if quick else 4_000)
        self.eval_tokens = 8_192 if quick else 262_144
        width, layers, window = (64, 2, 32) if quick else (128, 3, 64)
        self.window = window
        self.base = {
            "d_model": width,
            "n_layers": layers,
            "n_heads": 4,
            "d_ff": 4 * width,
            "window": window,
        }
        self.compressive = {**self.base, "memory": window, "compressed": window, "rate": 4}
        self.recall_steps = 300 if quick else 1_500

    def chosen(self, sides: dict[str, T]) -> dict[str, T]:
        """What was asked for of a table's sides: all, or those of `--side`."""
        unknown = [side for side in self.asked or () if side not in sides]
        if unknown:
            raise SystemExit(
                f"--side {unknown[0]!r} is not in this table; it has: {'; '.join(sides)}"
            )
        return {
            side: how for side, how in sides.items() if self.asked is None or side in self.asked
        }

    @property
    def tokens(self) -> int:
        """That every run of a text or of speech is trained on."""
        return self.steps * BATCH * self.window


def settings(
    scale: Scale,
    options: Record,
    memory: str,
    seed: int,
    length: int,
    data: str,
    lr: float = LR,
) -> LMConfig:
    steps = scale.steps
    return LMConfig(
        data=data,
        model=ModelConfig(memory, options),
        optimiser=OptimiserConfig(lr=lr, warmup=max(steps // 20, 1), clip=0.5),
        steps=steps,
        batch=BATCH,
        length=length,
        seed=seed,
    )


def language_run(
    scale: Scale,
    corpus: Corpus,
    memory: str,
    options: Record,
    seed: int,
    model: LanguageModel | None = None,
    window: int | None = None,
    windows: int = 1,
    lr: float = LR,
) -> tuple[Record, LanguageModel]:
    """Train and price one side on 16 streams; batches of one window, which the peer needs, or of several."""
    window = window or scale.window
    config = settings(scale, options, memory, seed, windows * window, corpus.name, lr)
    config = dataclasses.replace(config, steps=scale.tokens // (config.batch * config.length))
    trainer = Trainer(config, corpus, CPU, Group(), model)
    begun = time.process_time()
    for _ in range(config.steps):
        trainer.iterate()
    seconds = time.process_time() - begun
    prices = price(trainer.model, corpus, "test", batch=4, length=window, tokens=scale.eval_tokens)
    return {
        "bits": round(prices.bits, 4),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "train_tokens": config.steps * config.batch * config.length,
        "train_tokens_per_cpu_second": round(config.steps * config.batch * config.length / seconds),
    }, trainer.model


def parameters(memory: str, options: Record) -> int:
    """Of a model of bytes."""
    return sum(p.numel() for p in build_model(ModelConfig(memory, options), 256).parameters())


def matched(memory: str, option: str, base: Record, target: int, vocab: int) -> Record:
    """Options of another core with the size that comes closest to `target` parameters."""
    best: tuple[float, Record] | None = None
    for size in range(8, 1_024, 8):
        options = {**base, option: size}
        model = build_model(ModelConfig(memory, options), vocab)
        off = abs(sum(p.numel() for p in model.parameters()) - target)
        if best is not None and off > best[0]:
            break
        best = (off, options)
    assert best is not None
    return best[1]


def cores(scale: Scale, book: Book) -> None:
    corpus = open_data(scale.data)
    width, both = scale.base["d_model"], 2 * scale.window
    count = parameters("compressive", scale.compressive)
    xl = {**scale.base, "memory": both}
    sides: dict[str, Side] = {
        "compressive": ("compressive", scale.compressive),
        "transformer_xl, as many slots": (
            "transformer_xl",
            matched("transformer_xl", "d_ff", xl, count, 256),
        ),
        "compressive, with gates": (
            "compressive",
            matched("compressive", "d_ff", scale.compressive | WITH_GATES, count, 256),
        ),
        "compressive, means, with gates": (
            "compressive",
            matched("compressive", "d_ff", scale.compressive | MEANS | WITH_GATES, count, 256),
        ),
        "transformer_xl, as many slots, with gates": (
            "transformer_xl",
            matched("transformer_xl", "d_ff", xl | WITH_GATES, count, 256),
        ),
        "lstm": ("lstm", matched("lstm", "hidden", {"d_model": width}, count, 256)),
    }
    if "linear" in memory_names():
        layers = {"d_model": width, "n_layers": scale.base["n_layers"]}
        for side, options in {"linear": layers, "linear, with gates": layers | GATES}.items():
            sides[side] = ("linear", matched("linear", "hidden", options, count, 256))
    if peer_model(256, scale.compressive, 0) is None:
        print("the peer is left out: pip install compressive-transformer-pytorch==0.4.0")
    else:
        for lr, thaw in itertools.product((LR, 3e-4), (False, True)):
            side = PEER + (", thawed" if thaw else "") + (f", lr {lr:g}" if lr != LR else "")
            sides[side] = (PEER, {"lr": lr, "thaw": thaw})

    def work(memory: str, options: Record, seed: int) -> Record:
        if memory != PEER:
            return language_run(scale, corpus, memory, options, seed)[0]
        peer = peer_model(256, scale.compressive, seed, options["thaw"])
        return language_run(scale, corpus, "compressive", {}, seed, peer, lr=options["lr"])[0]

    for seed in scale.seeds:
        for side, (memory, options) in scale.chosen(sides).items():
            book.run(
                f"{scale.prefix}cores/{side}/{seed}",
                lambda memory=memory, options=options, seed=seed: work(memory, options, seed),
                scale.tokens,
            )


def compression(scale: Scale, book: Book) -> None:
    """Compression functions and losses where old places matter: a quarter of the window, memory and slots.

    Batches of four windows: without a loss of its own, a compressor learns only inside a call. Beside them
    Transformer-XL with as many places, and with as long a reach, which takes three times as many; the same with gates,
    and recurrences, at as many parameters.
    """
    corpus = open_data(scale.data)
    window = scale.window // 4
    base = {**scale.compressive, "window": window, "memory": window, "compressed": window}
    count = parameters("compressive", base)

    def transformer_xl(places: int, options: Record | None = None) -> Side:
        sizes = {**scale.base, "window": window, "memory": places} | (options or {})
        return "transformer_xl", matched("transformer_xl", "d_ff", sizes, count, 256)

    def with_gates(**options: Any) -> Side:
        sizes = base | WITH_GATES | options
        return "compressive", matched("compressive", "d_ff", sizes, count, 256)

    recurrent = {"d_model": scale.base["d_model"]}
    layers = recurrent | {"n_layers": scale.base["n_layers"]} | GATES

    over: dict[str, Record] = {
        "conv, attention": {},
        "conv, auto_encoding": {"compression_loss": "auto_encoding"},
        "conv, none (BPTT)": {"compression_loss": "none"},
        "dilated, attention": {"compression": "dilated"},
        "mean, none": {"compression": "mean", "compression_loss": "none"},
        "max, none": {"compression": "max", "compression_loss": "none"},
        "most_used, none": {"compression": "most_used", "compression_loss": "none"},
        "conv, attention, pyramid (ours)": {"overflow": "merge"},
    }
    sides = {side: ("compressive", {**base, **options}) for side, options in over.items()} | {
        "transformer_xl, as many places": transformer_xl(2 * window),
        "transformer_xl, as long a reach": transformer_xl((1 + base["rate"]) * window),
        "conv, attention, with gates": with_gates(),
        "conv, attention, pyramid (ours), with gates": with_gates(overflow="merge"),
        "mean, none, with gates": with_gates(**MEANS),
        "transformer_xl, as many places, with gates": transformer_xl(2 * window, WITH_GATES),
        "linear, with gates": ("linear", matched("linear", "hidden", layers, count, 256)),
        "lstm": ("lstm", matched("lstm", "hidden", recurrent, count, 256)),
    }
    for seed in scale.variant_seeds:
        for side, (memory, options) in scale.chosen(sides).items():
            book.run(
                f"{scale.prefix}compression/{side}/{seed}",
                lambda memory=memory, options=options, seed=seed: language_run(
                    scale, corpus, memory, options, seed, window=window, windows=4
                )[0],
                scale.tokens,
            )


def reach(scale: Scale, book: Book) -> None:
    """What places are worth: two cores trained as in `cores`, then priced with fewer and with more of them."""
    corpus = open_data(scale.data)
    window = scale.window
    count = parameters("compressive", scale.compressive)
    sides: dict[str, tuple[str, Record, list[Record]]] = {
        "transformer_xl": (
            "transformer_xl",
            scale.base | WITH_GATES | {"memory": 2 * window},
            [{"memory": window * quarters // 4} for quarters in (0, 1, 2, 4, 8, 16)],
        ),
        "compressive, means": (
            "compressive",
            scale.compressive | MEANS | WITH_GATES,
            [{"memory": window * quarters // 4, "compressed": 0} for quarters in (0, 1, 2, 4)]
            + [{"compressed": window * quarters // 4} for quarters in (1, 4, 12)],
        ),
    }

    def work(side: str, seed: int) -> Record:
        memory, options, sizes = sides[side]
        options = matched(memory, "d_ff", options, count, 256)
        record, model = language_run(scale, corpus, memory, options, seed)
        record["bits_by_places"] = {}
        for over in sizes:
            other = build_model(ModelConfig(memory, options), 256, over=over)
            weights = model.state_dict()  # without slots their positions have none
            other.load_state_dict({name: weights[name] for name in other.state_dict()})
            prices = price(other, corpus, "test", batch=4, length=window, tokens=scale.eval_tokens)
            places = ", ".join(f"{name} {size}" for name, size in over.items())
            record["bits_by_places"][places] = round(prices.bits, 4)
        return record

    for seed in scale.seeds:
        for side in scale.chosen(sides):
            book.run(
                f"{scale.prefix}reach/{side}/{seed}",
                lambda side=side, seed=seed: work(side, seed),
                scale.tokens,
            )


PEER = "compressive-transformer-pytorch 0.4.0"
CUES = 4
DISTANCES = (4, 8, 16, 24, 32, 48, 64, 96)


def episodes(
    rng: np.random.Generator, rows: int, distance: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A cue, `distance` - 1 noise tokens, a question: tokens [B, distance + 1], answers [B]."""
    cue = rng.integers(0, CUES, rows)
    noise = rng.integers(CUES, CUES + 8, (rows, distance - 1))
    question = np.full((rows, 1), CUES + 8)
    tokens = np.concatenate([cue[:, None], noise, question], 1)
    return torch.from_numpy(tokens), torch.from_numpy(cue)


def recall_run(scale: Scale, rate: int, seed: int) -> Record:
    """One layer, so that its horizon is window + memory + rate x compressed: here 8 + 8 + 8 x rate steps."""
    options = {"d_model": 32, "n_layers": 1, "n_heads": 2, "d_ff": 64, "window": 8, "memory": 8}
    options |= {"compressed": 8, "rate": rate}
    model = build_model(ModelConfig("compressive", options), CUES + 9, seed)
    parts = [model.task_parameters(), model.core.compressor_parameters()]
    adams = [torch.optim.Adam(part, 3e-3) for part in parts if part]
    rng = np.random.default_rng(seed)
    for _ in range(scale.recall_steps):
        tokens, answer = episodes(rng, 32, int(np.exp(rng.uniform(np.log(4), np.log(96)))))
        out = model.run(tokens, model.initial_state(32))
        loss = model.head.nll(out.y[:, -1], answer).mean()
        for adam in adams:
            adam.zero_grad()
        (loss + sum(out.losses.values())).backward()
        for adam in adams:
            adam.step()
    model.eval()
    right = {}
    with torch.no_grad():
        for distance in DISTANCES:
            tokens, answer = episodes(rng, 256, distance)
            out = model.run(tokens, model.initial_state(256))
            guess = model.head.log_probs(out.y[:, -1])[:, :CUES].argmax(-1)
            right[str(distance)] = round((guess == answer).float().mean().item(), 3)
    return {"right": right, "context_length": model.core.context_length}


def recall(scale: Scale, book: Book) -> None:
    for seed in scale.seeds:
        for rate in (1, 2, 4, 8):
            book.run(
                f"{scale.prefix}recall/rate {rate}/{seed}",
                lambda rate=rate, seed=seed: recall_run(scale, rate, seed),
            )


def speed(scale: Scale, book: Book) -> None:
    book.run(f"{scale.prefix}speed/training step/0", lambda: speed_run(scale))


def speed_run(scale: Scale) -> Record:
    """Median over turns of CPU seconds of a training step of one window, the sides taking turns."""
    corpus = open_data("pydoc")
    sides = {
        "compressive": None,
        PEER: peer_model(256, scale.compressive, 0),
    }
    trainers = {}
    for side, model in sides.items():
        if side == "compressive" or model is not None:
            config = settings(scale, scale.compressive, "compressive", 0, scale.window, "pydoc")
            trainers[side] = Trainer(config, corpus, CPU, Group(), model)
    for trainer in trainers.values():
        for _ in range(8):  # memory is full from here on
            trainer.iterate()
    seconds: dict[str, list[float]] = {side: [] for side in trainers}
    for _ in range(10 if scale.quick else 40):
        for side, trainer in trainers.items():
            begun = time.process_time()
            trainer.iterate()
            seconds[side].append(time.process_time() - begun)
    tokens = BATCH * scale.window
    rates = {side: round(tokens / float(np.median(each))) for side, each in seconds.items()}
    return {"tokens_per_cpu_second": rates}


def speech(scale: Scale, book: Book, given: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = given or synthesise(Path(folder), 20 if scale.quick else 200)
        if source is None:
            print("speech is left out: install espeak-ng, or give --speech FOLDER")
            return
        corpus = open_data(source, 8_000)
    count = parameters("compressive", scale.compressive)
    stack = {"d_model": 64, "n_layers": 8}
    sides = {
        "compressive": ("compressive", scale.compressive),
        "transformer_xl, as many slots": (
            "transformer_xl",
            matched(
                "transformer_xl",
                "d_ff",
                {**scale.base, "memory": 2 * scale.window},
                count,
                256,
            ),
        ),
        "wavenet": ("wavenet", matched("wavenet", "d_model", stack, count, 256)),
    }
    for seed in scale.variant_seeds:
        for side, (memory, options) in scale.chosen(sides).items():

            def work(
                side: str = side, memory: str = memory, options: Record = options, seed: int = seed
            ) -> Record:
                record, model = language_run(scale, corpus, memory, options, seed)
                if seed == 0 and not scale.quick:
                    name = side.split(",")[0]
                    write_sample(model, corpus, FILE.with_name(f"language_speech_{name}.wav"))
                return record

            book.run(f"{scale.prefix}speech/{side}/{seed}", work, scale.tokens)


def write_sample(model: LanguageModel, corpus: Corpus, path: Path, seconds: float = 1.0) -> None:
    """A second of sound that goes on from a quarter of a second of the test split."""
    rate = 8_000
    prompt = torch.from_numpy(corpus.tokens["test"][: rate // 4].astype(np.int64))
    model.eval()
    levels = np.fromiter(sampling.sample(model, prompt, int(rate * seconds)), np.uint8)
    audio.write(path, audio.linear(levels), rate)


def synthesise(folder: Path, count: int) -> str | None:
    """WAV files of the reference's paragraphs, read by Debian's espeak-ng; None where it is not installed."""
    program = shutil.which("espeak-ng")
    if program is None:
        return None
    from pydoc_data.topics import topics

    texts = sorted(" ".join(text.split())[:400] for text in topics.values())[::3][:count]
    for number, text in enumerate(texts):
        file = folder / f"{number:04d}.wav"
        subprocess.run([program, "-w", str(file), text], check=True, capture_output=True)
    return str(folder)


def show(scale: Scale, book: Book) -> None:
    """Every table that has runs."""
    for table in ("cores", "compression", "speech"):
        runs = book.of(scale.prefix + table)
        if not runs:
            continue
        print(f"\n{table}: bits a {'sample' if table == 'speech' else 'byte'} of the test split")
        sides: dict[str, list[Record]] = {}
        for name, record in runs.items():
            sides.setdefault(name.rpartition("/")[0], []).append(record)
        for side, records in sorted(sides.items(), key=lambda item: mean_bits(item[1])):
            bits = [record["bits"] for record in records]
            paper = f"  paper {PAPER_BPC[side]:.3f}" if side in PAPER_BPC else ""
            print(
                f"  {side:40} {np.mean(bits):.3f} ({min(bits):.3f} to {max(bits):.3f}, {len(bits)} seeds)  "
                f"{records[0]['parameters'] / 1e6:.2f}M  "
                f"{np.mean([r['train_tokens_per_cpu_second'] for r in records]):,.0f} tokens/s{paper}"
            )
    for name, record in book.of(f"{scale.prefix}reach").items():
        print(f"\nreach, {name}: bits a byte with {record['bits_by_places']}")
    for name, record in book.of(f"{scale.prefix}speed").items():
        print(f"\nspeed, {name}: {record['tokens_per_cpu_second']}")
    runs = book.of(f"{scale.prefix}recall")
    if runs:
        print(f"\nrecall: right answers (a guess: {1 / CUES}) by distance {DISTANCES}")
        for name, record in runs.items():
            row = " ".join(f"{record['right'][str(d)]:.2f}" for d in DISTANCES)
            print(f"  {name:12} {row}  horizon {record['context_length']}")
    print("\nanchors, enwik8 bpc of others: " + ", ".join(f"{k} {v}" for k, v in ANCHORS.items()))


def mean_bits(records: list[Record]) -> float:
    return float(np.mean([record["bits"] for record in records]))


def draw(scale: Scale, book: Book, path: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(14.5, 7.5))
    for axis, table in zip(axes.flat, ("cores", "compression", "speech"), strict=False):
        sides: dict[str, list[Record]] = {}
        whole = book.of(scale.prefix + table)
        for name, record in (whole or book.of(f"quick-{table}")).items():
            sides.setdefault(name.rpartition("/")[0], []).append(record)
        if not sides:
            axis.set_axis_off()
            continue
        order = sorted(sides, key=lambda side: -mean_bits(sides[side]))
        means = [mean_bits(sides[side]) for side in order]
        axis.plot(means, order, "|", color="#4878a8", markersize=18, markeredgewidth=3)
        for row, side in enumerate(order):
            axis.plot(
                [r["bits"] for r in sides[side]], [row] * len(sides[side]), "k.", markersize=4
            )
        axis.grid(axis="x", alpha=0.4)
        axis.margins(y=0.1)
        tokens = max(r["train_tokens"] for each in sides.values() for r in each)
        data, unit = (
            ("speech", "sample")
            if table == "speech"
            else (scale.data if whole else "pydoc", "byte")
        )
        axis.set(
            title=f"{table}: {data}, {tokens / 1e6:.2g}M {unit}s of training",
            xlabel=f"bits a {unit}, test: mean, and each seed a dot",
        )
    runs = book.of(f"{scale.prefix}recall")
    recall_axis = axes[1, 1]
    for rate in (1, 2, 4, 8):
        each = [r["right"] for name, r in runs.items() if name.startswith(f"rate {rate}/")]
        if each:
            means = [np.mean([right[str(d)] for right in each]) for d in DISTANCES]
            recall_axis.plot(DISTANCES, means, marker="o", label=f"rate {rate}")
    recall_axis.set(title="recall", xlabel="distance", ylabel="right answers", ylim=(0, 1.05))
    if runs:
        recall_axis.legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="every table, short runs of a small model"
    )
    parser.add_argument("--only", choices=TABLES, action="append", help="tables to make")
    parser.add_argument("--side", action="append", help="rows of the one table of --only to make")
    parser.add_argument("--out", type=Path, default=FILE, help="JSON file; the PNG beside it")
    parser.add_argument("--speech", help="WAV or FLAC files to train on")
    parser.add_argument("--steps", type=int, help="of training on a text, of one window each")
    flags = parser.parse_args()
    if flags.side and (len(flags.only or ()) != 1 or flags.only[0] in ("recall", "speed")):
        parser.error("--side goes with one --only: cores, reach, compression or speech")
    torch.set_num_threads(1)
    scale, book = Scale(flags.quick, flags.steps, flags.side), Book(flags.out)
    makers: dict[str, Callable[[], None]] = {
        "cores": lambda: cores(scale, book),
        "reach": lambda: reach(scale, book),
        "compression": lambda: compression(scale, book),
        "recall": lambda: recall(scale, book),
        "speed": lambda: speed(scale, book),
        "speech": lambda: speech(scale, book, flags.speech),
    }
    for table in flags.only or TABLES:
        makers[table]()
    show(scale, book)
    draw(scale, book, flags.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
