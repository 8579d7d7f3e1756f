"""What can go wrong in training, under names a caller can catch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(what: str, given: str, known: Iterable[str]) -> str:
    """One line for a name that does not exist, with the nearest that does, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names) or 'none'}"
    return f"unknown {what} {given!r}: {hint}"


class RunnerFailed(RuntimeError):
    """An environment or the policy raised an error in a runner; `str()` says which."""


class LearnerFailed(RuntimeError):
    """The learner stopped with an error; `str()` says which.

    Attributes:
        weight: how much it says, where several learners failed together.
    """

    weight = 0


class LearnerDied(LearnerFailed):
    """A learner's process is gone."""

    weight = 1


class NonFinite(LearnerFailed):
    """A loss term or the gradient became NaN or infinite.

    Attributes:
        term: which one: "policy_loss", "value_loss", "entropy", "compression_loss", "grad_norm", ...
        update: how many updates the weights had seen.
    """

    weight = 2

    def __init__(self, term: str, update: int):
        super().__init__(f"{term} became NaN or infinite at update {update}")
        self.term = term
        self.update = update

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return type(self), (self.term, self.update)
