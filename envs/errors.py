"""What a person can mend about environments, under names a caller can catch."""

from __future__ import annotations


class MissingDependencyError(ImportError):
    """Something that an environment needs is not installed; the message says what and how to get it."""
