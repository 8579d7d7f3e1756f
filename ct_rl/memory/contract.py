"""What every memory core is: a function from inputs and a state to outputs and the next state.

Glossary: B batch (rows), T time, L layers, D width (d_model), H heads, M remembered steps, C compressed slots.
"""

from __future__ import annotations

import abc
import functools
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ct_rl.memory.means import joined
from ct_rl.memory.report import AttentionReport, StepAttention

State = dict[str, Tensor]
# Reported as NAME_loss by whatever learns: no loss beside them has such a name.
LEARNERS_LOSSES = ("policy", "value", "total", "mean_kl")


class StateNotFinite(ValueError):
    """A state that is read holds NaN or infinity."""


@dataclass
class MemoryOutput:
    """What one call gives.

    Attributes:
        y: [B, T, d_out].
        state: same structure as the state given, detached.
        losses: scalars the memory adds to the task's loss, each a mean; "compression" in training mode where there is
            one.
        attention: where the call looked, if asked for and if the core attends.
        counts: of how many terms each loss is the mean, scalars by its name; none of those in which all rows and steps
            count alike. Who makes one mean of several reads `terms`.
    """

    y: Tensor
    state: State
    losses: dict[str, Tensor] = field(default_factory=dict)
    attention: AttentionReport | None = None
    counts: dict[str, Tensor] = field(default_factory=dict)

    @property
    def terms(self) -> dict[str, Tensor]:
        """Of how many terms each loss is the mean."""
        every = torch.full((), self.y.shape[0] * self.y.shape[1], device=self.y.device)
        return {name: self.counts.get(name, every) for name in self.losses}


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

    def run_filled(self, x: Tensor, state: State, lengths: Tensor) -> MemoryOutput:
        """`read_filled` on checked arguments: a call for the rows of each length, and one mean of their losses.

        A core that can tell in one call what fills a row up overrides it.
        """
        steps, order, outs = x.shape[1], [], []
        for length in lengths.unique().tolist():
            rows = torch.nonzero(lengths == length).flatten()
            order.append(rows)
            outs.append(self(x[rows, :length], {name: part[rows] for name, part in state.items()}))
        back = torch.cat(order).argsort()
        found = {
            name: joined([(out.losses[name], out.terms[name]) for out in outs])
            for name in outs[0].losses
        }
        return MemoryOutput(
            torch.cat([F.pad(out.y, (0, 0, 0, steps - out.y.shape[1])) for out in outs])[back],
            {name: torch.cat([out.state[name] for out in outs])[back] for name in state},
            {name: mean for name, (mean, _) in found.items()},
            counts={name: count for name, (_, count) in found.items()},
        )

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
            x: [B, T, d_model], finite floating point: NaN or infinity may reach all steps of its row in the call.
            state: from `initial_state`, `step` or the call before. A row that begins a new episode in the first step
                may hold anything.
            resets: bool [B, T], True where a step begins a new episode; None for none.
            attention: whether to report where the call looked, at some cost.

        Raises:
            ValueError: when a shape, dtype or device does not fit, or a state that is read holds NaN or infinity,
                saying what came and what was expected.
        """
        self._check_call(x)
        resets = _checked_resets(x, resets)
        self.check_state(state, x)
        return self.run(x, _finite(state, resets[:, 0]), resets, attention)

    def read_filled(self, x: Tensor, state: State, lengths: Tensor) -> MemoryOutput:
        """`forward` on rows of unlike lengths that are filled up to T steps: no loss counts what fills them up.

        Args:
            x, state: as for `forward`.
            lengths: int32 or int64 [B], how many steps of each row are there, 1 to T.

        Returns:
            As `forward`, without resets. What `y` holds beyond a row's length means nothing, and neither does the
            state of a row that is filled up.

        Raises:
            ValueError: as `forward` does, and where `lengths` does not fit.
        """
        self._check_call(x)
        _check_lengths(x, lengths)
        self.check_state(state, x)
        new = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        return self.run_filled(x, _finite(state, new), lengths)

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

    def _check_call(self, x: Tensor) -> None:
        """Raises ValueError where `x` is no [B, T, d_model] of one row and step at least."""
        if not self._fits(x, 3):
            raise ValueError(f"x is {described(x)}, expected floating point [B, T, {self.d_model}]")
        if 0 in x.shape[:2]:
            what = "step" if len(x) else "row"
            raise ValueError(f"x is {list(x.shape)}, no {what}: give at least one")

    def _checked_step(self, x: Tensor, state: State, resets: Tensor | None) -> Tensor:
        """The resets of a step whose arguments fit."""
        if not self._fits(x, 2):
            raise ValueError(f"x is {described(x)}, expected floating point [B, {self.d_model}]")
        if not len(x):
            raise ValueError(f"x is {list(x.shape)}, no row: give at least one")
        resets = _checked_resets(x, resets)
        self._check_input(x)
        _check_kind(state)
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

    def _fits(self, x: Any, dims: int) -> bool:
        return (
            isinstance(x, Tensor)
            and x.dim() == dims
            and x.shape[-1] == self.d_model
            and x.is_floating_point()
        )

    def check_state(self, state: State, x: Tensor) -> None:
        """Raises ValueError where `state` is another core's, batch's or device's."""
        _check_kind(state)
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

    def _check_input(self, x: Tensor) -> None:
        if x.device != self.like.device:
            raise ValueError(
                f"x is on {x.device} and the core on {self.like.device}: move one to the other"
            )
        if x.dtype != self.like.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(
                f"x is {x.dtype}, this core {self.like.dtype}: convert one to the other"
            )


def beyond(lengths: Tensor, steps: int) -> Tensor:
    """bool [B, steps], True where rows of these lengths [B] are only filled up."""
    return torch.arange(steps, device=lengths.device) >= lengths[:, None]


def _checked_resets(x: Tensor, resets: Tensor | None) -> Tensor:
    shape = x.shape[:-1]
    if resets is None:
        return torch.zeros(shape, dtype=torch.bool, device=x.device)
    fits = isinstance(resets, Tensor) and resets.dtype == torch.bool
    if not fits or resets.shape != shape:
        raise ValueError(f"resets is {described(resets)}, expected bool {list(shape)}")
    if resets.device != x.device:
        raise ValueError(f"resets is on {resets.device} and x on {x.device}: move one to the other")
    return resets


def _check_lengths(x: Tensor, lengths: Tensor) -> None:
    """Raises ValueError where `lengths` are not how many steps of each row of x are there."""
    rows, steps = x.shape[:2]
    whole = isinstance(lengths, Tensor) and lengths.dtype in (torch.int32, torch.int64)
    if not whole or lengths.shape != (rows,):
        raise ValueError(f"lengths is {described(lengths)}, expected int32 or int64 [{rows}]")
    if lengths.device != x.device:
        raise ValueError(
            f"lengths is on {lengths.device} and x on {x.device}: move one to the other"
        )
    if lengths.device.type == "meta" or torch.compiler.is_compiling():
        return
    least, most = torch.stack(lengths.aminmax()).tolist()
    if least < 1 or most > steps:
        raise ValueError(f"lengths go from {least} to {most}, expected 1 to {steps}")


def described(given: Any) -> str:
    """What was given, for an error's line."""
    kind = "" if isinstance(given, Tensor) else f"{type(given).__module__}.{type(given).__name__} "
    if not hasattr(given, "dtype"):
        return kind.removeprefix("builtins.").strip()
    return f"{kind}{given.dtype} {list(given.shape)}"


def _check_kind(state: Any) -> None:
    """Raises ValueError for what is no dict of tensors."""
    if not isinstance(state, dict):
        raise ValueError(f"the state is {described(state)}: use this core's initial_state")
    for name, given in state.items():
        if not isinstance(given, Tensor):
            raise ValueError(f"state {name!r} is {described(given)}, expected a torch tensor")


def _finite(state: State, new: Tensor) -> State:
    """The state, with zeros in rows that are `new` (bool [B]) where a tensor holds NaN or infinity.

    Raises:
        StateNotFinite: where another row holds them.
    """
    found: State = {}
    compiling = torch.compiler.is_compiling()  # a compiled call must not look at values
    if not compiling and _all_finite(state):  # a GPU is waited for once, not for each tensor
        return state
    for name, given in state.items():
        if given.device.type == "meta" or not given.is_floating_point():
            continue
        if not compiling and bool(_sum(given).isfinite()):
            continue
        found[name] = given.masked_fill(new.view(-1, *[1] * (given.dim() - 1)), 0)
        if not compiling and not _sum(found[name]).isfinite():
            raise StateNotFinite(
                f"state {name!r} holds NaN or infinity: start from initial_state, "
                "and look for what made it"
            )
    return {**state, **found} if found else state


def _all_finite(state: State) -> bool:
    """Whether the state's tensors that have values hold finite ones alone."""
    sums = [
        _sum(given).float()
        for given in state.values()
        if given.device.type != "meta" and given.is_floating_point()
    ]
    return not sums or bool(torch.stack(sums).isfinite().all())


def _sum(given: Tensor) -> Tensor:
    """Finite where all numbers are; a half's sum may not be one."""
    half = given.dtype in (torch.float16, torch.bfloat16)
    return given.sum(dtype=torch.float32 if half else None)


def state_bytes(state: State) -> int:
    """How many bytes a state occupies."""
    return sum(x.numel() * x.element_size() for x in state.values())
