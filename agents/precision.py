"""What `mixed_precision` means, in learning and in acting: bfloat16 under torch's autocast."""

from __future__ import annotations

import contextlib

import torch


def has_bfloat16() -> bool:
    """Whether this processor is known to have bfloat16 arithmetic of its own; without, bfloat16 is the slower one."""
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(there for name, there in able.items() if "bf16" in name)


def learning_precision(mixed: bool, kind: str) -> contextlib.AbstractContextManager[object]:
    """The context of an update on a device of this `kind`."""
    return torch.autocast(kind, torch.bfloat16) if mixed else contextlib.nullcontext()


def acting_precision(mixed: bool, kind: str) -> contextlib.AbstractContextManager[object]:
    """The context in which a network acts: as in learning, but in float32 on a processor that is slower in bfloat16.

    A learner on a GPU has its runners on any.
    """
    return learning_precision(mixed and (kind != "cpu" or has_bfloat16()), kind)
