"""Guards for RLlib's learner thread, whose death would leave `update` waiting for ever."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner

from agents.fragment import Fragment

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
    """Base behind `MemoryLearner`: learns in RLlib's thread, whose failure is kept, and raised by `update`."""

    def build(self) -> None:
        self.failure: BaseException | None = None
        super().build()
        self._agg_event = _WatchedEvent(self._raise_failure)
        self._learner_thread._update_method = self._guarded_learn

    @property
    def _guarded_learn(self) -> Callable[..., None]:
        """What the thread calls with a batch; named arguments alone, RLlib's `self` among them."""

        def learn(*, training_data: Any, timesteps: dict[str, Any], **kwargs: Any) -> None:
            del kwargs["self"]
            if self.failure is not None:
                return
            try:
                self.learn(training_data.batch, timesteps, **kwargs)
            except BaseException as error:
                self.failure = error

        return learn

    @property
    def _learner_thread_in_queue(self) -> queue.Queue:
        return self._watched_queue

    @_learner_thread_in_queue.setter
    def _learner_thread_in_queue(self, made: queue.Queue) -> None:
        # IMPALA and APPO each make their own; a full one must not outlive the thread that empties it.
        if type(made) is queue.Queue:
            made = _WatchedQueue(made.maxsize, self._raise_failure)
        self._watched_queue = made

    def _make_batch_if_necessary(self, training_data: Any) -> Fragment:
        return self._gathered  # RLlib hands it to the loader of its GPU, or straight to the thread

    def update(self, training_data: Any, **kwargs: Any) -> Any:
        self._raise_failure()
        fragment = self.gather(training_data)
        if fragment is None:
            return {}  # the fragments died with their runner
        self._gathered = fragment
        result = super().update(training_data, **kwargs)
        self._raise_failure()
        return result

    def settle(self) -> None:
        """Waits until the thread has learned from all that it was given, so that weights hold still.

        Raises:
            LearnerFailed, or what the thread stopped with.
        """
        for waiting in (self._gpu_loader_in_queue, self._watched_queue):
            while waiting.unfinished_tasks and self.failure is None:
                if not self._learner_thread.is_alive():
                    break
                time.sleep(0.005)
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure
        if not self._learner_thread.is_alive():
            raise RuntimeError("the learner thread ended without a word")
