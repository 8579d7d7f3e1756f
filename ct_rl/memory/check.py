"""A look at a core of somebody's own when it is built: are its states, outputs, losses and resets the contract's?

A copy is asked for a few steps, and what would train wrong in silence or fail far from its cause is one line here.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ct_rl.errors import said
from ct_rl.memory.contract import LEARNERS_LOSSES, MemoryCore, MemoryOutput, State, described

_ROWS, _STEPS = 4, 3
_APART = 1e-3  # of the largest output: what rounding never makes


def check_core(name: str, core: MemoryCore) -> None:
    """Asks a copy of a core for its state and two batches of a few steps.

    A core that cannot be copied passes. So does one that raises an error where it may be made for another device: the
    error comes again in use.

    Raises:
        ValueError: one line that names the core, what it gave and what the contract says.
    """
    for part in ("like", "d_model", "d_out"):
        if not hasattr(core, part):
            raise ValueError(
                f"memory {name!r} has no {part}: its __init__ calls MemoryCore's, and sets d_model and d_out, the "
                "widths of inputs and outputs"
            )
    try:
        asked = copy.deepcopy(core)
    except Exception:
        return
    try:
        empty = asked.initial_state(_ROWS)
        _check_empty(empty)
        x = torch.arange(_ROWS * _STEPS * core.d_model, device=core.like.device).sin()
        x = x.view(_ROWS, _STEPS, core.d_model).to(core.like.dtype)
        out = _ask(asked, x, empty)
        _check_output(core, out, empty)
        _check_resets(asked.eval(), x, empty, out.state)
    except _Refused as refused:
        raise ValueError(f"memory {name!r}{refused}") from None
    except Exception as error:
        if core.like.device.type != "cpu" or torch.cuda.is_available():
            return
        raise ValueError(
            f"memory {name!r} cannot read {_ROWS} rows of {_STEPS} steps: {said(error)}"
        ) from error


class _Refused(Exception):
    """What the contract does not allow, to be said of a core."""


def _ask(core: MemoryCore, x: Tensor, state: State, resets: Tensor | None = None) -> Any:
    with torch.random.fork_rng(devices=[]), torch.enable_grad():  # dropout draws
        return core(x, state, resets)


def _check_empty(empty: Any) -> None:
    if not isinstance(empty, dict):
        raise _Refused(f": initial_state gave {described(empty)}, expected a dict of tensors")
    for key, part in empty.items():
        if not isinstance(part, Tensor) or part.shape[:1] != (_ROWS,):
            raise _Refused(
                f": initial_state({_ROWS}) gave {key!r} as {described(part)}, expected a tensor whose first dimension "
                f"is the batch, {_ROWS} (a state is one dict, not nested)"
            )


def _check_output(core: MemoryCore, out: Any, empty: State) -> None:
    if not isinstance(out, MemoryOutput):
        raise _Refused(f": run gave {described(out)}, expected a MemoryOutput")
    given = {"y": out.y} | {f"state {key!r}": part for key, part in out.state.items()}
    wanted = {"y": core.like.new_empty(_ROWS, _STEPS, core.d_out)}
    wanted |= {f"state {key!r}": part for key, part in empty.items()}
    for part, like in wanted.items():
        made = given.pop(part, None)
        if not isinstance(made, Tensor) or (made.shape, made.dtype) != (like.shape, like.dtype):
            raise _Refused(f": run gave {part} as {described(made)}, expected {described(like)}")
    for part in given:
        raise _Refused(f": run gave {part}, which initial_state has not")
    for key, loss in out.losses.items():
        if key in LEARNERS_LOSSES:
            raise _Refused(f": the loss {key!r} is the learner's: name it otherwise")
        if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
            raise _Refused(
                f": run gave the loss {key!r} as {described(loss)}, expected a floating-point scalar, "
                "a tensor of shape []"
            )
    for key, count in out.counts.items():
        if key not in out.losses:
            raise _Refused(f": run gave a count of {key!r}, and no loss of that name")
        if not isinstance(count, Tensor) or count.dim():
            raise _Refused(
                f": run gave the count of {key!r} as {described(count)}, expected a tensor of shape []"
            )


def _check_resets(core: MemoryCore, x: Tensor, empty: State, carried: State) -> None:
    """Compares rows that begin anew, in the first step and within the call, with a row that has seen nothing.

    Where two equal rows differ the core draws, or its rows meet, and nothing can be compared.
    """
    later = x[:1].roll(-1, 1)
    x = torch.cat([x[:1], later, later, later])
    state = {key: torch.cat([carried[key][:2], part[2:]]).detach() for key, part in empty.items()}
    resets = torch.zeros(_ROWS, _STEPS, dtype=torch.bool, device=x.device)
    resets[0, 1] = resets[1, 0] = True
    y = _ask(core, x, state, resets).y.detach()
    if y.device.type == "meta" or not y.isfinite().all():
        return
    apart = _APART * float(y.abs().max())
    fresh = y[2, :-1]
    if float((y[3] - y[2]).abs().max()) > apart:
        return
    for row, step in ((y[1, :-1], 0), (y[0, 1:], 1)):
        if float((row - fresh).abs().max()) <= apart:
            continue
        for key, part in empty.items():
            if part.any():
                raise _Refused(
                    f": initial_state gave {key!r} other values than a reset does: an empty memory is all zeros"
                )
        raise _Refused(
            f" does not forget where an episode begins in step {step} of a call: y is not that of an empty memory; in "
            "run, take zeros for the state of the rows of resets[:, t] before every step t"
        )
