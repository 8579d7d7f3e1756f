"""Playing episodes with a trained network, without Ray, and what their scores sum up to."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from agents.acting import LOST, Actor
from ct_rl.checkpoint import Checkpoint
from ct_rl.errors import RunFailed, UserError, one_line, said
from ct_rl.insight import Insight, attends, drawn_observation, part_name
from ct_rl.insight import watch as watch_step
from ct_rl.scores import EnvFacts, episode_means, human_normalised
from envs.seeding import world_seeds
from envs.wrappers import Single

MAX_STEPS = 100_000  # of an episode, where an environment may never end [agent steps]

_MOST_LOST = 10  # episodes beside as many as are asked for, after which playing stops
_WORLDS = 16  # environments stepped at once


def load_network(saved: Checkpoint, observation_space: Any, action_space: Any) -> Any:
    """The checkpoint's actor-critic in evaluation mode; raises UserError when it does not fit the spaces."""
    from agents import ActorCritic
    from agents.encoders import of_saved

    try:
        settings = of_saved(saved.meta["network"], observation_space)
        net = ActorCritic(observation_space, action_space, **settings)
        net.load_state_dict(saved.weights)
    except (KeyError, TypeError, ValueError, RuntimeError, MemoryError, AttributeError) as error:
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
    max_steps: int = MAX_STEPS,
    on_episode: Callable[[], None] | None = None,
) -> list[dict[str, float]]:
    """Return, length and counts of `episodes` episodes on a vector environment (NEXT_STEP resets).

    Every world plays its fixed share, so that short episodes are not favoured. An episode of `max_steps` steps is cut
    there, counts as it stands with `unfinished` 1, and is its world's last: nothing says that another would end.
    One that a dying world cut short is there beside the `episodes` with `lost` 1, and its world plays another for it.

    Raises:
        RunFailed: where the network breaks, or where more episodes are lost than `episodes` + 10.
    """
    worlds = env.num_envs
    share = np.full(worlds, episodes // worlds)
    share[: episodes % worlds] += 1
    with playing():
        actor = Actor(
            net,
            env,
            seeds=world_seeds(seed, worlds, evaluation=True),
            noise=torch.Generator().manual_seed(seed),
            metrics=metrics,
        )
    finished: list[dict[str, float]] = []
    lost = 0
    while share.any():
        with playing():
            actor.step(explore=not greedy)
        ended = actor.take_finished()
        for i in map(int, np.flatnonzero((actor.lengths >= max_steps) & (share > 0))):
            cut = {"return": float(actor.returns[i]), "length": int(actor.lengths[i])}
            ended.append((i, {**cut, "unfinished": 1}))
            share[i] = 1
        for i, episode in ended:
            if not share[i]:
                continue
            finished.append(episode)
            if LOST in episode:
                lost += 1
                if lost > episodes + _MOST_LOST:
                    raise RunFailed(
                        f"playing stopped: worlds died in {lost} episodes, and {len(finished) - lost} of "
                        f"{episodes} came to their end: mend the environment"
                    )
                continue
            share[i] -= 1
            if on_episode is not None:
                on_episode()
    return finished


@contextlib.contextmanager
def playing() -> Iterator[None]:
    """Whatever an environment raises inside becomes a RunFailed of one line."""
    try:
        yield
    except Exception as error:
        raise RunFailed(f"playing stopped: {said(error)}") from error


def worlds_for(episodes: int) -> int:
    """How many environments to step at once for this many episodes."""
    return min(episodes, _WORLDS)


def score_episodes(episodes: Sequence[dict[str, float]], facts: EnvFacts) -> dict[str, Any]:
    """Mean, standard error, median and best return, human-normalised score, means of the counts.

    All of them over whole episodes; those that `play` marks `lost` are counted alone.
    """
    lost = sum(LOST in episode for episode in episodes)
    episodes = [episode for episode in episodes if LOST not in episode]
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
        "unfinished": sum(int(episode.get("unfinished", 0)) for episode in episodes) or None,
        "lost": lost or None,
        **counts,
    }


@dataclass(frozen=True)
class Moment:
    """One step of a filmed episode: the picture before the action, and what belongs to it."""

    picture: np.ndarray  # as the environment draws it
    episode: int
    step: int
    total: float
    reward: float
    action: str  # its name; "end" or "world lost" in the last picture, which no action follows
    taken: tuple[str, ...] = ()  # the names of its parts among an insight's choices
    insight: Insight | None = None  # of a watched step
    last: bool = False


def film(
    net: Any,
    env: Any,
    episodes: int,
    *,
    seed: int,
    greedy: bool,
    max_steps: int = MAX_STEPS,
    watch: bool = False,
) -> Iterator[Moment]:
    """Plays episodes on one environment, one moment a step, each cut at `max_steps`.

    They begin as the first of `play` with that seed do, one from each world.
    Pictures are what the environment draws (`render_mode="rgb_array"`); watched, an environment that draws none shows
    its observation. `watch` also gives what the agent's memory did; its actions are the same.
    """
    names = action_names(env)
    generator = torch.Generator().manual_seed(seed)
    attending = watch and attends(net)
    for episode, world in enumerate(world_seeds(seed, episodes, evaluation=True)):
        with playing():
            obs, info = env.reset(seed=[world] if isinstance(env, Single) else world)
        state, over = net.initial_state(1), False
        total = reward = 0.0
        ending = "end"
        step = 0
        while not over and step < max_steps:
            picture = _picture(env, obs, watch)
            batch, insight = _batch(obs), None
            if watch:
                insight, policy, state = watch_step(net, batch, state, names, info, attending)
                actions = net.choose(policy, greedy=greedy, generator=generator)
            else:
                actions, state = net.act(batch, state, greedy=greedy, generator=generator)
            action, taken = _name(actions[0], names), _taken(actions[0], names)
            yield Moment(picture, episode + 1, step, total, reward, action, taken, insight)
            with playing():
                obs, reward, terminated, truncated, info = env.step(actions[0])
            if truncated and np.any(info.get(LOST, False)):
                ending = "world lost"
            over, total, step = terminated or truncated, total + float(reward), step + 1
        picture = _picture(env, obs, watch)
        yield Moment(picture, episode + 1, step, total, float(reward), ending, last=True)


def _picture(env: Any, obs: Any, watch: bool) -> Any:
    draws = not watch or getattr(env, "render_mode", None) == "rgb_array"
    try:
        picture = env.render() if draws else None
    except gym.error.Error as error:  # a library for drawing is missing
        raise RunFailed(one_line(error)[:300]) from error
    except NotImplementedError as error:
        if not watch:
            raise RunFailed(
                "the environment has no render(): leave --video out, or add --attention, which films what it observes"
            ) from error
        picture = None
    return drawn_observation(obs) if watch and picture is None else picture


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


def _taken(action: Any, names: list[str] | None) -> tuple[str, ...]:
    """What `Insight.choices` calls the parts of an action of whole numbers."""
    parts = np.asarray(action)
    if not np.issubdtype(parts.dtype, np.integer):
        return ()
    if parts.ndim == 0:
        return (_name(action, names),)
    return tuple(part_name(i, int(at)) for i, at in enumerate(parts.ravel()))


def _batch(obs: Any) -> Any:
    if isinstance(obs, dict):
        return {key: _batch(value) for key, value in obs.items()}
    return np.asarray(obs)[None]
