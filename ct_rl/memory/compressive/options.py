"""The options of the Compressive Transformer and of its relatives without compressed memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt

from ct_rl.memory.options import Activation, Of

_Count = Annotated[int, Ge(1), Le(1024)]
_Width = Annotated[int, Ge(1), Le(65_536)]
_Steps = Annotated[int, Ge(0), Le(1_048_576)]
_Compressing = Of("compressed")


@dataclass(frozen=True)
class _Transformer:
    d_model: _Width = 128
    """Width of the core [units], even and a multiple of n_heads."""
    n_layers: _Count = 3
    """Layers [count]."""
    n_heads: _Count = 4
    """Attention heads per layer [count]."""
    d_ff: _Width | None = None
    """Width of the feed-forward part [units]; when absent 4 d_model, or 8/3 of it for swiglu."""
    window: Annotated[int, Ge(1), Le(1_048_576)] = 16
    """Steps after which the memory moves on together (n_s) [steps]."""
    memory: _Steps = 64
    """Remembered steps beyond the window, per layer (n_m) [steps]."""


@dataclass(frozen=True)
class _Inside(_Transformer):
    gate: Literal["residual", "gru"] = "residual"
    """How a block's output joins its input: a residual sum, or GTrXL's GRU gate (Parisotto et al. 2019)."""
    norm: Literal["pre", "post"] = "pre"
    """Layer norm on the input of each block, or on its output."""
    activation: Activation = "gelu"
    """Activation of the feed-forward part."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Rate on attention weights, in the feed-forward part and on each block's output; in training mode."""
    mask_empty: bool = True
    """Whether places never filled are hidden; False: queries see them as zeros, as in the authors' code."""
    window_gradient: bool = True
    """Whether gradients flow through the memory from window to window inside a call (ours), or stop as in the paper."""
    gated_reads: bool = False
    """Whether the step's own input gates what the heads read, by a swish, as in RetNet (Sun et al. 2023)."""
    near_first: bool = False
    """Whether attention starts out falling with distance, faster in some heads than in others (ours)."""


@dataclass(frozen=True)
class TransformerXLOptions(_Inside):
    """Options of `transformer_xl`."""


@dataclass(frozen=True)
class GTrXLOptions(_Transformer):
    """Options of `gtrxl`."""

    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Rate on attention weights, in the feed-forward part and on each block's output; in training mode."""
    window_gradient: bool = True
    """Whether gradients flow through the memory from window to window inside a call (ours), or stop as in the paper."""


@dataclass(frozen=True)
class CompressiveOptions(_Inside):
    """Options of `compressive`."""

    compressed: _Steps = 64
    """Compressed slots, per layer (n_cm) [slots, each holds `rate` steps]."""
    rate: Annotated[int, Ge(1), Le(65_536), _Compressing] = 4
    """Compression rate: steps in one slot (c) [steps]."""
    compression: Annotated[str, _Compressing] = "conv"
    """Compression function (section 3.1): conv, dilated, max, mean or most_used."""
    compression_loss: Annotated[Literal["attention", "auto_encoding", "none"], _Compressing] = (
        "attention"
    )
    """Loss that trains it (section 3.2); none: the task's gradient does, inside a call."""
    overflow: Annotated[Literal["drop", "merge"], _Compressing] = "drop"
    """When compressed memory is full: drop the oldest slot, or merge the oldest c into one, a pyramid (ours)."""
    slot_positions: Annotated[Literal["order", "time", "authors"], _Compressing] = "order"
    """A slot's distance: its place before the memory (the paper), steps (ours), or as the authors' code counts."""
