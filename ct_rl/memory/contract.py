"""What every memory core is: a function from inputs and a state to outputs and the next state.

Glossary: B batch (rows), T time, L layers, D width (d_model), H heads, M remembered steps, C compressed slots.
"""

from __future__ import annotations

import abc
import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ct_rl.memory.report import AttentionReport, StepAttention

State = dict[str, Tensor]


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

    Every tensor of a state has the batch as its first dimension, and an empty memory is all zeros. There is one layout
    for carrying a state and for acting with it.

    Attributes:
        d_model, d_out: widths of inputs and outputs.
        small: options with which the contract tests build the core.
    """

    d_model: int
    d_out: int
    small: ClassVar[dict[str, Any]] = {}
    like: Tensor  # empty; has the core's device and dtype, also where there is no parameter

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("like", torch.empty(0), persistent=False)

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

    def run_step(self, x: Tensor, state: State, resets: Tensor) -> Tensor:
        """`step` on checked arguments; a core that can do with less than a call of length one overrides it."""
        out = self.run(x[:, None], state, resets[:, None], False)
        state.update(out.state)
        return out.y[:, 0]

    def pure_step(self, x: Tensor, state: State, resets: Tensor) -> tuple[Tensor, State]:
        """`step` as a function, for tracing: nothing is checked and `state` stays as it is.

        A core whose `run_step` looks at values to choose what it does overrides it.

        Returns:
            y [B, d_out], and the next state.
        """
        after = {name: value.clone() for name, value in state.items()}
        return self.run_step(x, after, resets), after

    def run_watched_step(
        self, x: Tensor, state: State, resets: Tensor, masked: Tensor | None
    ) -> tuple[Tensor, StepAttention | None]:
        """`watched_step` on checked arguments; a core that attends overrides it."""
        if masked is not None:
            raise ValueError(f"{type(self).__name__} does not attend: there is no place to mask")
        return self.run_step(x, state, resets), None

    def compressor_parameters(self) -> list[nn.Parameter]:
        """The parameters that the compression loss trains, and nothing else does."""
        return []

    def forward(
        self, x: Tensor, state: State, resets: Tensor | None = None, attention: bool = False
    ) -> MemoryOutput:
        """Reads T steps; `state` stays as it is.

        Args:
            x: [B, T, d_model], floating point.
            state: from `initial_state`, `step` or the call before.
            resets: bool [B, T], True where a step begins a new episode; None for none.
            attention: whether to report where the call looked, at some cost.

        Raises:
            ValueError: when a shape, dtype or device does not fit, or a state holds NaN or infinity, saying what
                came and what was expected.
        """
        if x.dim() != 3 or x.shape[-1] != self.d_model or not x.is_floating_point():
            raise ValueError(
                f"x is {x.dtype} {list(x.shape)}, expected floating point [B, T, {self.d_model}]"
            )
        if x.shape[1] < 1:
            raise ValueError(f"x is {list(x.shape)}, no step: give at least one")
        resets = _checked_resets(x, resets)
        self.check_state(state, x)
        return self.run(x, state, resets, attention)

    @torch.no_grad()
    def step(self, x: Tensor, state: State, resets: Tensor | None = None) -> Tensor:
        """Reads one step without gradient and moves `state` on IN PLACE: the cheap way to act.

        After any mix of steps and calls the state is what calls alone give. Values are not looked at: a step must not
        read the whole memory. Weights may change between steps in any way that torch counts (not by `weight.data`).

        Args:
            x: [B, d_model], floating point.
            state: from `initial_state`, `step` or a call.
            resets: bool [B], True where the step begins a new episode; None for none.

        Returns:
            y [B, d_out].

        Raises:
            ValueError: when a shape, dtype or device does not fit, or the state is another batch's or core's.
        """
        return self.run_step(x, state, self._checked_step(x, state, resets))

    @torch.no_grad()
    def watched_step(
        self,
        x: Tensor,
        state: State,
        resets: Tensor | None = None,
        masked: Tensor | None = None,
    ) -> tuple[Tensor, StepAttention | None]:
        """`step`, and the attention weights that it acted with; `state` moves on IN PLACE.

        Without `masked`, y and the state are those of `step` to the last bit.

        Args:
            x, state, resets: as for `step`.
            masked: bool [B, N], places of `StepAttention` that this step may not read, in any layer; the weights of
                the others sum to 1 again. Its own it always reads, and what later steps wrote of a masked one.

        Returns:
            y [B, d_out], and the attention; None where the core does not attend.

        Raises:
            ValueError: as `step` does, and for places of a core that does not attend.
        """
        return self.run_watched_step(x, state, self._checked_step(x, state, resets), masked)

    def _checked_step(self, x: Tensor, state: State, resets: Tensor | None) -> Tensor:
        """The resets of a step whose arguments fit."""
        if x.dim() != 2 or x.shape[-1] != self.d_model or not x.is_floating_point():
            raise ValueError(
                f"x is {x.dtype} {list(x.shape)}, expected floating point [B, {self.d_model}]"
            )
        resets = _checked_resets(x, resets)
        self._check_input(x)
        for name in self._state_names:
            if name not in state or len(state[name]) != len(x):
                held = f"of {len(state[name])} rows" if name in state else "absent"
                raise ValueError(
                    f"state {name!r} is {held}, expected one for {len(x)} rows: "
                    f"use this core's initial_state({len(x)})"
                )
        return resets

    @functools.cached_property
    def _state_names(self) -> tuple[str, ...]:
        return tuple(self.initial_state(1))

    def check_state(self, state: State, x: Tensor) -> None:
        """Raises ValueError where `state` is another core's, batch's or device's, or is not finite."""
        for name, empty in self.initial_state(1).items():
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
        _check_finite(state)

    def _check_input(self, x: Tensor) -> None:
        if x.device != self.like.device:
            raise ValueError(
                f"x is on {x.device} and the core on {self.like.device}: move one to the other"
            )
        if x.dtype != self.like.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                f"x is {x.dtype}, this core {self.like.dtype}: convert one to the other"
            )


def _checked_resets(x: Tensor, resets: Tensor | None) -> Tensor:
    shape = x.shape[:-1]
    if resets is None:
        return torch.zeros(shape, dtype=torch.bool, device=x.device)
    if resets.shape != shape or resets.dtype != torch.bool:
        raise ValueError(
            f"resets is {resets.dtype} {list(resets.shape)}, expected bool {list(shape)}"
        )
    if resets.device != x.device:
        raise ValueError(f"resets is on {resets.device} and x on {x.device}: move one to the other")
    return resets


def _check_finite(state: State) -> None:
    if torch.compiler.is_compiling():
        return  # a compiled call must not look at values
    for name, given in state.items():
        if given.device.type == "meta" or not given.is_floating_point():
            continue
        if not bool(given.sum().isfinite()):
            raise ValueError(
                f"state {name!r} holds NaN or infinity: start from initial_state, "
                "and look for what made it"
            )


def state_bytes(state: State) -> int:
    """How many bytes a state occupies."""
    return sum(x.numel() * x.element_size() for x in state.values())
