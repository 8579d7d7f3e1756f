"""`python -m ct_rl.lm train`: reads streams, writes a run folder, goes on where it was killed."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ct_rl import checkpoint, config_file
from ct_rl.command_line import flag_value, parse, take_values
from ct_rl.errors import DONE, INTERRUPTED, RunFailed, UserError
from ct_rl.interrupts import Interrupts
from ct_rl.lm import config as configs
from ct_rl.lm import vocabulary as vocabularies
from ct_rl.lm.build import build_model, refuse_idle
from ct_rl.lm.config import LMConfig
from ct_rl.lm.corpus import Corpus, fingerprint
from ct_rl.lm.display import Display, loss_figure, measure_matrix_rate
from ct_rl.lm.evaluation import price
from ct_rl.lm.model import flops_per_token
from ct_rl.lm.parallel import Group, group
from ct_rl.lm.presets import preset
from ct_rl.lm.run import Run, fresh_path, require_same_vocabulary
from ct_rl.lm.schedule import iterations_per_update
from ct_rl.lm.sources import open_data
from ct_rl.lm.trainer import NotFinite, Sums, Trainer, pick_device
from ct_rl.memory.contract import StateNotFinite
from ct_rl.reader import Text, plain, read

PROG = "ct_rl.lm train"
# What may differ when a run goes on: where and how long, not what it learns.
_FREE = {
    "data",
    "steps",
    "device",
    "report_every",
    "eval_every",
    "eval_tokens",
    "eval_memory",
    "checkpoint_every",
}


@dataclass
class Arguments(LMConfig):
    """Train a language model on bytes, words, subwords or sound. Flags stand above the preset."""

    preset: Text = "small"
    """Run by name; see docs/language.md."""
    run_dir: Text | None = None
    """Folder of the run; a new one under runs/ where absent."""
    resume: Text | None = None
    """Run folder to go on with."""


def command(argv: list[str]) -> int:
    """Read the flags, train, return the exit status."""
    resume = flag_value(argv, "--resume")
    chosen = flag_value(argv, "--preset")
    name = chosen or "small"
    start = preset(name)
    if resume is not None:
        if chosen is not None:
            raise UserError("a run goes on with its own settings: leave --preset out")
        run = Run(Path(resume))
        run.require()
        start = configs.read_yaml(run.config)
    flags = parse(Arguments, argv, prog=PROG, default=Arguments(**vars(start), preset=name))
    config = LMConfig(**{f.name: getattr(flags, f.name) for f in dataclasses.fields(LMConfig)})
    if config.model.memory != start.model.memory:
        config = _own_options(argv, start, config)
    _refuse_idle(argv, config)
    highest, ends = config.optimiser.lr, config.optimiser.lr_ends
    if resume is None and ends > highest:
        raise UserError(f"--lr-ends {ends:g} is above --lr {highest:g}, the highest: lower it")
    if resume is None and config.optimiser.update_every_from is None:
        every = flag_value(argv, "--update-every")
        if every is not None:
            raise UserError(
                f"--update-every {every} does nothing without --update-every-from: give that, too, 0 for all of the run"
            )
    if resume is not None:
        if flags.run_dir is not None:
            raise UserError("a run goes on with its own folder: leave --run-dir out")
        _require_unchanged(start, config)
    with group() as processes, Interrupts() as interrupts:
        given = resume or flags.run_dir
        path = None if given is None else Path(given)
        return _train(config, name, path, resume is not None, processes, interrupts)


def _own_options(argv: list[str], start: LMConfig, config: LMConfig) -> LMConfig:
    """The preset's options, for training and for `eval`, are of its own memory: only the flags' go to another."""
    without = {"model": dataclasses.replace(start.model, options={}), "eval_memory": {}}
    bare = parse(Arguments, argv, prog=PROG, default=Arguments(**{**vars(start), **without}))
    model = dataclasses.replace(config.model, options=bare.model.options)
    return dataclasses.replace(config, model=model, eval_memory=bare.eval_memory)


def _refuse_idle(argv: list[str], config: LMConfig) -> None:
    memory, options = config.model.memory, config.model.options
    for flag, chosen in (
        ("--memory-option", options),
        ("--eval-memory", {**options, **config.eval_memory}),
    ):
        given = [word.partition("=")[0] for word in take_values(argv, flag)]
        refuse_idle(flag, given, memory, chosen)


def _fixed_changes(before: LMConfig, now: LMConfig) -> Iterator[tuple[str, Any, Any]]:
    """What a run that goes on may not change and has changed: the setting by section, its old and its new value."""
    for key, (old, new) in config_file.changes(before, now).items():
        if key not in _FREE:
            yield key, old, new


def _require_unchanged(before: LMConfig, now: LMConfig) -> None:
    """Raise UserError where flags beside --resume would make another run."""
    for key, old, new in _fixed_changes(before, now):
        name = key.rpartition(".")[2]
        flag = {"options": "memory-option"}.get(name, name.replace("_", "-"))
        raise UserError(f"a run goes on with its own --{flag} ({old}), not {new}: leave it out")


def _train(
    config: LMConfig,
    name: str,
    path: Path | None,
    resumed: bool,
    processes: Group,
    interrupts: Interrupts,
) -> int:
    device = pick_device(config.device)
    corpus = open_data(config.data, config.sample_rate)
    kind = corpus.vocabulary.kind
    _require_evaluable(config, corpus.vocabulary.size)
    trainer = Trainer(config, corpus, device, processes)
    run, display = Run(path or Path("runs")), Display()
    if resumed:
        _go_on(trainer, run, corpus, processes)
    elif processes.leads:
        if path is None:
            run = Run(fresh_path(name))
        run.create(config, corpus.vocabulary)
    peak = measure_matrix_rate(device, config.precision)
    sizes = getattr(trainer.model.core, "sizes", None)  # of a core that attends
    context = sum(int(getattr(sizes, k, 0)) for k in ("window", "memory", "compressed"))
    flops = flops_per_token(trainer.model, context)
    if processes.leads:
        weights = sum(p.numel() for p in trainer.model.parameters())
        display.say(
            f"{run.path}: {config.model.memory}, {weights / 1e6:.2f}M parameters, on {corpus.name} "
            f"({corpus.split_label}), {device.type}, {processes.size} process(es)"
        )
        _say_unused(config, corpus, display)
    interrupts.arm()
    mark, since = time.monotonic(), trainer.step
    save_due, score = False, None
    while trainer.step < config.steps or not trainer.at_rest:
        with _diverging(run if path is not None or processes.leads else None, trainer):
            trainer.iterate()
        step = trainer.step
        ended = step >= config.steps
        look = step % config.eval_every == 0 or ended
        save_due = save_due or look or step % config.checkpoint_every == 0
        stop = processes.any(interrupts.requested)
        seconds = time.monotonic() - mark
        valid = None
        if look and processes.leads:
            with _diverging(run, trainer):
                valid = score = _validate(trainer, corpus)
        if step % config.report_every == 0 or ended or look:
            row = _row(trainer, processes, seconds, step - since)
            left = max(config.steps - step, 0)
            row["seconds_left"] = round(left / max(row["steps_per_second"], 1e-9))
            row["matrix_share"] = flops * row["tokens_per_second"] / peak / processes.size
            if valid is not None:
                row["valid_loss"] = valid
            trainer.sums = Sums()
            if processes.leads:
                run.append(row)
                display.row(row, config.steps, kind)
            mark, since = time.monotonic(), step
        if trainer.at_rest and (save_due or stop or ended):
            with interrupts.protected():
                _save(trainer, run, corpus, score, processes)
            save_due, score = False, None
            if stop and not ended:
                if processes.leads:
                    again = shlex.quote(str(run.path))
                    display.say(f"stopped at {step:,}; go on: python -m {PROG} --resume {again}")
                return INTERRUPTED
    interrupts.finish()
    if processes.leads:
        _finish(run, corpus, device, display)
    return DONE


def _require_evaluable(config: LMConfig, vocab_size: int) -> None:
    """Raise UserError where no memory has what --eval-memory asks for, while that costs nothing."""
    if not config.eval_memory:
        return
    options = {**config.model.options, **config.eval_memory}
    model = dataclasses.replace(config.model, options=options)
    try:
        with torch.device("meta"):  # sizes without memory
            build_model(model, vocab_size)
    except (UserError, RuntimeError):  # said below, where it is not of that device alone
        with config_file.named("--eval-memory"):
            build_model(model, vocab_size)


def _say_unused(config: LMConfig, corpus: Corpus, display: Display) -> None:
    """A line about each setting that these data have no use for."""
    size = corpus.vocabulary.size
    beyond = [cutoff for cutoff in config.model.cutoffs if cutoff >= size]
    if beyond:
        display.say(f"note: cutoffs {beyond} are beyond the {size:,} of the vocabulary: left out")
    if corpus.vocabulary.kind != "audio" and config.sample_rate != LMConfig().sample_rate:
        display.say(f"note: --sample-rate is of sound, and {corpus.name} is none: not used")


@contextlib.contextmanager
def _diverging(run: Run | None, trainer: Trainer) -> Iterator[None]:
    """What is no longer finite ends the run in a line; `run` is named where this process knows its folder."""
    try:
        yield
    except (NotFinite, StateNotFinite) as error:
        said = (
            str(error) if isinstance(error, NotFinite) else f"{error} (iteration {trainer.step:,})"
        )
        where = "" if run is None else f" ({run.checkpoints})"
        raise RunFailed(f"{said}{where}") from None


def _go_on(trainer: Trainer, run: Run, corpus: Corpus, processes: Group) -> None:
    kept = run.last()
    require_same_vocabulary(corpus, vocabularies.load(run.path), run.path)
    tokens, config = corpus.tokens["train"], trainer.config
    if kept.meta["tokens"] != len(tokens):
        raise UserError(
            f"{corpus.name} has {len(tokens):,} tokens to train on, the run began with "
            f"{kept.meta['tokens']:,}: give the same --data"
        )
    folder_of_sound = corpus.vocabulary.kind == "audio" and Path(config.data).is_dir()
    if folder_of_sound and "text" not in kept.meta:
        raise UserError(
            f"run {run.path} is of a version that split folders of sound otherwise, and would learn what it is "
            "asked about: train it again"
        )
    if kept.meta.get("text", fingerprint(tokens)) != fingerprint(tokens):
        raise UserError(
            f"{corpus.name} is another text than the run began with: give the same --data"
        )
    if "config" in kept.meta:
        for key, old, new in _fixed_changes(read(LMConfig, kept.meta["config"]), config):
            raise UserError(
                f"{run.config} has {key} = {new!r}, and the run was trained with {old!r}: put that back"
            )
    if kept.step - config.steps >= iterations_per_update(config.optimiser, kept.step - 1):
        raise UserError(
            f"run {run.path} is at {kept.step:,} already: give --steps {kept.step:,} or more"
        )
    trainer.load(kept.step, kept.tensors, kept.meta)
    if processes.leads:
        run.lock()
        checkpoint.clean(run.checkpoints)
        run.trim_metrics(kept.step)
        # What a flag changed holds from now on: the next start goes as far as this one was to go.
        run.write_config(trainer.config)


def _validate(trainer: Trainer, corpus: Corpus) -> float:
    config = trainer.config
    seen = min(config.eval_tokens, len(corpus.tokens["valid"]) - 1)
    # A few readers, each over a long stretch: memory is full for most of it.
    batch = max(1, min(config.batch, seen // (8 * config.length)))
    prices = price(
        trainer.model,
        corpus,
        "valid",
        batch=batch,
        length=config.length,
        tokens=config.eval_tokens,
        reset_at_documents=config.reset_at_documents,
        precision=config.precision,
    )
    return float(prices.nats.mean(dtype="float64"))


def _row(trainer: Trainer, processes: Group, seconds: float, steps: int) -> dict[str, float]:
    sums = trainer.sums
    names = sorted(sums.losses)
    mine = [sums.nats, *(part[name] for part in (sums.losses, sums.terms) for name in names)]
    nats, *own = processes.sum(torch.tensor(mine, dtype=torch.float64)).tolist()
    losses, terms = own[: len(names)], own[len(names) :]
    count = max(sums.tokens * processes.size, 1)
    rate = steps / max(seconds, 1e-9)
    config = trainer.config
    return {
        "step": trainer.step,
        "tokens": trainer.step * config.batch * config.length,
        "loss": nats / count,
        "compression_loss": sum(x / max(n, 1.0) for x, n in zip(losses, terms, strict=True)),
        "grad_norm": sums.grad_norm / max(sums.updates, 1),
        "tokens_per_second": rate * config.batch * config.length,
        "steps_per_second": rate,
    }


def _save(
    trainer: Trainer, run: Run, corpus: Corpus, valid: float | None, processes: Group
) -> None:
    tensors, meta = trainer.state()
    if processes.leads:
        meta["score"] = None if valid is None else -valid
        meta["tokens"] = len(corpus.tokens["train"])
        meta["text"] = fingerprint(corpus.tokens["train"])
        meta["config"] = plain(trainer.config)
        checkpoint.save(run.checkpoints, trainer.step, tensors, meta)


def _finish(run: Run, corpus: Corpus, device: torch.device, display: Display) -> None:
    rows = run.rows()
    best = min((row["valid_loss"] for row in rows if "valid_loss" in row), default=None)
    if best is not None:
        unit, value = loss_figure(best, corpus.vocabulary.kind)
        where = shlex.quote(str(run.path))
        display.say(f"done: best valid {value:.3f} {unit}; next: python -m ct_rl.lm eval {where}")
