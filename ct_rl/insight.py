"""What one watched step tells of an agent: its value, its policy, where its memory looked, and where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agents.actor_critic import ActorCritic, State, as_tensors
from agents.saliency import Saliency, memory_saliency
from ct_rl.memory.report import StepAttention

COMPRESSED, MEMORY, WINDOW = 0, 1, 2


@dataclass(frozen=True)
class Attended:
    """Where a step's memory looked, of one world; N places, those that hold something, oldest first.

    Attributes:
        weights: [L, N], means over heads; mean: [N], over layers too.
        shares: [L, 3], the weight on compressed memory, memory and window.
        kind: [N], COMPRESSED, MEMORY or WINDOW.
        first, last: [N], the steps of the episode that a place holds.
        kl: [N], how far the policy moves when a place is not read [nats]; 0 for the step itself.
    """

    weights: np.ndarray
    shares: np.ndarray
    kind: np.ndarray
    first: np.ndarray
    last: np.ndarray
    kl: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        return self.weights.mean(0)

    @property
    def middle(self) -> np.ndarray:
        """[N]: the step in the middle of what a place holds."""
        return (self.first + self.last) // 2


@dataclass(frozen=True)
class Insight:
    """One watched step.

    Attributes:
        value: the critic's.
        choices: each action's name and probability; for continuous actions, name, mean and deviation.
        look: None where the memory does not attend.
        position: [2] where the environment's info tells it; yaw: degrees, counter-clockwise from +x; trial: its number.
    """

    value: float
    choices: list[tuple[str, float]] | list[tuple[str, float, float]]
    look: Attended | None
    position: np.ndarray | None = None
    yaw: float | None = None
    trial: int | None = None


def watch(
    net: ActorCritic,
    batch: Any,
    state: State,
    names: Sequence[str] | None,
    info: Mapping[str, Any],
    attending: bool,
) -> tuple[Insight, Tensor, State]:
    """One acting step of one world, watched; `state` stays as it is.

    Args:
        batch: numpy arrays [1, ...]; info: the environment's, of this observation.
        attending: what `attends` says of the network.

    Returns:
        What it shows, the policy's parameters [1, P] and the next state.
    """
    observation = as_tensors(batch, net.inlet.weight.device)
    found: Saliency | None = None
    if attending:
        found = memory_saliency(net, observation, state)
        watched, after = found.watched, found.state
    else:
        after = {key: value.clone() for key, value in state.items()}
        watched = net.watched_step(observation, after)
    insight = Insight(
        value=float(watched.value[0]),
        choices=_choices(net, watched.policy.cpu(), names),
        look=None if found is None else _attended(found),
        position=_position(info.get("position")),
        yaw=_number(info.get("yaw")),
        trial=None if (trial := _number(info.get("trial"))) is None else int(trial),
    )
    return insight, watched.policy, after


def attends(net: ActorCritic) -> bool:
    """Whether the network's memory tells where it looks."""
    core = net.core
    x = core.like.new_zeros(1, core.d_model)
    return core.watched_step(x, core.initial_state(1))[1] is not None


def _attended(found: Saliency) -> Attended:
    seen = found.watched.attention
    assert isinstance(seen, StepAttention)
    there = seen.there[0].cpu()
    place = torch.arange(len(there))[there]
    shares = torch.stack([seen.compressed[0], seen.memory[0], seen.window[0]], -1)  # (L, H, 3)
    ends = (seen.compressed_size, seen.compressed_size + seen.memory_size)
    return Attended(
        weights=seen.weights[0].mean(1).cpu()[:, there].float().numpy(),
        shares=shares.mean(1).cpu().float().numpy(),
        kind=((place >= ends[0]).long() + (place >= ends[1]).long()).numpy(),
        first=seen.first[0].cpu()[there].numpy(),
        last=seen.last[0].cpu()[there].numpy(),
        kl=found.kl[0].cpu()[there].float().numpy(),
    )


def _choices(net: ActorCritic, policy: Tensor, names: Sequence[str] | None) -> list[Any]:
    space, chosen = net.action_space, net.distribution(policy)
    if isinstance(space, spaces.Discrete):
        odds = chosen.log_p[0].exp().tolist()  # type: ignore[union-attr]
        named = names if names and len(names) == len(odds) else None
        start = int(space.start)
        return [(named[i] if named else f"{i + start}", p) for i, p in enumerate(odds)]
    if isinstance(space, spaces.MultiDiscrete):
        starts = np.ravel(space.start).tolist()
        return [
            (part_name(part, start + i), p)
            for part, (start, one) in enumerate(zip(starts, chosen.parts, strict=True))  # type: ignore[union-attr]
            for i, p in enumerate(one.log_p[0].exp().tolist())
        ]
    normal = chosen.normal  # type: ignore[union-attr]
    pairs = zip(normal.loc[0].tolist(), normal.scale[0].tolist(), strict=True)
    return [(f"{i}", mean, deviation) for i, (mean, deviation) in enumerate(pairs)]


def part_name(part: int, value: int) -> str:
    """What `Insight.choices` calls a value of one part of a MultiDiscrete action."""
    return f"{part}: {value}"


def _position(given: Any) -> np.ndarray | None:
    """Two finite coordinates, or None for what is none; a third, of height, is left out."""
    try:
        array = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        return None
    if array.shape not in ((2,), (3,)) or not np.isfinite(array).all():
        return None
    return array[:2]


def _number(given: Any) -> float | None:
    try:
        number = float(given)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def drawn_observation(obs: Any) -> np.ndarray:
    """A picture uint8 [H, W, 3] of what the agent sees: its frame, or else its numbers as bars around a zero line."""
    parts = [np.asarray(part) for part in _leaves(obs)]
    for part in parts:
        if part.ndim == 3 and part.dtype == np.uint8 and part.shape[2] in (1, 3, 4):
            return part
    flat = np.concatenate([part.ravel() for part in parts])[:64].astype(np.float64)
    flat = np.nan_to_num(flat, posinf=1e9, neginf=-1e9)
    height, width = 240, 320
    picture = np.full((height, width, 3), 24, np.uint8)
    cv2.line(picture, (0, height // 2), (width, height // 2), (90, 90, 90), 1)
    bar = width / len(flat)
    for i, size in enumerate(np.tanh(flat)):  # any number has a height
        ends = (int((i + 0.15) * bar), int((i + 0.85) * bar))
        y = int(height / 2 * (1 - 0.95 * size))
        cv2.rectangle(picture, (ends[0], height // 2), (ends[1], y), (120, 190, 240), -1)
    return picture


def _leaves(obs: Any) -> list[Any]:
    if isinstance(obs, Mapping):
        return [leaf for part in obs.values() for leaf in _leaves(part)]
    return [obs]
