"""A rollout fragment: T steps of N environments and ONE memory snapshot, from the runner to the loss.

Shapes: N environments (rows), T steps. Rows run on across episode ends: `resets` marks where an episode
begins, and nothing is padded.

An environment that ends an episode at step t (gymnasium's NEXT_STEP autoreset) shows its last observation
at t + 1, where the action is ignored, and its new episode's first at t + 2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# The columns that a network reads and RLlib does not name; the others have its names (`Columns`).
RESETS, IGNORED = "resets", "ignored"
# In `extra` where an algorithm asks for them, of every observation: the acting weights' value, float32 [N, T + 1], and
# what their encoder picked (`ActorCritic.pick`), [N, T + 1, ...] or a dict of such, where it picks anything.
VALUES, PICKED = "values", "picked"


@dataclass
class Fragment:
    """What N environments did in T steps: numpy arrays where it is made, tensors where it is learned from.

    Attributes:
        obs: [N, T + 1, ...] (or a dict of them); the last one is only for bootstrapping.
        actions: [N, T, ...].
        rewards: [N, T] float32, raw.
        log_probs: [N, T] float32, of the actions under the acting policy.
        terminateds, truncateds: bool [N, T].
        ignored: bool [N, T], True where the environment was only being reset and ignored the action.
        resets: bool [N, T + 1], True where `obs` is the first of an episode.
        state: the memory BEFORE obs[:, 0], batch first, N rows.
        weights_seq_no: float32 [N], version of the weights that acted.
        extra: [N, ...], what an algorithm asks the runner for or computes once for all passes over the fragment.
    """

    obs: Any
    actions: Any
    rewards: Any
    log_probs: Any
    terminateds: Any
    truncateds: Any
    ignored: Any
    resets: Any
    state: dict[str, Any]
    weights_seq_no: Any
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """Environment steps taken (resets are none)."""
        return int(self.ignored.size - self.ignored.sum())

    @property
    def shape(self) -> tuple[int, int]:
        """N and T."""
        rows, steps = self.rewards.shape
        return int(rows), int(steps)

    @property
    def ends(self) -> Any:
        """bool [N, T], True where a step ended an episode."""
        return self.terminateds | self.truncateds

    def columns(self) -> dict[str, Any]:
        """The fields as a flat dict, as RLlib's containers want them; `Fragment(**columns)` is the fragment again."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def map(self, change: Callable[[Any], Any]) -> Fragment:
        """A fragment of changed arrays."""
        return Fragment(**{name: _map(change, x) for name, x in self.columns().items()})

    def rows(self, index: Sequence[int] | np.ndarray | slice) -> Fragment:
        """Some of the rows; numpy arrays and tensors are indexed as what they are, on their own device."""

        @functools.cache
        def index_on(device: torch.device) -> torch.Tensor:
            return torch.as_tensor(index, device=device)  # one copy for all columns

        def pick(x: Any) -> Any:
            by_tensor = isinstance(x, torch.Tensor) and not isinstance(index, slice)
            return x[index_on(x.device) if by_tensor else index]

        return self.map(pick)

    def to_device(self, device: torch.device | str, pin_memory: bool = False) -> Fragment:
        """As tensors on `device`; nothing is copied that is there already."""

        def move(x: Any) -> torch.Tensor:
            tensor = as_tensor(x)
            if pin_memory and tensor.device.type == "cpu" and torch.cuda.is_available():
                tensor = tensor.pin_memory()
            return tensor.to(device, non_blocking=pin_memory)

        with _default_stream(torch.device(device)):
            return self.map(move)

    @staticmethod
    def join(fragments: Sequence[Fragment]) -> Fragment:
        """Several fragments of numpy arrays as one, row after row; a single one is not copied."""
        if len(fragments) == 1:
            return fragments[0]
        columns = [fragment.columns() for fragment in fragments]
        return Fragment(**{key: _join([c[key] for c in columns]) for key in columns[0]})


def _default_stream(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """In which a network on a CUDA device computes; nothing on another device.

    RLlib's loader calls `to_device` in a stream of its own. Nobody waits for that one, so that a network could read
    what is not there yet, and its memory could be given away while it is still being read.
    """
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.cuda.stream(torch.cuda.default_stream(device))


def _map(change: Callable[[Any], Any], x: Any) -> Any:
    return (
        {key: _map(change, part) for key, part in x.items()} if isinstance(x, dict) else change(x)
    )


def _join(parts: list[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {key: _join([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


def as_tensor(x: np.ndarray | torch.Tensor) -> torch.Tensor:
    """A column as a tensor, without a copy where it can be; nothing may be written into it."""
    if isinstance(x, torch.Tensor):
        return x
    with warnings.catch_warnings():
        # Arrays from Ray's object store are read-only; nothing here writes into them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(np.ascontiguousarray(x))
