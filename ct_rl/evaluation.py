"""Playing episodes with a trained network, without Ray, and what their scores sum up to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ct_rl.checkpoint import Checkpoint
from ct_rl.errors import UserError, one_line
from ct_rl.scores import EnvFacts, episode_means, human_normalised

_WORLDS = 16  # environments stepped at once
_SEEDS, _SEEDS_EACH = 2_000_000_000, 1_000  # training's seeds are small numbers and step counts


def evaluation_seed(seed: int) -> int:
    """The first environment seed of an evaluation; apart from every training seed below 2e9."""
    return _SEEDS + (seed * _SEEDS_EACH) % 147_000_000


def load_network(saved: Checkpoint, observation_space: Any, action_space: Any) -> Any:
    """The checkpoint's actor-critic in evaluation mode; raises UserError when it does not fit the spaces."""
    from agents import ActorCritic

    try:
        net = ActorCritic(observation_space, action_space, **saved.meta["network"])
        net.load_state_dict(saved.weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"checkpoint '{saved.path}' does not fit this environment: {one_line(error)[:300]}"
        ) from error
    return net.eval()


def play(
    net: Any,
    env: Any,
    episodes: int,
    *,
    seed: int,
    greedy: bool,
    metrics: tuple[str, ...] = (),
    on_episode: Callable[[], None] | None = None,
) -> list[dict[str, float]]:
    """Return, length and counts of `episodes` episodes on a vector environment (NEXT_STEP resets).

    Every world plays its fixed share, so that short episodes are not favoured.
    """
    worlds = env.num_envs
    share = np.full(worlds, episodes // worlds)
    share[: episodes % worlds] += 1
    generator = torch.Generator().manual_seed(seed)
    obs, _ = env.reset(seed=evaluation_seed(seed))
    state, resets = net.initial_state(worlds), np.ones(worlds, bool)
    ended = np.zeros(worlds, bool)
    returns, lengths = np.zeros(worlds), np.zeros(worlds, int)
    finished: list[dict[str, float]] = []
    while share.any():
        actions, state = net.act(obs, state, greedy=greedy, resets=resets, generator=generator)
        obs, rewards, terminated, truncated, info = env.step(actions)
        returns = np.where(ended, 0.0, returns + rewards)
        lengths = np.where(ended, 0, lengths + 1)
        resets = ended  # this step only began those worlds' next episode
        ended = (terminated | truncated) & ~ended
        for i in np.flatnonzero(ended & (share > 0)):
            share[i] -= 1
            counts = {key: float(info[key][i]) for key in metrics if key in info}
            finished.append({"return": float(returns[i]), "length": int(lengths[i]), **counts})
            if on_episode is not None:
                on_episode()
    return finished


def worlds_for(episodes: int) -> int:
    """How many environments to step at once for this many episodes."""
    return min(episodes, _WORLDS)


def summarise(episodes: Sequence[dict[str, float]], facts: EnvFacts) -> dict[str, Any]:
    """Mean, standard error, median and best return, human-normalised score, means of the counts."""
    returns = [episode["return"] for episode in episodes]
    mean = statistics.fmean(returns)
    error = statistics.stdev(returns) / math.sqrt(len(returns)) if len(returns) > 1 else None
    counts = episode_means(episodes, facts.episode_metrics)
    counts.pop("return")
    return {
        "episodes": len(returns),
        "mean": mean,
        "standard_error": error,
        "median": statistics.median(returns),
        "best": max(returns),
        "human_normalised": human_normalised(mean, facts.score_range),
        **counts,
    }


@dataclass(frozen=True)
class Moment:
    """One step of a filmed episode: the picture before the action, and what belongs to it."""

    picture: np.ndarray  # uint8 [H, W, 3]
    episode: int
    step: int
    total: float
    reward: float
    action: str


def film(net: Any, env: Any, episodes: int, *, seed: int, greedy: bool) -> Iterator[Moment]:
    """Plays episodes on one environment with `render_mode="rgb_array"`, one moment a step."""
    names = action_names(env)
    generator = torch.Generator().manual_seed(seed)
    for episode in range(episodes):
        obs, _ = env.reset(seed=evaluation_seed(seed) + episode)
        state, over = net.initial_state(1), False
        total = reward = 0.0
        step = 0
        while not over:
            picture = env.render()
            batch = _batch(obs)
            actions, state = net.act(batch, state, greedy=greedy, generator=generator)
            yield Moment(picture, episode + 1, step, total, reward, _name(actions[0], names))
            obs, reward, terminated, truncated, _ = env.step(actions[0])
            over, total, step = terminated or truncated, total + float(reward), step + 1
        yield Moment(env.render(), episode + 1, step, total, float(reward), "end")


def action_names(env: Any) -> list[str] | None:
    """The names of a Discrete environment's actions, where it states them."""
    while env is not None:
        names = getattr(env, "action_names", None)
        if names:
            return list(names)
        env = env.__dict__.get("env")
    return None


def _name(action: Any, names: list[str] | None) -> str:
    if np.ndim(action) == 0 and np.issubdtype(np.asarray(action).dtype, np.integer):
        return names[int(action)] if names else str(int(action))
    return np.array2string(np.asarray(action), precision=2, separator=",")


def _batch(obs: Any) -> Any:
    if isinstance(obs, dict):
        return {key: _batch(value) for key, value in obs.items()}
    return np.asarray(obs)[None]
