"""What the record of an ended episode holds, by name; without torch."""

from __future__ import annotations

RETURN, LENGTH = "return", "length"


def count_place(name: str) -> str:
    """Where a record has the environment's count `name`: beside the episode's own return and length."""
    return f"episode_{name}" if name in (RETURN, LENGTH) else name
