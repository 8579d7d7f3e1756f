"""What a config's `mixed_precision` means, in learning and in acting."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def autocast(config: Any, kind: str) -> contextlib.AbstractContextManager[Any]:
    """Arithmetic in bfloat16 on a device of this `kind` where `mixed_precision` asks for it."""
    if not config.mixed_precision:
        return contextlib.nullcontext()
    return torch.autocast(kind, torch.bfloat16)
