"""What the record of an ended episode holds, by name; without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

RETURN, LENGTH = "return", "length"


def count_place(name: str) -> str:
    """Where a record has the environment's count `name`: beside the episode's own return and length."""
    return f"episode_{name}" if name in (RETURN, LENGTH) else name


def episode_counts(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the counts that `info` carries at an episode's end, as an environment's metadata lists them.

    Raises:
        ValueError: for what is no list of names.
    """
    given = metadata.get("episode_metrics", ())
    listed = isinstance(given, Iterable) and not isinstance(given, str | bytes)
    names = tuple(given) if listed else ()
    if not listed or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"metadata['episode_metrics'] is {given!r}: expected a list of names, such as ['score']"
        )
    return names
