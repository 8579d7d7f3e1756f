"""Gradients that have no gradient of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A Function's `backward` that refuses create_graph=True: its gradient would count as a constant."""

    @functools.wraps(backward)
    def refusing(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph=True: gradients through a compressive memory on a CPU cannot be differentiated again"
            )
        return backward(ctx, *gradients)

    return refusing
