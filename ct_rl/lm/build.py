"""From a config to a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from ct_rl.errors import UserError, one_line
from ct_rl.lm.config import ModelConfig
from ct_rl.lm.model import LanguageModel
from ct_rl.lm.wavenet import WaveNet, WaveNetOptions
from ct_rl.memory import MemoryCore, build_memory, memory_names, memory_options
from ct_rl.memory.options import check_options, idle_options
from ct_rl.sections import idle_option

WAVENET = "wavenet"


def core_names() -> list[str]:
    """Memory cores that a language model can have."""
    return sorted({*memory_names(), WAVENET})


def build_core(name: str, **options: Any) -> MemoryCore:
    """A memory core by its name; raises ValueError as `build_memory` does."""
    if name != WAVENET:
        if name not in memory_names():
            raise ValueError(f"unknown memory {name!r}: choose one of {', '.join(core_names())}")
        return build_memory(name, **options)
    return WaveNet(**check_options(f"memory {WAVENET!r}", WaveNetOptions, options))


def refuse_idle(flag: str, given: Collection[str], memory: str, options: Mapping[str, Any]) -> None:
    """Raise UserError where one of the `given` options does nothing beside the others; a preset may have it."""
    if memory not in memory_names():
        return
    for option, other in idle_options(memory_options(memory), options).items():
        if option in given:
            raise UserError(idle_option(f"{flag} {option}={options[option]}", other))


def build_model(
    config: ModelConfig, vocab_size: int, seed: int = 0, over: Mapping[str, Any] | None = None
) -> LanguageModel:
    """The model of a config with weights drawn from `seed`; `over` are memory options above the config's.

    Raises:
        UserError: for options that do not exist or do not fit.
    """
    cutoffs = [cutoff for cutoff in config.cutoffs if cutoff < vocab_size]
    if sorted(set(config.cutoffs)) != list(config.cutoffs) or any(c < 1 for c in config.cutoffs):
        raise UserError(f"cutoffs {config.cutoffs} must be above 0 and ascend")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            core = build_core(config.memory, **{**config.options, **(over or {})})
        except (ValueError, TypeError) as error:
            raise UserError(one_line(error)) from None
        if core.d_out < 4 ** len(cutoffs):
            raise UserError(
                f"{len(cutoffs)} cutoffs need a memory of width {4 ** len(cutoffs)} or more, given {core.d_out}: "
                "each band is a quarter as wide as the one before"
            )
        return LanguageModel(vocab_size, core, cutoffs, config.dropout)
