"""Environments: the embedded room task, DeepMind Lab, any gymnasium id, and a user's own, with one kind of spaces."""

from envs.adapt import adapt, adapt_vec
from envs.errors import MissingDependencyError
from envs.registry import (
    has_engines,
    import_modules,
    make,
    make_vec,
    names,
    register,
    registration,
    restore,
)

__all__ = [
    "MissingDependencyError",
    "adapt",
    "adapt_vec",
    "has_engines",
    "import_modules",
    "make",
    "make_vec",
    "names",
    "register",
    "registration",
    "restore",
]
