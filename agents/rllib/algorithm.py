"""What the algorithms of the fast path share: a flat report, failures with a name, a state without pickle."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SINGLE_SPACES
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    WEIGHTS_SEQ_NO,
)

from agents.errors import LearnerDied, LearnerFailed, RunnerFailed
from agents.rllib.config import MemoryAlgorithmConfig
from agents.rllib.learner import REPORT
from agents.rllib.learner_state import learner_state, load_learner_state, settle
from agents.rllib.runner import (
    FAILURE,
    FINISHED_EPISODES,
    LOST_WORLDS,
    MEMORY_BYTES,
    make_runner_here,
    runner_failed,
    said,
)
from ct_rl.errors import one_line

_GRACE = 2.0  # seconds in which the other learners may say what went wrong, once one has failed
_TRAINED = (NUM_ENV_STEPS_TRAINED_LIFETIME, NUM_MODULE_STEPS_TRAINED_LIFETIME)


class MemoryAlgorithm(Algorithm):
    """Mixin before one of RLlib's algorithms: `result["ct_rl"]`, `training_state`, `LearnerFailed`.

    Attributes:
        goal: environment steps after which nothing more is sampled or learned; None: no end.
    """

    goal: int | None = None

    def setup(self, config: MemoryAlgorithmConfig) -> None:
        self._episodes: list[dict[str, float]] = []
        self._memory_bytes = 0
        # What this run's earlier parts sampled and trained: RLlib's own counters begin at 0 in every process.
        self._before = dict.fromkeys((NUM_ENV_STEPS_SAMPLED_LIFETIME, *_TRAINED), 0)
        self._seen: dict[str, int] = dict(self._before)  # the counters of the last update
        self._lives = self._lost = self._restarted = 0
        try:
            super().setup(config)
        except IndexError as error:
            # RLlib asks its first remote runner for spaces, and has only logged why there is none.
            make_runner_here(config)
            raise RunnerFailed(
                "no environment runner could be started in a process of its own, and one could here: there is too "
                "little memory for it, or a module that it cannot import"
            ) from error
        self._check_evaluation_spaces()
        group = self.eval_env_runner_group
        if group is not None:
            for name in ("foreach_env_runner", "foreach_env_runner_async_fetch_ready"):
                setattr(group, name, _telling(getattr(group, name)))
        self.learner_group.update = self._guarded(
            self._update_each if config.num_learners else self.learner_group.update
        )

    def _guarded(self, update: Callable[..., Any]) -> Callable[..., Any]:
        """A learner group's update whose counters are the run's and whose errors are `LearnerFailed`."""

        def guarded(
            *args: Any, timesteps: dict[str, Any], async_update: bool = False, **kwargs: Any
        ) -> Any:
            # The one place through which every schedule and every target network sees a counter.
            self._seen |= {key: self._before[key] + int(x) for key, x in timesteps.items()}
            try:
                return update(*args, timesteps=dict(self._seen), **kwargs)
            except LearnerFailed:
                raise
            except Exception as error:
                raise as_learner_failure(error) from error

        return guarded

    def _update_each(
        self,
        *,
        training_data: Any,
        return_state: bool = False,
        defer_solve_refs_to_learner: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Gives every learner process its share, and waits until each has taken it.

        RLlib's asynchronous update drops the share of a busy learner, after which the others wait for it
        for ever; its synchronous one waits for a learner that waits for a dead one.
        """
        workers = self.learner_group._workers
        shards = training_data.shard(num_shards=len(workers), **kwargs)
        waiting = {
            worker.update.remote(
                training_data=shard, return_state=return_state and i == 0, **more, **kwargs
            ): i
            for i, (worker, (shard, more)) in enumerate(zip(workers, shards, strict=True))
        }
        results: dict[int, Any] = {}
        failures: list[LearnerFailed] = []
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=_GRACE if failures else None)
            if not ready:
                break
            place = waiting.pop(ready[0])
            try:
                results[place] = ray.get(ready[0])
            except Exception as error:
                failures.append(as_learner_failure(error))
        if failures:
            for worker in workers:
                ray.kill(worker)  # those that wait for a dead one would never end by themselves
            # One learner's death breaks the others' connections; what killed it says more than they do.
            raise max(failures, key=lambda failure: failure.weight)
        return [results[place] for place in sorted(results)]

    @property
    def steps(self) -> int:
        """Environment steps sampled in this run's life, resumed parts included."""
        sampled = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)
        return self._before[NUM_ENV_STEPS_SAMPLED_LIFETIME] + int(sampled)

    def training_step(self) -> None:
        if self.goal is not None and self.steps >= self.goal:
            time.sleep(0.02)  # RLlib asks again until its iteration's time is up
        else:
            self.sample_and_learn()

    def sample_and_learn(self) -> None:
        """One round of the algorithm."""
        super().training_step()

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        restored = super().restore_env_runners(env_runner_group)
        for index in restored:
            self._begin_lives([index])
        self._restarted += len(restored)
        return restored

    def _begin_lives(self, indices: list[int] | None = None) -> None:
        """Gives runners (all of them) a life whose worlds no other life of this run plays."""
        self._lives += 1
        life = self._lives
        self.env_runner_group.foreach_env_runner(
            lambda runner: runner.begin_life(life), remote_worker_ids=indices
        )

    def step(self) -> dict[str, Any]:
        result = super().step()
        result[REPORT] = self._report(result)
        return result

    def _check_evaluation_spaces(self) -> None:
        """Refuses an evaluation whose environment the network cannot play: its weights would not fit, or mean little.

        Raises:
            ValueError: one line that shows both environments' spaces.
        """
        group, other = self.eval_env_runner_group, self.evaluation_config.env
        if group is None or other == self.config.env:
            return
        try:
            found = group.get_spaces()
        except IndexError:
            make_runner_here(self.evaluation_config)
            raise
        seen, trained = found[INPUT_ENV_SINGLE_SPACES], self.spaces[INPUT_ENV_SINGLE_SPACES]
        if _layout(seen) != _layout(trained):
            raise ValueError(
                f"the evaluation's environment {other!r} has {one_line(seen)} and training's {self.config.env!r} "
                f"{one_line(trained)}: give one of the same spaces"
            )

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """RLlib's `evaluate`.

        Raises:
            ValueError: where no runner has an environment to evaluate in.
        """
        runner, own = self.env_runner, self.config.custom_evaluation_function
        if (
            self.eval_env_runner_group is None
            and own is None
            and getattr(runner, "env", None) is None
        ):
            raise ValueError(
                "evaluate() has no runner: training's are in processes of their own, so give the config "
                "evaluation(evaluation_interval=...) or evaluation(evaluation_num_env_runners=1)"
            )
        return super().evaluate(*args, **kwargs)

    def _await_runners(self) -> bool:
        """Whether someone can sample; otherwise waits a little for RLlib to restart a runner.

        Raises:
            RunnerFailed: when all have died and none is started anew.
        """
        if self.config.num_env_runners and not self.env_runner_group.num_healthy_remote_workers():
            # RLlib would sample in the driver, which has no environment.
            if all(map(_is_dead, self.env_runner_group._worker_manager.actors().values())):
                raise RunnerFailed(
                    "no environment runner is left: their processes died, and fault_tolerance(...) starts none anew"
                )
            time.sleep(0.05)
            return False
        return True

    def _note(self, states: list[dict[str, Any]]) -> None:
        """Takes what the runners wrote beside their connector states: ended episodes, bytes of memory.

        Raises:
            RunnerFailed: when an environment raised an error.
        """
        for state in states:
            if FAILURE in state:
                raise runner_failed(state[FAILURE])
            self._episodes += state.pop(FINISHED_EPISODES, [])
            self._memory_bytes = state.pop(MEMORY_BYTES, self._memory_bytes)
            self._lost += state.pop(LOST_WORLDS, 0)

    def _owned(self, refs: list[ray.ObjectRef]) -> list[ray.ObjectRef]:
        """Fragments that outlive their runner.

        With several learners a share that died with its runner would leave them out of step; one
        learner simply does without it.
        """
        if self.config.num_learners < 2:
            return refs
        owned = []
        for ref in refs:
            try:
                owned.append(ray.put(ray.get(ref)))
            except (ray.exceptions.OwnerDiedError, ray.exceptions.ObjectLostError):
                continue
        return owned

    def _report(self, result: dict[str, Any]) -> dict[str, Any]:
        learned = result.get(LEARNER_RESULTS, {}).get(DEFAULT_MODULE_ID, {})
        # RLlib reports NaN where nothing new was logged; a real NaN has raised NonFinite before.
        report: dict[str, Any] = {
            key: float(x) for key, x in learned.get(REPORT, {}).items() if np.isscalar(x) and x == x
        }
        for key, value in learned.items():
            if key.endswith("policy_learning_rate") and value == value:
                report["learning_rate"] = float(value)
        updates = learned.get(WEIGHTS_SEQ_NO)
        if updates is not None and updates == updates:
            report["updates"] = int(updates)
        episodes, self._episodes = self._episodes, []
        return report | {
            "steps": self.steps,
            "episodes": episodes,
            "memory_bytes_per_runner": self._memory_bytes,
            "lost_worlds": self._lost,
            "runners_away": self._runners_away(),
            "restarted_runners": self._restarted,
        }

    def _runners_away(self) -> int:
        """How many runner processes have died and are not there again."""
        group = self.env_runner_group
        return int(self.config.num_env_runners) - int(group.num_healthy_remote_workers())

    def get_module(self, module_id: str = DEFAULT_MODULE_ID) -> Any:
        """The policy as the learner has it now; where runners have processes of their own, RLlib's has not learned."""
        if self.config.num_env_runners and self.env_runner is not None:
            self.env_runner_group.sync_weights(
                from_worker_or_learner_group=self.learner_group,
                to_worker_indices=[],
                inference_only=True,
            )
        return super().get_module(module_id)

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state, and what the lives of runners are counted by; its checkpoints hold whole updates."""
        self.learner_group.foreach_learner(settle)
        counts = {"lives": self._lives, "lost": self._lost, "restarted": self._restarted}
        return {**super().get_state(*args, **kwargs), REPORT: counts}

    def set_state(self, state: dict[str, Any]) -> None:
        """What RLlib's checkpoints restore; runners begin new lives."""
        self.learner_group.foreach_learner(settle)
        super().set_state({key: part for key, part in state.items() if key != REPORT})
        counts = state.get(REPORT, {})  # none in a checkpoint of before they were kept
        self._lives = max(self._lives, counts.get("lives", 0))
        self._lost, self._restarted = counts.get("lost", 0), counts.get("restarted", 0)
        self._begin_lives()

    def training_state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Everything that training continues from, without pickle.

        Returns:
            Tensors (weights under "weights/...", optimiser state under "optimizer/..."), and a
            JSON-able dict of counters, settings and random state.
        """
        try:
            tensors, meta = _first(self.learner_group.foreach_learner(learner_state))
        except ray.exceptions.RayError as error:
            raise as_learner_failure(error) from error
        tensors["random/torch"] = torch.get_rng_state()
        return tensors, meta | {
            "steps": self.steps,
            "counters": dict(self._seen),
            "lives": self._lives,
            "lost_worlds": self._lost,
            "restarted_runners": self._restarted,
            "network": dict(self.config.network_settings),
        }

    def load_training_state(self, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        """Continues from what `training_state` gave; environments begin new episodes, under new seeds.

        Raises:
            ValueError: when the tensors are another network's.
        """
        # A checkpoint of before counters were kept has its steps alone.
        self._before |= {key: int(meta["steps"]) for key in _TRAINED} | meta.get("counters", {})
        self._before[NUM_ENV_STEPS_SAMPLED_LIFETIME] += int(meta["steps"]) - self.steps
        self._seen = dict(self._before)
        self._lives, self._lost = int(meta.get("lives", 0)), int(meta.get("lost_worlds", 0))
        self._restarted = int(meta.get("restarted_runners", 0))
        tensors = dict(tensors)
        torch.set_rng_state(tensors.pop("random/torch"))
        loaded = self.learner_group.foreach_learner(
            lambda learner: load_learner_state(learner, tensors, meta)
        )
        for answer in loaded:
            _first([answer])
        self._begin_lives()
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group, inference_only=True
        )


@contextlib.contextmanager
def deaths_as_runner_failed() -> Iterator[None]:
    """Raises `RunnerFailed` for a runner's process that died, where the config has RLlib end training then."""
    try:
        yield
    except ray.exceptions.RayActorError as error:
        raise RunnerFailed(
            "the process of an environment runner died: fault_tolerance(restart_failed_env_runners=True) starts "
            "another, ignore_env_runner_failures=True goes on without it"
        ) from error


class _Failure(str):
    """What a remote runner's call stopped with."""


def _telling(ask: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """`ask`, which calls a function on a group's runners, with `RunnerFailed` for what the function raises there.

    RLlib would end the runner's process a minute later, log why, and go on without a figure.
    """

    def told(func: Callable[..., Any] | str, **kwargs: Any) -> list[Any]:
        def tried(runner: Any, *args: Any, **given: Any) -> Any:
            try:
                call = getattr(type(runner), func) if isinstance(func, str) else func
                return call(runner, *args, **given)
            except Exception as error:
                return _Failure(said(error))

        results = ask(tried, **kwargs)
        for result in results:
            if isinstance(result, _Failure):
                raise runner_failed(result)
        return results

    return told


def _is_dead(runner: Any) -> bool:
    """Whether a runner's process is dead for good; one that is being started anew does not answer yet."""
    for _ in range(2):  # a call may be lost with a process that is started anew
        try:
            ray.get(runner.ping.remote(), timeout=0.05)
        except ray.exceptions.ActorDiedError:
            continue
        except ray.exceptions.RayError:
            return False
        return False
    return True


def _layout(space: Any) -> Any:
    """What of a space, or of several, a network is built for: kinds and sizes, whatever a Box's bounds."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _layout(part) for key, part in space.spaces.items()}
    if isinstance(space, tuple):
        return [_layout(part) for part in space]
    if isinstance(space, gym.spaces.Box):
        return "Box", space.shape, space.dtype
    return space


def as_learner_failure(error: Exception) -> LearnerFailed:
    """The `LearnerFailed` behind an error that a learner raised, here or in a process of its own."""
    cause = getattr(error, "cause", error)
    if isinstance(cause, LearnerFailed):
        return cause
    if isinstance(error, ray.exceptions.RayActorError):
        return LearnerDied("a learner process died: go on from the last checkpoint")
    return LearnerFailed(f"the learner stopped: {cause!r}")


def _first(results: Any) -> Any:
    """What the first learner answered, raising its error if it failed."""
    result = next(iter(results), None)
    if result is None:
        raise LearnerDied("no learner process is left: go on from the last checkpoint")
    answer = result.get() if hasattr(result, "get") else result
    if isinstance(answer, Exception):
        raise getattr(answer, "cause", answer)
    return answer
