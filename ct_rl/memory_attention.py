"""Where a trained memory looks while its agent plays, and what its compression loses: an episode's worth of numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from agents.acting import Actor
from ct_rl.evaluation import playing
from ct_rl.memory.report import AttentionReport
from envs.seeding import world_seeds

BUCKETS = 6  # of each of compressed memory, memory and window
_AT_ONCE, _MOST = 128, 2000  # steps of a pass, and of the episode that is looked at


def attention_of_episode(net: Any, env: Any, *, seed: int, greedy: bool) -> dict[str, Any]:
    """One episode on a vector environment of one world, at most 2000 steps of it.

    Returns:
        The fields of `ct_rl.evaluation_file.MemoryAttention` that the memory has; nothing for one without attention.
    """
    if net.core(*_nothing(net), attention=True).attention is None:
        return {}
    x = _inputs(net, env, seed, greedy)  # (1, T, D)
    reports = _reports(net, x)
    seen = {
        "buckets": _mean(reports, lambda report: report.buckets(BUCKETS).mean(1)),
        "shares": _mean(reports, lambda one: torch.stack(
            [part.mean(1) for part in (one.compressed, one.memory, one.window)], 1
        )),
    }  # fmt: skip
    # A pass in which nothing was old enough to be compressed reports 0.
    lossy = [(n, one) for n, one in reports
             if one.compression_loss is not None and bool(one.compression_loss.any())]  # fmt: skip
    return seen | (
        {"compression_loss": _mean(lossy, lambda one: one.compression_loss)} if lossy else {}
    )


def _mean(
    reports: list[tuple[int, AttentionReport]], part: Callable[[AttentionReport], Any]
) -> list[Any]:
    """Over the steps of some passes."""
    whole = sum(steps for steps, _ in reports)
    found: list[Any] = (
        torch.stack([part(one).cpu() * steps / whole for steps, one in reports]).sum(0).tolist()
    )
    return found


def _nothing(net: Any) -> tuple[torch.Tensor, Any]:
    return net.inlet.weight.new_zeros(1, 1, net.core.d_model), net.initial_state(1)


def _inputs(net: Any, env: Any, seed: int, greedy: bool) -> torch.Tensor:
    """[1, T, D]: what the memory was given in an episode."""
    taken: list[torch.Tensor] = []
    hook = net.inlet.register_forward_hook(lambda module, given, made: taken.append(made))
    try:
        with playing():
            actor = Actor(
                net,
                env,
                seeds=world_seeds(seed, 1, evaluation=True),
                noise=torch.Generator().manual_seed(seed),
            )
            while not actor.take_finished() and len(taken) < _MOST:
                actor.step(explore=not greedy)
    finally:
        hook.remove()
    return torch.stack(taken, 1)


@torch.no_grad()
def _reports(net: Any, x: torch.Tensor) -> list[tuple[int, AttentionReport]]:
    """The episode in passes, each with its number of steps; the compression loss is of training mode."""
    state, found = net.initial_state(1), []
    net.core.train()
    for part in net.core.modules():
        if isinstance(part, torch.nn.Dropout):
            part.eval()
    try:
        for piece in x.split(_AT_ONCE, 1):
            out = net.core(piece, state, attention=True)
            state = out.state
            found.append((piece.shape[1], out.attention))
    finally:
        net.core.eval()
    return found
