"""A language model: embedding, memory core, output layer.

Glossary: B batch (rows), T time, D width of the core's output, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ct_rl.lm.embedding import AdaptiveEmbedding, AdaptiveHead, PlainHead
from ct_rl.memory import MemoryCore, MemoryOutput, State


@dataclass
class Reading:
    """What reading T tokens gives.

    Attributes:
        nll: float32 [B, T], -ln p of each target [nats].
        state: for the next call.
        losses: the core's own, scalars; terms: of how many terms each is the mean.
    """

    nll: Tensor
    state: State
    losses: dict[str, Tensor]
    terms: dict[str, Tensor]


class LanguageModel(nn.Module):
    """Next-token prediction by any memory core.

    Args:
        cutoffs: of adaptive input and softmax; none for plain ones.
        dropout: on embeddings and on the core's output, in training mode.
    """

    def __init__(
        self, vocab_size: int, core: MemoryCore, cutoffs: Sequence[int] = (), dropout: float = 0.0
    ):
        super().__init__()
        self.core = core
        self.drop = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(core.d_out)
        self.embed: nn.Module
        self.head: PlainHead | AdaptiveHead
        if cutoffs:
            self.embed = AdaptiveEmbedding(vocab_size, core.d_model, cutoffs)
            self.head = AdaptiveHead(core.d_out, vocab_size, list(cutoffs))
        else:
            self.embed = nn.Embedding(vocab_size, core.d_model)
            nn.init.normal_(self.embed.weight, std=core.d_model**-0.5)
            self.head = PlainHead(core.d_out, vocab_size)

    def initial_state(self, batch_size: int) -> State:
        """The memory of rows that have read nothing."""
        return self.core.initial_state(batch_size)

    def run(
        self, tokens: Tensor, state: State, resets: Tensor | None = None, attention: bool = False
    ) -> MemoryOutput:
        """The core's output over int64 tokens [B, T], `y` normalised [B, T, D] for `head`."""
        out = self.core(self.drop(self.embed(tokens)), state, resets, attention=attention)
        out.y = self.drop(self.norm(out.y))
        return out

    def forward(
        self, tokens: Tensor, targets: Tensor, state: State, resets: Tensor | None = None
    ) -> Reading:
        """Reads int64 tokens [B, T] and prices targets [B, T]; `resets` bool [B, T] begins documents anew."""
        out = self.run(tokens, state, resets)
        nll = self.head.nll(out.y.flatten(0, 1), targets.flatten())
        return Reading(nll.view(targets.shape), out.state, out.losses, out.terms)

    @torch.no_grad()
    def step(self, tokens: Tensor, state: State) -> Tensor:
        """Reads one token a row, int64 [B], and moves `state` on IN PLACE: ln p of the next one [B, V]."""
        y = self.core.step(self.drop(self.embed(tokens)), state)
        return self.head.log_probs(self.drop(self.norm(y)))

    def task_parameters(self) -> list[nn.Parameter]:
        """All parameters but the compressor's."""
        apart = {id(p) for p in self.core.compressor_parameters()}
        return [p for p in self.parameters() if id(p) not in apart]


def row_slice(state: State, rows: slice) -> State:
    """Some rows of a state."""
    return {name: value[rows] for name, value in state.items()}


def join_rows(states: Sequence[State]) -> State:
    """States of several batches as one."""
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}


def flops_per_token(model: LanguageModel, context: int) -> float:
    """Floating-point operations of training on one token: 6 a weight in a matrix, and attention over `context` places.

    The usual count (Kaplan et al. 2020, arXiv 2001.08361, section 2.1): embeddings are looked up, not multiplied.
    """
    table = sum(p.numel() for p in model.embed.parameters())
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1) - table
    layers = len(getattr(model.core, "layers", ()))
    return 6.0 * weights + 12.0 * layers * model.core.d_model * context
