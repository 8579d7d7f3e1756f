"""Environments: the embedded room task, and any gymnasium id with its last reward and action."""

from envs.errors import MissingDependencyError
from envs.registry import make, make_vec, names

__all__ = ["MissingDependencyError", "make", "make_vec", "names"]
