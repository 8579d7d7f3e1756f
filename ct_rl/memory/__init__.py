"""Memory cores: the Compressive Transformer and the baselines beside it, in plain torch."""

from ct_rl.memory.authors import AuthorsCore, from_authors
from ct_rl.memory.compressive import CompressiveTransformer, GTrXL, TransformerXL
from ct_rl.memory.contract import MemoryCore, MemoryOutput, State, state_bytes
from ct_rl.memory.recurrent import GRUMemory, LSTMMemory
from ct_rl.memory.registry import build_memory, memory_names, memory_options
from ct_rl.memory.report import AttentionReport

__all__ = [
    "AttentionReport",
    "AuthorsCore",
    "CompressiveTransformer",
    "GRUMemory",
    "GTrXL",
    "LSTMMemory",
    "MemoryCore",
    "MemoryOutput",
    "State",
    "TransformerXL",
    "build_memory",
    "from_authors",
    "memory_names",
    "memory_options",
    "state_bytes",
]
