"""The environment runner of the fast path: exact fragments in array buffers, memory kept in the runner.

Shapes: N environments of this runner, T steps a fragment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.tune.registry import ENV_CREATOR, _global_registry

from agents.actor_critic import ActorCritic, State, as_tensors
from agents.distributions import for_env
from agents.fragment import Fragment
from agents.module import MemoryRLModule
from agents.registration import is_ours

FINISHED_EPISODES = "finished_episodes"
MEMORY_BYTES = "memory_bytes"
FAILURE = "failure"


@dataclass
class _Live:
    """Where the runner's N environments stand between two fragments."""

    obs: Any  # [N, ...]
    state: State
    resets: np.ndarray  # [N], obs is an episode's first
    ended: np.ndarray  # [N], the step before ended an episode: the next one only resets
    weights: int
    returns: np.ndarray  # [N], of the running episode
    lengths: np.ndarray  # [N]
    generator: torch.Generator = field(default_factory=torch.Generator)


def check_autoreset(env: VectorEnv) -> None:
    """Refuses a vector environment that does not begin its next episode in the step after an end.

    Raises:
        ValueError: one line that says what its mode is, and what is needed.
    """
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        raise ValueError(
            f"the environment resets itself in mode {mode}: give one whose "
            "metadata['autoreset_mode'] is AutoresetMode.NEXT_STEP"
        )


def look_at_resets(config: AlgorithmConfig) -> None:
    """`check_autoreset` in the driver, of environments that make a vector of themselves: one is made and closed.

    A remote runner's refusal would be lost: RLlib only logs what its constructor raises.
    """
    name = config.env
    mode = gym.VectorizeMode(config.gym_env_vectorize_mode)
    if mode != gym.VectorizeMode.VECTOR_ENTRY_POINT or not isinstance(name, str):
        return
    if not _global_registry.contains(ENV_CREATOR, name):
        return
    if is_ours(name) and "autoreset_mode" not in config.env_config:
        return  # right by default, and some are slow to make
    context = EnvContext({**config.env_config, "num_envs": 1}, worker_index=0)
    made = _global_registry.get(ENV_CREATOR, name)(context)
    try:
        check_autoreset(made)
    finally:
        made.close()


class MemoryEnvRunner(SingleAgentEnvRunner):
    """Samples `Fragment`s of exactly T vector steps; everything else is RLlib's runner.

    Calls that ask for whole episodes (RLlib's own evaluation) take RLlib's path.

    Raises:
        ValueError: for an environment whose autoreset mode is not gymnasium's NEXT_STEP.
    """

    def __init__(self, **kwargs: Any):
        self._live: _Live | None = None
        self._finished: list[dict[str, float]] = []
        super().__init__(**kwargs)

    def make_env(self) -> None:
        super().make_env()
        # RLlib turns dict infos into N dicts a step for its own path; fragments read the arrays.
        self._vector_env: VectorEnv = self.env.env
        check_autoreset(self._vector_env)
        self._episode_metrics = tuple(self._vector_env.metadata.get("episode_metrics", ()))

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
        if num_episodes is not None or random_actions:
            self._live = None
            return super()._sample(
                num_timesteps=num_timesteps,
                num_episodes=num_episodes,
                explore=explore,
                random_actions=random_actions,
                force_reset=force_reset,
            )
        assert num_timesteps is not None
        if self._live is None or force_reset or self._needs_initial_reset:
            self._live = self._begin()
        fragment = self._roll(self._live, -(-num_timesteps // self.num_envs), explore)
        if fragment is None:
            # The environment broke: begin anew and lose this fragment, as RLlib's own runner does.
            self._live = self._begin()
            return self._sample(num_timesteps=num_timesteps, explore=explore)
        self._increase_sampled_metrics(len(fragment), int(fragment.ends.sum()))
        return [fragment]

    def _begin(self) -> _Live:
        obs, _ = self._vector_env.reset(seed=self._seed if self._needs_initial_reset else None)
        self._needs_initial_reset = False
        n = self.num_envs
        live = _Live(
            obs=obs,
            state=self._net.core.cached(self._net.initial_state(n)),
            resets=np.ones(n, bool),
            ended=np.zeros(n, bool),
            weights=self._weights_seq_no,
            returns=np.zeros(n),
            lengths=np.zeros(n, np.int64),
        )
        live.generator.manual_seed((self._seed or 0) + 7919 * self.worker_index)
        return live

    @torch.no_grad()
    def _roll(self, live: _Live, steps: int, explore: bool) -> Fragment | None:
        """One fragment of `steps` vector steps from where the environments stand."""
        net, n = self._net.eval(), self.num_envs
        if live.weights != self._weights_seq_no:
            # What the memory caches under old weights is rebuilt from what it stores.
            live.state = net.core.refresh(live.state)
            live.weights = self._weights_seq_no
        start = {key: x.cpu().numpy().copy() for key, x in net.core.compact(live.state).items()}
        obs = _buffer(live.obs, n, steps + 1)
        actions: np.ndarray | None = None
        rewards = np.empty((n, steps), np.float32)
        log_probs = np.empty((n, steps), np.float32)
        terminateds = np.empty((n, steps), bool)
        truncateds = np.empty((n, steps), bool)
        ignored = np.empty((n, steps), bool)
        resets = np.empty((n, steps + 1), bool)
        _write(obs, 0, live.obs)
        for t in range(steps):
            resets[:, t] = live.resets
            tensors = as_tensors(live.obs, self._device)
            out = net(
                _unsqueeze(tensors),
                live.state,
                torch.from_numpy(live.resets)[:, None].to(self._device),
            )
            live.state = out.state
            chosen = net.distribution(out.policy[:, 0])
            action = chosen.sample(live.generator) if explore else chosen.mode()
            log_probs[:, t] = chosen.log_prob(action).cpu().numpy()
            taken = action.cpu().numpy()
            if actions is None:
                actions = np.empty((n, steps, *taken.shape[1:]), taken.dtype)
            actions[:, t] = taken
            ignored[:, t] = live.ended
            result = self._step(for_env(net.action_space, taken))
            if result is None:
                return None
            live.obs, reward, terminated, truncated, infos = result
            rewards[:, t] = reward
            terminateds[:, t] = terminated & ~live.ended
            truncateds[:, t] = truncated & ~live.ended
            live.returns += np.where(live.ended, 0.0, reward)
            live.lengths += ~live.ended
            live.resets = live.ended
            live.ended = terminateds[:, t] | truncateds[:, t]
            if live.ended.any():
                self._record(live, infos)
            _write(obs, t + 1, live.obs)
        resets[:, steps] = live.resets
        assert actions is not None
        return Fragment(
            obs=obs,
            actions=actions,
            rewards=rewards,
            log_probs=log_probs,
            terminateds=terminateds,
            truncateds=truncateds,
            ignored=ignored,
            resets=resets,
            state=start,
            weights_seq_no=live.weights,
        )

    def _step(self, actions: np.ndarray) -> Any | None:
        """One step of all environments; None where the environment failed and RLlib may restart it."""
        try:
            return self._vector_env.step(actions)
        except Exception:
            if not self.config.restart_failed_sub_environments:
                raise
            self._needs_initial_reset = True
            self.make_env()
            return None

    def _record(self, live: _Live, infos: dict[str, Any]) -> None:
        """Notes the episodes that have just ended and starts counting anew in their rows."""
        for i in np.flatnonzero(live.ended):
            episode = {"return": float(live.returns[i]), "length": int(live.lengths[i])}
            for key in self._episode_metrics:
                episode[key] = float(infos[key][i])
            self._finished.append(episode)
            self._log_episode_metrics(episode["length"], episode["return"], 0.0)
        live.returns[live.ended] = 0.0
        live.lengths[live.ended] = 0

    def reseed(self, salt: int) -> None:
        """Begins anew under other seeds, so that a resumed run does not replay its first episodes."""
        self._seed = (self._seed or 0) + salt
        self._needs_initial_reset = True

    def take_finished_episodes(self) -> dict[str, Any]:
        """The episodes that ended since the last call, and the bytes of memory this runner carries."""
        finished, self._finished = self._finished, []
        carried = 0
        if self._live is not None:
            carried = sum(x.numel() * x.element_size() for x in self._live.state.values())
        return {FINISHED_EPISODES: finished, MEMORY_BYTES: carried}

    def sample_get_state_and_metrics(self) -> Any:
        """RLlib's call, with notes for the driver beside the connector states.

        An error of the environment travels as a note: RLlib would try again in silence, for ever.
        """
        try:
            fragments, states, metrics = super().sample_get_state_and_metrics()
        except Exception as error:
            self._live = None
            return [], {FAILURE: f"{type(error).__name__}: {error}"}, self.get_metrics()
        return fragments, {**states, **self.take_finished_episodes()}, metrics


def _buffer(obs: Any, rows: int, steps: int) -> Any:
    if isinstance(obs, dict):
        return {key: _buffer(value, rows, steps) for key, value in obs.items()}
    return np.empty((rows, steps, *np.shape(obs)[1:]), np.asarray(obs).dtype)


def _write(buffer: Any, t: int, obs: Any) -> None:
    if isinstance(buffer, dict):
        for key, part in buffer.items():
            part[:, t] = obs[key]
    else:
        buffer[:, t] = obs


def _unsqueeze(obs: Any) -> Any:
    if isinstance(obs, dict):
        return {key: x.unsqueeze(1) for key, x in obs.items()}
    return obs.unsqueeze(1)
