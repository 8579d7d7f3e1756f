"""Several processes (`torchrun`): each reads its own streams, gradients are summed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ct_rl.errors import UserError
from ct_rl.memory import State


@dataclass(frozen=True)
class Group:
    """The processes of a run and which of them this one is."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """This process's rows of a batch; raises UserError where they are not equal."""
        if batch % self.size:
            raise UserError(
                f"--batch {batch} cannot be shared equally by {self.size} processes: give a multiple"
            )
        share = batch // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def sum_each(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors by their sums over processes, in one message."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([x.flatten() for x in tensors])
        dist.all_reduce(flat)
        for x, total in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
            x.copy_(total.view_as(x))

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replaces gradients by their sums over processes; one that some process has, all have afterwards.

        A band of rare words has no gradient where a process's rows have none of them.
        """
        if self.size == 1:
            return
        having = self.sum(torch.tensor([float(p.grad is not None) for p in parameters]))
        reached = [p for p, count in zip(parameters, having.tolist(), strict=True) if count]
        for p in reached:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        self.sum_each([p.grad for p in reached if p.grad is not None])

    def sum(self, value: Tensor) -> Tensor:
        """A tensor summed over processes."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in one of the processes."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag))).item())

    def gather_rows(self, state: State) -> State:
        """All processes' rows of a state, in order."""
        if self.size == 1:
            return state
        whole = {}
        for name, value in state.items():
            parts = [torch.empty_like(value) for _ in range(self.size)]
            dist.all_gather(parts, value.contiguous())
            whole[name] = torch.cat(parts)
        return whole


@contextmanager
def group() -> Iterator[Group]:
    """The group that `torchrun` started, or this process alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group()
        return
    # Both: gloo carries the processor's tensors (states to save, flags), nccl the device's.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        yield Group(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
