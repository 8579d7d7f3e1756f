"""What every memory core is: a function from inputs and a state to outputs and the next state.

Glossary: B batch (rows), T time, L layers, D width (d_model), H heads, M remembered steps, C compressed slots.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ct_rl.memory.report import AttentionReport

State = dict[str, Tensor]


def choose(name: str, given: str, known: Iterable[str]) -> None:
    """Raises ValueError where `given` is none of the `known`, naming them."""
    if given not in known:
        raise ValueError(f"unknown {name} {given!r}: choose one of {', '.join(sorted(known))}")


@dataclass
class MemoryOutput:
    """What one call gives.

    Attributes:
        y: [B, T, d_out].
        state: same structure as the state given, detached.
        losses: scalars the memory adds to the task's loss; "compression" in training mode where there is one.
        attention: where the call looked, if asked for and if the core attends.
    """

    y: Tensor
    state: State
    losses: dict[str, Tensor] = field(default_factory=dict)
    attention: AttentionReport | None = None


class MemoryCore(nn.Module, abc.ABC):
    """A recurrent torso whose result does not depend on how a sequence is cut into calls.

    Every tensor of a state has the batch as its first dimension, and an empty memory is all zeros.
    """

    d_model: int
    d_out: int

    @property
    @abc.abstractmethod
    def context_length(self) -> int | None:
        """Steps one layer can reach, the current one included; None where there is no bound."""

    @abc.abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The memory of `batch_size` rows that have seen nothing."""

    @abc.abstractmethod
    def run(self, x: Tensor, state: State, resets: Tensor, attention: bool) -> MemoryOutput:
        """`forward` on checked arguments."""

    def compressor_parameters(self) -> list[nn.Parameter]:
        """The parameters that the compression loss trains, and nothing else does."""
        return []

    def cached(self, state: State) -> State:
        """A state for acting, with whatever makes one-step calls cheap; such calls update it in place."""
        return dict(state)

    def compact(self, state: State) -> State:
        """The part of a state that must travel: `cached` rebuilds the rest from it."""
        return dict(state)

    def is_cached(self, state: State) -> bool:
        """Whether a state is from `cached`, with more than must travel."""
        return False

    def form(self, state: State) -> State:
        """What one row of `state` is to look like, cached or not: an empty one."""
        return self.initial_state(1)

    def refresh(self, state: State) -> State:
        """A state for acting under new weights: what was made by the old ones is rebuilt; `state` is used up."""
        return self.cached(self.compact(state))

    @torch.no_grad()
    def step(self, x: Tensor, state: State, resets: Tensor | None = None) -> Tensor:
        """Reads one step x [B, d_model] and moves `state` on IN PLACE; y [B, d_out]."""
        out = self(x[:, None], state, None if resets is None else resets[:, None])
        state.update(out.state)
        return out.y[:, 0]

    def forward(
        self, x: Tensor, state: State, resets: Tensor | None = None, attention: bool = False
    ) -> MemoryOutput:
        """Reads T steps.

        Args:
            x: [B, T, d_model], floating point.
            state: from `initial_state`, `cached` or the call before.
            resets: bool [B, T], True where a step begins a new episode; None for none.
            attention: whether to report where the call looked, at some cost.

        Raises:
            ValueError: when a shape, dtype or device does not fit, or a state that is not `cached` holds NaN or
                infinity, saying what came and what was expected.
        """
        if x.dim() != 3 or x.shape[-1] != self.d_model or not x.is_floating_point():
            raise ValueError(
                f"x is {x.dtype} {list(x.shape)}, expected floating point [B, T, {self.d_model}]"
            )
        if x.shape[1] < 1:
            raise ValueError(f"x is {list(x.shape)}, no step: give at least one")
        if resets is None:
            resets = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        elif resets.shape != x.shape[:2] or resets.dtype != torch.bool:
            raise ValueError(
                f"resets is {resets.dtype} {list(resets.shape)}, expected bool {list(x.shape[:2])}"
            )
        elif resets.device != x.device:
            raise ValueError(
                f"resets is on {resets.device} and x on {x.device}: move one to the other"
            )
        self.check_state(state, x)
        return self.run(x, state, resets, attention)

    def check_state(self, state: State, x: Tensor) -> None:
        """Raises ValueError where `state` is another core's, batch's or device's, or is not finite."""
        expected = self.form(state)
        for name, empty in expected.items():
            if name not in state:
                raise ValueError(
                    f"the state has no {name!r} (it has {', '.join(sorted(state)) or 'nothing'}): "
                    "use this core's initial_state"
                )
            given = state[name]
            if given.shape[1:] != empty.shape[1:] or given.shape[0] != x.shape[0]:
                raise ValueError(
                    f"state {name!r} is {list(given.shape)}, expected "
                    f"{[x.shape[0], *empty.shape[1:]]}: use this core's initial_state({x.shape[0]})"
                )
            if given.dtype != empty.dtype:
                raise ValueError(
                    f"state {name!r} is {given.dtype}, expected {empty.dtype}: convert it, or the core"
                )
            if given.device != empty.device:
                raise ValueError(
                    f"state {name!r} is on {given.device} and the core on {empty.device}: "
                    "move one to the other"
                )
        self._check_input(x)
        self._check_finite(state)

    def _check_input(self, x: Tensor) -> None:
        like = next(self.parameters())
        if x.device != like.device:
            raise ValueError(
                f"x is on {x.device} and the core on {like.device}: move one to the other"
            )
        if x.dtype != like.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"x is {x.dtype}, this core {like.dtype}: convert one to the other")

    def _check_finite(self, state: State) -> None:
        # A compiled call must not look at values, and a step of acting must not read the whole memory.
        if torch.compiler.is_compiling() or self.is_cached(state):
            return
        for name, given in state.items():
            if given.is_floating_point() and not bool(given.sum().isfinite()):
                raise ValueError(
                    f"state {name!r} holds NaN or infinity: start from initial_state, "
                    "and look for what made it"
                )


def state_bytes(state: State) -> int:
    """How many bytes a state occupies."""
    return sum(x.numel() * x.element_size() for x in state.values())
