"""Memory cores by name."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from ct_rl.memory.compressive import CompressiveTransformer, GTrXL, TransformerXL
from ct_rl.memory.contract import MemoryCore
from ct_rl.memory.recurrent import GRUMemory, LSTMMemory

_CORES: dict[str, type[MemoryCore]] = {
    "compressive": CompressiveTransformer,
    "gru": GRUMemory,
    "gtrxl": GTrXL,
    "lstm": LSTMMemory,
    "transformer_xl": TransformerXL,
}


def memory_names() -> list[str]:
    """The names that `build_memory` knows."""
    return sorted(_CORES)


def memory_options(name: str) -> list[str]:
    """The settings that the core `name` takes."""
    return list(inspect.signature(_class(name).__init__).parameters)[1:]


def build_memory(name: str, **options: Any) -> MemoryCore:
    """A memory core by its name.

    Raises:
        ValueError: for a name or an option that does not exist, naming those that do, or a size that does not fit.
    """
    known = memory_options(name)
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(known)}"
            raise ValueError(f"unknown option {option!r} for memory {name!r}: {hint}")
    return _class(name)(**options)


def _class(name: str) -> type[MemoryCore]:
    if name not in _CORES:
        raise ValueError(f"unknown memory {name!r}: choose one of {', '.join(memory_names())}")
    return _CORES[name]
