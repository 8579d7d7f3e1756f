"""Memory cores: the Compressive Transformer and the baselines beside it, in plain torch."""

from ct_rl.memory.compressive.authors import AuthorsCore, from_authors
from ct_rl.memory.compressive.core import CompressiveTransformer, GTrXL, TransformerXL
from ct_rl.memory.contract import MemoryCore, MemoryOutput, State, state_bytes
from ct_rl.memory.identity import Identity
from ct_rl.memory.linear import LinearRecurrence
from ct_rl.memory.options import option_help
from ct_rl.memory.recurrent import GRUMemory, LSTMMemory
from ct_rl.memory.registry import (
    build_memory,
    memory_class,
    memory_names,
    memory_options,
    register_memory,
)
from ct_rl.memory.report import AttentionReport

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
