"""How often torch's optimisers have stepped: a fused one writes weights without giving them a new version."""

from __future__ import annotations

import functools
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook


def optimiser_steps() -> int:
    """Steps of all optimisers of this process since this was first asked."""
    return _counted()[0]


@functools.cache
def _counted() -> list[int]:
    steps = [0]

    def count(*_: Any) -> None:
        steps[0] += 1

    register_optimizer_step_post_hook(count)
    return steps
