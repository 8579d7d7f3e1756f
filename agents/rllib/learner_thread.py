"""Guards for RLlib's threads that load and learn, whose death would leave `update` waiting for ever."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner

from agents.fragment import Fragment

_LOOK_AGAIN = 0.5  # seconds between two looks at the threads while waiting for them


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
    """Base behind `MemoryLearner`: RLlib's threads load and learn; their failure is kept, and raised by `update`."""

    def build(self) -> None:
        self.failure: BaseException | None = None
        self._given = self._learned = 0  # batches
        super().build()
        self._agg_event = _WatchedEvent(self._raise_failure)
        self._learner_thread._update_method = self._guarded_learn
        loaders = self._gpu_loader_threads if self.config.num_gpus_per_learner > 0 else []
        for loader in loaders:
            loader._to_device_safe = self._guarded_load(loader._to_device_safe)
        self._own_threads = [self._learner_thread, *loaders]

    @property
    def _guarded_learn(self) -> Callable[..., None]:
        """What the thread calls with a batch; named arguments alone, RLlib's `self` among them."""

        def learn(*, training_data: Any, timesteps: dict[str, Any], **kwargs: Any) -> None:
            del kwargs["self"]
            try:
                if self.failure is None:
                    self.learn(training_data.batch, timesteps, **kwargs)
            except BaseException as error:
                self.failure = error
            finally:
                self._learned += 1

        return learn

    def _guarded_load(self, load: Callable[[Fragment], Fragment]) -> Callable[[Fragment], Fragment]:
        """What a loader calls with a batch; one that cannot be loaded goes on to `learn`, which only counts it."""

        def load_or_keep(batch: Fragment) -> Fragment:
            try:
                return load(batch)
            except BaseException as error:
                self.failure = error
                return batch

        return load_or_keep

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
        self._given += 1
        result = super().update(training_data, **kwargs)
        self._raise_failure()
        return result

    def settle(self) -> None:
        """Waits until the thread has learned from all that was given to `update`, so that weights hold still.

        Raises:
            LearnerFailed, or what a thread stopped with.
        """
        while self._learned < self._given:
            self._raise_failure()
            time.sleep(0.005)
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure
        for thread in self._own_threads:
            if not thread.is_alive():
                raise RuntimeError(f"the learner's thread {thread.name} ended without a word")
