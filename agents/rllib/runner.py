"""The environment runner of the fast path: exact fragments in array buffers, memory kept in the runner.

Shapes: N environments of this runner, T steps a fragment.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from agents.acting import LOST, Actor, check_autoreset
from agents.actor_critic import ActorCritic
from agents.episodes import episode_counts
from agents.errors import RunnerFailed
from agents.fragment import PICKED, VALUES, Fragment
from agents.precision import acting_precision
from agents.rllib.internals import leave_tensors_unfilled
from agents.rllib.module import MemoryRLModule
from ct_rl.errors import one_line
from ct_rl.freed_memory import keep_freed_memory
from ct_rl.memory import state_bytes
from envs.seeding import world_seeds

FINISHED_EPISODES = "finished_episodes"
MEMORY_BYTES = "memory_bytes"
LOST_WORLDS = "lost_worlds"
FAILURE = "failure"
_RESTARTS = 10  # of environments that fail before they have given a fragment


def make_runner_here(config: Any) -> None:
    """Makes a runner as a remote process would, for what its constructor raises."""
    alone = config.copy(copy_frozen=False)
    alone.num_env_runners = 0
    config.env_runner_cls(config=alone, worker_index=0).stop()


class MemoryEnvRunner(SingleAgentEnvRunner):
    """Samples `Fragment`s of exactly T vector steps; everything else is RLlib's runner.

    Evaluation, and calls that ask for whole episodes, take RLlib's path and give its episodes. Every world's seed
    comes from `envs.seeding.world_seeds(seed, N, runner=..., incarnation=...)`: no life of a runner plays what another
    did.

    Raises:
        ValueError: for an environment whose autoreset mode is not gymnasium's NEXT_STEP, whose `episode_metrics` are no
            list, or which has other spaces than the config says.
    """

    def __init__(self, **kwargs: Any):
        self._actor: Actor | None = None
        self._finished: list[dict[str, float]] = []
        self._incarnation = self._begun = 0  # the life, and how often it has begun anew
        super().__init__(**kwargs)
        leave_tensors_unfilled()
        keep_freed_memory()

    def make_env(self) -> None:
        super().make_env()
        assert self.env is not None
        # RLlib turns dict infos into N dicts a step for its own path; fragments read the arrays.
        self._vector_env: VectorEnv = self.env.env
        check_autoreset(self._vector_env)
        self._episode_metrics = episode_counts(self._vector_env.metadata)
        for name in ("observation_space", "action_space"):
            given, has = getattr(self.config, name), getattr(self._vector_env, f"single_{name}")
            if given is not None and given != has:
                raise ValueError(
                    f"{name}={one_line(given)} was given and the environment has {one_line(has)}: leave it out of "
                    "environment(...)"
                )

    @property
    def _net(self) -> ActorCritic:
        module = self.module
        assert isinstance(module, MemoryRLModule)
        return module.net

    def _sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[Any]:
        if num_episodes is not None or random_actions or self.config.in_evaluation:
            self._actor = None
            return super()._sample(
                num_timesteps=num_timesteps,
                num_episodes=num_episodes,
                explore=explore,
                random_actions=random_actions,
                force_reset=force_reset,
            )
        assert num_timesteps is not None
        if force_reset or self._needs_initial_reset:
            self._actor = None
        steps = -(-num_timesteps // self.num_envs)
        for _ in range(_RESTARTS):
            try:
                fragment = self._roll(steps, explore)
                break
            except Exception as error:
                if not self.config.restart_failed_sub_environments:
                    raise
                # Begin anew and lose this fragment, as RLlib's own runner does.
                failure = error
                self._actor = None
                self.make_env()
        else:
            raise RuntimeError(
                f"the environment failed {_RESTARTS} times before it gave {steps} steps; the last "
                f"time with {type(failure).__name__}: {failure}"
            ) from failure
        self._increase_sampled_metrics(len(fragment), int(fragment.ends.sum()))
        return [fragment]

    def _begin(self) -> Actor:
        """An actor at the start of episodes that no life of a runner has played before."""
        seed, life = self.config.seed, (self._begun << 32) | self._incarnation
        self._begun += 1
        place = {"runner": self.worker_index or 0, "incarnation": life}
        seeds = None if seed is None else world_seeds(seed, self.num_envs, **place)
        noise = torch.Generator()
        if seed is not None:  # a world more than there are
            noise.manual_seed(world_seeds(seed, self.num_envs + 1, **place)[-1])
        else:
            noise.seed()
        self._needs_initial_reset = False
        return Actor(
            self._net,
            self._vector_env,
            seeds=seeds,
            noise=noise,
            metrics=self._episode_metrics,
            precision=functools.partial(acting_precision, self.config.mixed_precision),
        )

    def _roll(self, steps: int, explore: bool) -> Fragment:
        """One fragment of `steps` vector steps from where the environments stand."""
        self._net.eval()
        if self._actor is None:
            self._actor = self._begin()
        actor, n = self._actor, self.num_envs
        start = {key: x.cpu().numpy().copy() for key, x in actor.state.items()}
        obs = _buffer(actor.obs, n, steps + 1)
        columns: dict[str, np.ndarray] = {}
        extra: dict[str, Any] = {}
        for t in range(steps):
            _write(obs, t, actor.obs)  # before the step: an environment may write into what it gave
            step = actor.step(explore)
            if not columns:
                columns = {key: _buffer(getattr(step, key), n, steps) for key in _COLUMNS}
            for key, column in columns.items():
                column[:, t] = getattr(step, key)
            if self.config.learns_with_acting_weights:
                _keep(extra, t, steps, step.values, step.picked)
        _write(obs, steps, actor.obs)
        if self.config.learns_with_acting_weights:
            _keep(extra, steps, steps, *actor.look())
        for _, episode in actor.take_finished():
            if LOST in episode:
                continue  # no return of a whole episode; `lost_worlds` counts it
            self._finished.append(episode)
            self._log_episode_metrics(int(episode["length"]), episode["return"], 0.0)
        resets = np.concatenate([columns.pop("resets"), actor.resets[:, None]], 1)
        rewards = columns.pop("rewards").astype(np.float32)
        return Fragment(
            obs=obs,
            rewards=rewards,
            resets=resets,
            state=start,
            weights_seq_no=np.full(n, self._weights_seq_no, np.float32),
            extra=extra,
            **columns,
        )

    def begin_life(self, incarnation: int) -> None:
        """Begins anew under seeds of its own: what was started again does not replay its first episodes.

        The next weights that it is given are taken whatever their number: they may be of an older state.
        """
        self._incarnation, self._begun = incarnation, 0
        self._actor = None
        self._weights_seq_no = 0

    def sample(self, **kwargs: Any) -> Any:
        """RLlib's call; in the driver itself an error of the environment is what a remote runner would tell it."""
        try:
            return super().sample(**kwargs)
        except Exception as error:
            if self.worker_index:
                raise  # `sample_get_state_and_metrics` tells the driver
            self._actor = None
            raise runner_failed(said(error)) from error

    def take_notes(self) -> dict[str, Any]:
        """What the driver is told: episodes ended and worlds lost since the last call, bytes of memory carried."""
        finished, self._finished = self._finished, []
        carried = lost = 0
        if self._actor is not None:
            carried = state_bytes(self._actor.state)
            lost, self._actor.lost = self._actor.lost, 0
        return {FINISHED_EPISODES: finished, MEMORY_BYTES: carried, LOST_WORLDS: lost}

    def sample_get_state_and_metrics(self) -> Any:
        """RLlib's call, with notes for the driver beside the connector states.

        An error of the environment travels as a note: RLlib would try again in silence, for ever.
        """
        try:
            fragments, states, metrics = super().sample_get_state_and_metrics()
        except Exception as error:
            self._actor = None
            return [], {FAILURE: said(error)}, self.get_metrics()
        return fragments, {**states, **self.take_notes()}, metrics


def runner_failed(why: str) -> RunnerFailed:
    """What the driver raises for an error in a runner, wherever the runner lives."""
    return RunnerFailed(f"an environment runner stopped: {why}")


def said(error: BaseException) -> str:
    """An error's type and words, in one string."""
    if (
        not str(error) and error.__cause__ is not None
    ):  # RLlib's around an environment's, without a word
        return said(error.__cause__)
    return f"{type(error).__name__}: {error}"


_COLUMNS = (
    "actions",
    "rewards",
    "log_probs",
    "terminateds",
    "truncateds",
    "ignored",
    "resets",
)


def _keep(extra: dict[str, Any], t: int, steps: int, values: np.ndarray, picked: Any) -> None:
    """Writes what the network made of observation t of `steps` + 1."""
    found = {VALUES: values} if picked is None else {VALUES: values, PICKED: _arrays(picked)}
    for key, x in found.items():
        if key not in extra:
            extra[key] = _buffer(x, len(values), steps + 1)
        _write(extra[key], t, x)


def _arrays(x: Any) -> Any:
    return (
        {key: _arrays(part) for key, part in x.items()} if isinstance(x, dict) else x.cpu().numpy()
    )


def _buffer(x: Any, rows: int, steps: int) -> Any:
    if isinstance(x, dict):
        return {key: _buffer(value, rows, steps) for key, value in x.items()}
    return np.empty((rows, steps, *np.shape(x)[1:]), np.asarray(x).dtype)


def _write(buffer: Any, t: int, x: Any) -> None:
    if isinstance(buffer, dict):
        for key, part in buffer.items():
            _write(part, t, x[key])
    else:
        buffer[:, t] = x
