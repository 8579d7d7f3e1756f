"""The gradient of the memory's losses over an update: each loss is ONE mean, whatever calls its terms come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ct_rl.lm.parallel import Group


class MeanGradients:
    """Gradients of means over calls with unlike numbers of terms, in parts of a batch, iterations and processes.

    How many terms an update has is known when its last call is done, and each loss has another number: until then
    each keeps a gradient of its own, of the parameters that it reaches.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self.parameters = parameters
        self._sums: dict[str, list[Tensor | None]] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, losses: Mapping[str, Tensor], terms: Mapping[str, Tensor]) -> None:
        """Takes in a call's means and their numbers of terms; the losses' graph stays, for other gradients."""
        for name, loss in losses.items():
            if not loss.requires_grad:  # of a compression without weights
                continue
            count = terms[name].detach()
            gradients = torch.autograd.grad(
                loss, self.parameters, retain_graph=True, allow_unused=True
            )
            before = self._sums.get(name, [None] * len(gradients))
            self._sums[name] = [
                kept if gradient is None else gradient * count + (0 if kept is None else kept)
                for kept, gradient in zip(before, gradients, strict=True)
            ]
            self._counts[name] = self._counts.get(name, 0) + count.double()

    def finish(self, group: Group) -> None:
        """Adds the mean over all that was taken in, in all processes, to the parameters' gradients, and begins anew."""
        for name, sums in sorted(self._sums.items()):
            reached = [
                (parameter, total)
                for parameter, total in zip(self.parameters, sums, strict=True)
                if total is not None
            ]
            group.sum_each([total for _, total in reached])
            count = group.sum(self._counts[name]).clamp(min=1)
            for parameter, total in reached:
                mean = total / count.to(total.dtype)
                parameter.grad = mean if parameter.grad is None else parameter.grad + mean
        self._sums, self._counts = {}, {}
