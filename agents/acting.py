"""Acting: a network plays the worlds of a vector environment, one step at a time. Runners and evaluation share it.

Shapes: N worlds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from agents.actor_critic import ActorCritic, Observation, State, as_tensors
from agents.distributions import for_env
from agents.episodes import LENGTH, RETURN, count_place
from agents.misfits import refuse_misfit

LOST = "lost"  # in an environment's infos: how often each world died; of an episode: its world died


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


def reset(env: VectorEnv, seeds: list[int] | None) -> tuple[Any, dict[str, Any]]:
    """Begins an episode in every world, each under its own seed.

    gymnasium's own vectors, and ours, take a list; one that takes a single number gets the first.
    """
    try:
        return env.reset(seed=seeds)
    except (TypeError, ValueError, gym.error.Error):
        if seeds is None:
            raise
        return env.reset(seed=seeds[0])


@dataclass
class Step:
    """One step of all worlds.

    Attributes:
        resets: bool [N], what was acted on is an episode's first.
        actions: [N, ...], the policy's own; log_probs: float32 [N]; values: float32 [N], of what was acted on.
        rewards: [N], raw; terminateds, truncateds: bool [N].
        ignored: bool [N], the world was only being reset.
        infos: the environment's, of the observation that came of it.
        picked: [N, ...], what the encoder found in what was acted on (`ActorCritic.pick`); None where it finds nothing.
    """

    resets: np.ndarray
    actions: np.ndarray
    log_probs: np.ndarray
    values: np.ndarray
    rewards: np.ndarray
    terminateds: np.ndarray
    truncateds: np.ndarray
    ignored: np.ndarray
    infos: Mapping[str, Any]
    picked: Observation | None


class Actor:
    """N worlds and where they stand, and the network's memory of each.

    Attributes:
        obs: [N, ...], what will be acted on next, and the environment's own until then; resets: bool [N], it is an
            episode's first.
        state: the memory before it. `step` moves it on in place.
        finished: return, length and counts of each episode that ended, with its world; whoever reads takes them away.
            One that a dying world cut short has `lost` 1: it was truncated in a step whose `info["lost"]` is not 0.
        lost: worlds that died and were started anew by their environment, as its infos tell.

    Args:
        metrics: the names of an episode's counts in the environment's infos.
        precision: makes the context in which the network is asked on a kind of device, such as autocast's.
    """

    def __init__(
        self,
        net: ActorCritic,
        env: VectorEnv,
        *,
        seeds: list[int] | None,
        noise: torch.Generator | None = None,
        metrics: tuple[str, ...] = (),
        precision: Callable[[str], AbstractContextManager[Any]] = nullcontext,
    ):
        self.net, self.env, self.noise, self.metrics = net, env, noise, metrics
        self.precision = precision
        self.device = net.inlet.weight.device
        n = env.num_envs
        try:
            self.obs, infos = reset(env, seeds)
        except Exception as error:
            refuse_misfit(error, env)
            raise
        self._told = LOST not in metrics  # a count of that name is the environment's own
        self.lost = int(self._deaths(infos).sum())
        self.state: State = net.initial_state(n)
        self.resets, self.ended = np.ones(n, bool), np.zeros(n, bool)
        self.returns, self.lengths = np.zeros(n), np.zeros(n, np.int64)
        self.finished: list[tuple[int, dict[str, float]]] = []

    @torch.no_grad()
    def step(self, explore: bool) -> Step:
        """Acts once in every world: by a sample of the policy, or by its likeliest action."""
        resets, ignored = self.resets, self.ended
        policy, values, picked = self._ask_network(self.state)
        policy = policy.cpu()
        if not bool(policy.sum().isfinite()):
            raise ValueError(self._not_finite())
        chosen = self.net.distribution(policy)
        action = chosen.sample(self.noise) if explore else chosen.mode()
        log_probs, actions = chosen.log_prob(action).numpy(), action.numpy()
        taken = for_env(self.net.action_space, actions)
        try:
            self.obs, rewards, terminateds, truncateds, infos = self.env.step(taken)
        except Exception as error:
            refuse_misfit(error, self.env)
            raise
        if not np.isfinite(rewards).all():
            i = int(np.flatnonzero(~np.isfinite(rewards))[0])
            raise ValueError(
                f"the reward of world {i} is {rewards[i]} in step {self.lengths[i] + 1} of its episode: "
                "mend the environment"
            )
        deaths = self._deaths(infos)
        self.lost += int(deaths.sum())
        terminateds, truncateds = terminateds & ~ignored, truncateds & ~ignored
        self.returns += np.where(ignored, 0.0, rewards)
        self.lengths += ~ignored
        self.resets, self.ended = ignored, terminateds | truncateds
        for i in map(int, np.flatnonzero(self.ended)):
            self._finish(i, infos, lost=bool(truncateds[i] and deaths[i]))
        return Step(
            resets=resets,
            actions=actions,
            log_probs=log_probs,
            values=values.cpu().numpy(),
            rewards=rewards,
            terminateds=terminateds,
            truncateds=truncateds,
            ignored=ignored,
            infos=infos,
            picked=picked,
        )

    def look(self) -> tuple[np.ndarray, Observation | None]:
        """The value float32 [N] of what will be acted on next, and what the encoder found in it; nothing moves on."""
        _, values, picked = self._ask_network({key: x.clone() for key, x in self.state.items()})
        return values.cpu().numpy(), picked

    def _ask_network(self, state: State) -> tuple[torch.Tensor, torch.Tensor, Observation | None]:
        """Policy [N, P], value [N] and picks of what will be acted on next; `state` moves on."""
        resets = torch.as_tensor(self.resets, device=self.device)
        try:
            observation = as_tensors(self.obs, self.device)
            picked = self.net.pick(observation)
            given = {} if picked is None else {"picked": picked}
            with self.precision(self.device.type):
                return *self.net.step(observation, state, resets, **given), picked
        except Exception as error:
            refuse_misfit(error, self.env, self.obs)
            raise

    def _not_finite(self) -> str:
        """One line that says where what is not finite came from: an observation, or the network itself."""
        for name, part in _parts(self.obs):
            worlds = np.flatnonzero(~np.isfinite(part).reshape(len(part), -1).all(1))
            if len(worlds):
                i = int(worlds[0])
                return (
                    f"the observation{name} of world {i} holds NaN or infinity in step "
                    f"{self.lengths[i]} of its episode: mend the environment"
                )
        return (
            "the policy became NaN or infinite though every observation is finite: the weights are "
            "broken; go on from an earlier checkpoint with a smaller learning rate"
        )

    def _deaths(self, infos: Mapping[str, Any]) -> np.ndarray:
        """How often each world died in this call, [N]."""
        if LOST not in infos or not self._told:
            return np.zeros(self.env.num_envs, np.int64)
        return np.asarray(infos[LOST]).astype(np.int64)

    def _finish(self, i: int, infos: Mapping[str, Any], *, lost: bool) -> None:
        """Notes the episode that has just ended in world i, and starts counting anew."""
        episode = {RETURN: float(self.returns[i]), LENGTH: int(self.lengths[i])}
        for key in self.metrics:
            # gymnasium says beside each info in which worlds it was given.
            if key in infos and np.all(infos.get(f"_{key}", np.ones(self.env.num_envs, bool))[i]):
                try:
                    count = float(infos[key][i])
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"info[{key!r}] of world {i} is {infos[key][i]!r} at the end of its episode, and "
                        "episode_metrics names it as a count: give a number, or take the name out"
                    ) from error
                if math.isfinite(count):  # a share of nothing is no count
                    episode[count_place(key)] = count
        if lost:
            episode[LOST] = 1.0
        self.finished.append((i, episode))
        self.returns[i], self.lengths[i] = 0.0, 0

    def take_finished(self) -> list[tuple[int, dict[str, float]]]:
        """The episodes that ended since the last call, each with its world."""
        finished, self.finished = self.finished, []
        return finished


def _parts(obs: Any, name: str = "") -> list[tuple[str, np.ndarray]]:
    """The arrays of numbers in an observation, each with its name for a person."""
    if isinstance(obs, dict):
        return [part for key, x in obs.items() for part in _parts(x, f"'s part {key!r}")]
    array = np.asarray(obs)
    return [(name, array)] if array.dtype.kind == "f" else []
