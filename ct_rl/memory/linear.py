"""Linear recurrences under the memory contract, parallel in time on the training pass.

Glossary: B batch (rows), T time, L layers, D width (d_model), N state of a layer.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor, nn

from ct_rl.memory.activations import ACTIVATIONS, widths
from ct_rl.memory.contract import MemoryCore, MemoryOutput, State
from ct_rl.memory.options import Activation, check_options


@dataclass(frozen=True)
class LinearOptions:
    """Options of `linear`."""

    d_model: Annotated[int, Ge(1), Le(65_536)] = 128
    """Width of the core [units]."""
    n_layers: Annotated[int, Ge(1), Le(1024)] = 2
    """Layers [count]."""
    hidden: Annotated[int, Ge(1), Le(65_536)] = 128
    """State of a layer [numbers; complex ones for lru]."""
    d_ff: Annotated[int, Ge(1), Le(65_536)] | None = None
    """Width of the feed-forward part [units]; when absent 4 d_model, or 8/3 of it for swiglu."""
    activation: Activation = "gelu"
    """Activation of the feed-forward part."""
    cell: Literal["min_gru", "lru"] = "min_gru"
    """Recurrence: minGRU, whose gate sees the input (Feng et al. 2024), or LRU, fixed complex decays (Orvieto 2023)."""
    longest: Annotated[int, Ge(1), Le(1_048_576)] = 128
    """Steps over which the slowest units forget at first [steps]."""


_OPTIONS = {field.name for field in dataclasses.fields(LinearOptions)}


def scan(decay: Tensor, given: Tensor, start: Tensor) -> Tensor:
    """h_t = decay_t h_{t-1} + given_t for all t at once, from h_{-1} = start, in log2 T rounds over the sequence.

    Products of decays of magnitude up to 1 alone: stable at any length, and a decay of 0 cuts exactly. Its twin is the
    loop over `Cell.step` (tests/memory/test_linear.py).

    Args:
        decay, given: [B, T, N], real or complex; start: [B, N].
    """
    h = torch.cat([given[:, :1] + decay[:, :1] * start[:, None], given[:, 1:]], 1)
    reach = 1
    while reach < h.shape[1]:
        # What each step gathered from the last `reach` steps, joined with what was gathered before those.
        h = torch.cat([h[:, :reach], h[:, reach:] + decay[:, reach:] * h[:, :-reach]], 1)
        decay = torch.cat([decay[:, :reach], decay[:, reach:] * decay[:, :-reach]], 1)
        reach *= 2
    return h


class Cell(nn.Module, abc.ABC):
    """A recurrence h_t = a_t h_{t-1} + b_t, element by element; a state is real [..., N k], zero at first."""

    def __init__(self, d_model: int, hidden: int, longest: int):
        super().__init__()
        self.hidden = hidden

    width: int  # real numbers of a state

    @abc.abstractmethod
    def terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """a and b of inputs [..., D], as the recurrence has them."""

    @abc.abstractmethod
    def read(self, h: Tensor) -> Tensor:
        """What the layer gets of states [..., N], as real numbers [..., width]."""

    def load(self, state: Tensor) -> Tensor:
        """A stored state [..., width] as the recurrence has it."""
        return state

    def forward(self, x: Tensor, state: Tensor, resets: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, D], state [B, width], resets bool [B, T] -> y [B, T, width] and the next state [B, width]."""
        decay, given = self.terms(x)
        begun = self.load(state.masked_fill(resets[:, :1], 0))  # also where it is not finite
        y = self.read(scan(decay * ~resets[..., None], given, begun))
        return y, y[:, -1]

    def step(self, x: Tensor, state: Tensor, resets: Tensor) -> Tensor:
        """`forward` of one step: x [B, D], resets bool [B] -> y [B, width], which is the next state."""
        decay, given = self.terms(x)
        return self.read(decay * self.load(state.masked_fill(resets[:, None], 0)) + given)


class MinGRU(Cell):
    """h_t = (1 - z_t) h_{t-1} + z_t c_t, gate and candidate of the input alone (Feng et al. 2024, arXiv 2410.01201)."""

    def __init__(self, d_model: int, hidden: int, longest: int):
        super().__init__(d_model, hidden, longest)
        self.width = hidden
        self.inlet = nn.Linear(d_model, 2 * hidden)
        with torch.no_grad():  # gates open once in 1 to `longest` steps (Tallec and Ollivier 2018)
            times = torch.exp(torch.rand(hidden) * math.log(max(longest, 2)))
            self.inlet.bias[:hidden] = -(times - 1.0).clamp(min=1e-2).log()

    def terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate, candidate = self.inlet(x).chunk(2, -1)
        # Both sides of the gate from the sigmoid itself: 1 - z would lose what is far below 1.
        return torch.sigmoid(-gate), torch.sigmoid(gate) * candidate

    def read(self, h: Tensor) -> Tensor:
        return h


class LRU(Cell):
    """h_t = lambda h_{t-1} + gamma B x_t with complex lambda inside the unit circle (Orvieto et al. 2023,
    arXiv 2303.06349, section 3).
    """

    def __init__(self, d_model: int, hidden: int, longest: int):
        super().__init__(d_model, hidden, longest)
        self.width = 2 * hidden
        self.inlet = nn.Linear(d_model, 2 * hidden, bias=False)
        rate = torch.exp(-torch.rand(hidden) * math.log(max(longest, 2)))  # 1 to 1 / longest a step
        self.log_rate = nn.Parameter(rate.log())
        self.angle = nn.Parameter(torch.rand(hidden) * math.pi / 10)

    def terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        size = torch.exp(-_wide(self.log_rate).exp())
        decay = torch.polar(size, _wide(self.angle))
        given = torch.complex(*self.inlet(x).to(size.dtype).chunk(2, -1))
        return decay.expand_as(given), given * (1.0 - size.square()).clamp(min=1e-8).sqrt()

    def read(self, h: Tensor) -> Tensor:
        return torch.cat([h.real, h.imag], -1).to(self.log_rate.dtype)

    def load(self, state: Tensor) -> Tensor:
        return torch.complex(*_wide(state).chunk(2, -1))


def _wide(x: Tensor) -> Tensor:
    """Halves as float32: there are no complex numbers of them."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


CELLS: dict[str, type[Cell]] = {"lru": LRU, "min_gru": MinGRU}


class LinearLayer(nn.Module):
    """A recurrence and an MLP, each on normed input and added to what came in."""

    def __init__(
        self, d_model: int, hidden: int, d_ff: int | None, activation: str, cell: str, longest: int
    ):
        super().__init__()
        self.norm, self.norm_ff = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.cell = CELLS[cell](d_model, hidden, longest)
        self.gate = nn.Linear(d_model, self.cell.width)
        self.out = nn.Linear(self.cell.width, d_model)
        first, d_ff = widths(d_model, d_ff, activation)
        self.ff = nn.Sequential(
            nn.Linear(d_model, first), ACTIVATIONS[activation](), nn.Linear(d_ff, d_model)
        )
        # Blocks start as the identity, so that an agent can act before its memory has learned.
        for last in (self.out, self.ff[-1]):
            nn.init.zeros_(cast(nn.Linear, last).weight)
            nn.init.zeros_(cast(nn.Linear, last).bias)

    def forward(self, x: Tensor, recur: Callable[[Tensor], Tensor]) -> Tensor:
        """x [..., D] -> [..., D]; `recur` gives the cell's outputs for its normed input."""
        u = self.norm(x)
        x = x + self.out(recur(u) * F.silu(self.gate(u)))
        return x + self.ff(self.norm_ff(x))


class LinearRecurrence(MemoryCore):
    """Layers of a gated linear recurrence and an MLP: constant state, exact for any cut and reset.

    State: "state" [B, L, N], or [B, L, 2 N] for the LRU's complex numbers.

    Args: those of `LinearOptions`.
    """

    small: ClassVar[dict[str, Any]] = {"n_layers": 2, "hidden": 6}

    def __init__(
        self,
        d_model: int = 128,
        n_layers: int = 2,
        hidden: int = 128,
        d_ff: int | None = None,
        activation: str = "gelu",
        cell: str = "min_gru",
        longest: int = 128,
    ):
        given = {key: value for key, value in locals().items() if key in _OPTIONS}
        super().__init__()
        check_options(type(self).__name__, LinearOptions, given)
        self.d_model = self.d_out = d_model
        self.layers = nn.ModuleList(
            LinearLayer(d_model, hidden, d_ff, activation, cell, longest) for _ in range(n_layers)
        )

    @property
    def stack(self) -> list[LinearLayer]:
        """The layers, first to last."""
        return [cast(LinearLayer, layer) for layer in self.layers]

    @property
    def context_length(self) -> None:
        return None

    def initial_state(self, batch_size: int) -> State:
        width = self.stack[0].cell.width
        return {"state": self.like.new_zeros(batch_size, len(self.layers), width)}

    def run(self, x: Tensor, state: State, resets: Tensor, attention: bool) -> MemoryOutput:
        after = []
        for i, layer in enumerate(self.stack):
            before = state["state"][:, i]

            def recur(u: Tensor, layer: LinearLayer = layer, before: Tensor = before) -> Tensor:
                y, last = layer.cell(u, before, resets)
                after.append(last)
                return cast(Tensor, y)

            x = layer(x, recur)
        stored = torch.stack(after, 1).detach().to(state["state"].dtype)
        return MemoryOutput(x, {"state": stored})

    def run_step(self, x: Tensor, state: State, resets: Tensor) -> Tensor:
        for i, layer in enumerate(self.stack):
            held = state["state"][:, i]

            def recur(u: Tensor, layer: LinearLayer = layer, held: Tensor = held) -> Tensor:
                y = layer.cell.step(u, held, resets)
                held.copy_(y)
                return y

            x = layer(x, recur)
        return x
