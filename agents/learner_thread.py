"""Guards for RLlib's learner thread, whose death would leave `update` waiting for ever."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner

_LOOK_AGAIN = 0.5  # seconds between two looks at the thread while waiting for it


class _WatchedEvent(threading.Event):
    def __init__(self, check: Callable[[], None]):
        super().__init__()
        self.check = check

    def wait(self, timeout: float | None = None) -> bool:
        while not super().wait(_LOOK_AGAIN):
            self.check()
        return True


class _WatchedQueue(queue.Queue):
    def __init__(self, maxsize: int, check: Callable[[], None]):
        super().__init__(maxsize)
        self.check = check

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        while block and timeout is None:
            try:
                return super().put(item, timeout=_LOOK_AGAIN)
            except queue.Full:
                self.check()
        return super().put(item, block, timeout)


class GuardedLearner(IMPALATorchLearner):
    """Mixin before an IMPALA learner: a failure in its thread is kept, and raised by `update`."""

    def build(self) -> None:
        self.failure: BaseException | None = None
        super().build()
        self._agg_event = _WatchedEvent(self._raise_failure)
        update = self._learner_thread._update_method

        def guarded(**kwargs: Any) -> None:
            if self.failure is not None:
                return
            try:
                update(**kwargs)
            except BaseException as error:
                self.failure = error

        self._learner_thread._update_method = guarded

    @property
    def _learner_thread_in_queue(self) -> queue.Queue:
        return self._in_queue

    @_learner_thread_in_queue.setter
    def _learner_thread_in_queue(self, made: queue.Queue) -> None:
        # IMPALA and APPO each make their own; a full one must not outlive the thread that empties it.
        if type(made) is queue.Queue:
            made = _WatchedQueue(made.maxsize, self._raise_failure)
        self._in_queue = made

    def update(self, training_data: Any, **kwargs: Any) -> Any:
        self._raise_failure()
        training_data.solve_refs()
        if training_data.episodes is not None and not training_data.episodes:
            return {}  # the fragments died with their runner
        result = super().update(training_data, **kwargs)
        self._raise_failure()
        return result

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure
        if not self._learner_thread.is_alive():
            raise RuntimeError("the learner thread ended without a word")
