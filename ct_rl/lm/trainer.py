"""One training run as a value: weights, optimisers, memory and step; no files, no display."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ct_rl.errors import UserError
from ct_rl.freed_memory import keep_freed_memory
from ct_rl.lm.build import build_model
from ct_rl.lm.config import LMConfig
from ct_rl.lm.corpus import Corpus
from ct_rl.lm.gradients import MeanGradients
from ct_rl.lm.model import LanguageModel, join_rows, row_slice
from ct_rl.lm.parallel import Group
from ct_rl.lm.schedule import ends_update, iterations_per_update, learning_rate
from ct_rl.lm.streams import Streams


class NotFinite(Exception):
    """The loss, its gradient or the memory is NaN or infinite; the text is one line."""


@dataclass
class Sums:
    """Sums since the last report.

    Attributes:
        nats: of tokens.
        tokens: how many.
        losses: the memory's losses by name, each times its terms; terms: how many.
        grad_norm: of `updates` updates.
    """

    nats: float = 0.0
    tokens: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)
    grad_norm: float = 0.0
    updates: int = 0

    def note(self, losses: Mapping[str, Tensor], terms: Mapping[str, Tensor]) -> None:
        """Adds the memory's losses of a call, means of so many terms."""
        for name, loss in losses.items():
            count = float(terms[name])
            self.losses[name] = self.losses.get(name, 0.0) + float(loss.detach()) * count
            self.terms[name] = self.terms.get(name, 0.0) + count


class Trainer:
    """Trains a language model; `state` and `load` make a resumed run equal to an uninterrupted one.

    What iteration n does depends on weights, optimiser, memory and n alone: batches and dropout are functions of n.

    Args:
        model: another one than the config's.
    """

    def __init__(
        self,
        config: LMConfig,
        corpus: Corpus,
        device: torch.device,
        group: Group,
        model: LanguageModel | None = None,
    ):
        keep_freed_memory()
        self.config, self.group, self.device = config, group, device
        built = model or build_model(config.model, corpus.vocabulary.size, config.seed)
        self.model = built.to(device)
        self.streams = Streams(
            corpus.tokens["train"],
            corpus.documents["train"],
            config.batch,
            config.length,
            group.rows(config.batch),
        )
        compressor = self.model.core.compressor_parameters()
        self.parts: dict[str, list[nn.Parameter]] = {"task": self.model.task_parameters()}
        if compressor:
            self.parts["compressor"] = compressor
        self.optimisers = {
            # Fused: one pass over the weights instead of several. A GPU keeps torch's default.
            name: torch.optim.Adam(parameters, fused=device.type == "cpu" or None)
            for name, parameters in self.parts.items()
        }
        self.memory_gradients = MeanGradients([*self.model.parameters()])
        rows = group.rows(config.batch)
        self.memory = self.model.initial_state(rows.stop - rows.start)
        self.step = 0
        self.sums = Sums()

    @property
    def at_rest(self) -> bool:
        """Whether no gradient waits for its update, so that the run may be saved or end here."""
        return self.step == 0 or ends_update(self.config.optimiser, self.step - 1)

    def iterate(self) -> None:
        """One iteration: read a batch, and move the weights where an update ends."""
        config, step = self.config, self.step
        if config.model.dropout or config.model.options.get("dropout"):
            entropy = np.random.SeedSequence([config.seed, self.group.rank, step])
            torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
        self.model.train()
        batch = [part.to(self.device, non_blocking=True) for part in self.streams(step)]
        total_rows = len(batch[0])
        count = -(-total_rows // config.optimiser.accumulate)
        every = iterations_per_update(config.optimiser, step)
        calls = config.optimiser.accumulate * every * self.group.size  # of the update
        after, nats = [], 0.0
        for start in range(0, total_rows, count):
            rows = slice(start, start + count)
            x, y, starts = (part[rows] for part in batch)
            resets = starts if config.reset_at_documents else None
            with autocast(self.device, config.precision):
                read = self.model(x, y, row_slice(self.memory, rows), resets)
            loss = read.nll.mean()
            nats += float(loss.detach()) * x.numel()
            if calls == 1:
                loss = loss + sum(read.losses.values())
            else:
                self.memory_gradients.add(read.losses, read.terms)
            (loss * (len(x) / total_rows / every / self.group.size)).backward()
            after.append(read.state)
            self.sums.note(read.losses, read.terms)
        if not np.isfinite(nats):
            raise _not_finite(f"the loss is {nats}", step)
        memory = join_rows(after)
        if not all(bool(part.isfinite().all()) for part in memory.values()):
            raise _not_finite("the memory holds NaN or infinity", step)
        self.memory = memory
        self.sums.nats += nats
        self.sums.tokens += batch[0].numel()
        if ends_update(config.optimiser, step):
            self._update(learning_rate(config.optimiser, step, config.steps))
        self.step += 1

    def _update(self, rate: float) -> None:
        self.group.sum_gradients([*self.model.parameters()])
        self.memory_gradients.finish(self.group)
        norms = {}
        for name, parameters in self.parts.items():
            norm = nn.utils.clip_grad_norm_(parameters, self.config.optimiser.clip)
            norms[name] = float(norm)
        if not all(map(math.isfinite, norms.values())):  # before any weight moves
            raise _not_finite("the gradient holds NaN or infinity", self.step)
        self.sums.grad_norm += norms["task"]
        self.sums.updates += 1
        for name in self.parts:
            for settings in self.optimisers[name].param_groups:
                settings["lr"] = rate
            self.optimisers[name].step()
            self.optimisers[name].zero_grad(set_to_none=True)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and counters of the whole run; called by all processes together, `at_rest`."""
        tensors = {f"weights/{name}": at for name, at in self.model.state_dict().items()}
        for name, optimiser in self.optimisers.items():
            for number, values in optimiser.state_dict()["state"].items():
                tensors |= {f"adam/{name}/{number}/{key}": at for key, at in values.items()}
        memory = {name: at.cpu() for name, at in self.memory.items()}
        tensors |= {f"memory/{k}": at for k, at in self.group.gather_rows(memory).items()}
        return tensors, {"sums": dataclasses.asdict(self.sums)}

    def load(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.step = step
        kept = meta["sums"]  # an earlier version kept other ones
        self.sums = Sums(**{name: kept[name] for name in vars(Sums()) if name in kept})
        self.model.load_state_dict(_under("weights/", tensors))
        for name, optimiser in self.optimisers.items():
            loaded = optimiser.state_dict()
            values: dict[int, dict[str, Tensor]] = {}
            for key, at in _under(f"adam/{name}/", tensors).items():
                number, field = key.split("/")
                values.setdefault(int(number), {})[field] = at
            optimiser.load_state_dict({**loaded, "state": values})
        rows = self.group.rows(self.config.batch)
        memory = _under("memory/", tensors)
        self.memory = {name: at[rows].to(self.device) for name, at in memory.items()}


def _not_finite(what: str, step: int) -> NotFinite:
    return NotFinite(
        f"{what} at iteration {step:,}: begin again with a lower --lr or --clip; no checkpoint holds any of it"
    )


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The arithmetic of a precision."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def pick_device(name: str) -> torch.device:
    """cpu, cuda, or for "auto" cuda where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}: choose one of auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("this machine has no CUDA device that torch can use: give --device cpu")
    return torch.device(name)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key[len(prefix) :]: at for key, at in tensors.items() if key.startswith(prefix)}
