"""What can go wrong in training, under names a caller can catch."""

from __future__ import annotations


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
        term: which one: "policy_loss", "value_loss", "entropy", "compression_loss", "gradient", ...
        update: how many updates the weights had seen.
    """

    weight = 2

    def __init__(self, term: str, update: int):
        super().__init__(f"{term} became NaN or infinite at update {update}")
        self.term = term
        self.update = update

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return type(self), (self.term, self.update)
