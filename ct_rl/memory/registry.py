"""Memory cores by name, each with the dataclass of its options."""

from __future__ import annotations

import dataclasses
from typing import Any

from ct_rl.memory.compressive.core import CompressiveTransformer, GTrXL, TransformerXL
from ct_rl.memory.compressive.options import (
    CompressiveOptions,
    GTrXLOptions,
    TransformerXLOptions,
)
from ct_rl.memory.contract import MemoryCore
from ct_rl.memory.identity import Identity, IdentityOptions
from ct_rl.memory.linear import LinearOptions, LinearRecurrence
from ct_rl.memory.options import check_options
from ct_rl.memory.recurrent import GRUMemory, LSTMMemory, RecurrentOptions

_CORES: dict[str, tuple[type[MemoryCore], type]] = {}


def register_memory(name: str, core: type[MemoryCore], options: type) -> None:
    """Makes a core known as `name`: `--memory NAME`, its own flags and help, and the contract tests.

    Args:
        core: built as `core(**fields)` from all fields of `options`.
        options: a frozen dataclass, each option once: `Annotated[int, Ge(1), Le(64)] = 4` and a string of help below.
            One of them is d_model.

    Raises:
        ValueError: for something that is no core's class, or no such dataclass.
    """
    if not (isinstance(core, type) and issubclass(core, MemoryCore)):
        raise ValueError(f"memory {name!r} is {core!r}: give a subclass of MemoryCore")
    if not (isinstance(options, type) and dataclasses.is_dataclass(options)):
        raise ValueError(f"memory {name!r} has options {options!r}: give a dataclass")
    if "d_model" not in {item.name for item in dataclasses.fields(options)}:
        raise ValueError(f"memory {name!r} has no option d_model: every core has that width")
    _CORES[name] = core, options


def memory_names() -> list[str]:
    """The names that `build_memory` knows."""
    return sorted(_CORES)


def memory_options(name: str) -> type:
    """The dataclass of the options that the core `name` takes.

    Raises:
        ValueError: for a name that does not exist, naming those that do.
    """
    return _entry(name)[1]


def memory_class(name: str) -> type[MemoryCore]:
    """The class of the core `name`; raises ValueError as `memory_options` does."""
    return _entry(name)[0]


def build_memory(name: str, **options: Any) -> MemoryCore:
    """A memory core by its name.

    Raises:
        ValueError: for a name or an option that does not exist, naming those that do, a value out of its bounds, or
            sizes that do not fit together.
    """
    core, known = _entry(name)
    return core(**check_options(f"memory {name!r}", known, options))


def _entry(name: str) -> tuple[type[MemoryCore], type]:
    if name not in _CORES:
        raise ValueError(f"unknown memory {name!r}: choose one of {', '.join(memory_names())}")
    return _CORES[name]


register_memory("compressive", CompressiveTransformer, CompressiveOptions)
register_memory("gru", GRUMemory, RecurrentOptions)
register_memory("gtrxl", GTrXL, GTrXLOptions)
register_memory("identity", Identity, IdentityOptions)
register_memory("linear", LinearRecurrence, LinearOptions)
register_memory("lstm", LSTMMemory, RecurrentOptions)
register_memory("transformer_xl", TransformerXL, TransformerXLOptions)
