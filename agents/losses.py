"""What a loss beside the task's must be: one scalar that has a gradient, or a line that names it and says why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from agents.errors import LearnerFailed
from ct_rl.memory import CompressiveTransformer, MemoryCore
from ct_rl.memory.contract import described


def check_losses(
    losses: Mapping[str, Any],
    core: MemoryCore,
    auxiliary: nn.ModuleDict,
    weights: Mapping[str, float],
) -> None:
    """Looks at every loss of one pass of learning.

    A loss of weight 0 is only reported, and one that is 0 may have nothing to learn from; the gradient of the others
    is asked for where there is any. A Compressive Transformer reports its loss also of a compression without weights.

    Args:
        weights: by name, 1 where none is given.

    Raises:
        LearnerFailed: for what is no floating-point scalar, or has a weight and no gradient.
    """
    compresses = isinstance(core, CompressiveTransformer)
    for name, loss in losses.items():
        own = name in auxiliary
        what = f"auxiliary loss {name!r}" if own else f"the memory's loss {name!r}"
        if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
            raise LearnerFailed(
                f"{what} is {described(loss)}: expected one floating-point scalar, a tensor of shape []"
            )
        if loss.requires_grad or not torch.is_grad_enabled() or not weights.get(name, 1.0):
            continue
        if (own or not compresses) and loss.device.type != "meta" and float(loss) != 0.0:
            raise LearnerFailed(
                f"{what} has no gradient and would train nothing: make it of what the network gave without "
                f"detaching that, or set its weight to 0, loss_coeffs={{{name!r}: 0}}"
            )
