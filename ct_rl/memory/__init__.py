"""Memory cores: the Compressive Transformer and the baselines beside it, in plain torch.

Names that need torch are resolved when they are asked for: names and options of memories can be read without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ct_rl.lazy_names import lazy_names
from ct_rl.memory.options import option_help
from ct_rl.memory.registry import (
    build_memory,
    memory_class,
    memory_names,
    memory_options,
    register_memory,
)

if TYPE_CHECKING:
    from ct_rl.memory.compressive.authors import AuthorsCore, from_authors
    from ct_rl.memory.compressive.core import CompressiveTransformer, GTrXL, TransformerXL
    from ct_rl.memory.contract import MemoryCore, MemoryOutput, State, state_bytes
    from ct_rl.memory.identity import Identity
    from ct_rl.memory.linear import LinearRecurrence
    from ct_rl.memory.recurrent import GRUMemory, LSTMMemory
    from ct_rl.memory.report import AttentionReport, StepAttention

_LAZY = {
    "AttentionReport": "report",
    "AuthorsCore": "compressive.authors",
    "CompressiveTransformer": "compressive.core",
    "GRUMemory": "recurrent",
    "GTrXL": "compressive.core",
    "Identity": "identity",
    "LSTMMemory": "recurrent",
    "LinearRecurrence": "linear",
    "MemoryCore": "contract",
    "MemoryOutput": "contract",
    "State": "contract",
    "StepAttention": "report",
    "TransformerXL": "compressive.core",
    "from_authors": "compressive.authors",
    "state_bytes": "contract",
}

__all__ = [
    "AttentionReport",
    "AuthorsCore",
    "CompressiveTransformer",
    "GRUMemory",
    "GTrXL",
    "Identity",
    "LSTMMemory",
    "LinearRecurrence",
    "MemoryCore",
    "MemoryOutput",
    "State",
    "StepAttention",
    "TransformerXL",
    "build_memory",
    "from_authors",
    "memory_class",
    "memory_names",
    "memory_options",
    "option_help",
    "register_memory",
    "state_bytes",
]

__getattr__, __dir__ = lazy_names(globals(), _LAZY)
