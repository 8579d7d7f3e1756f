"""Where a trained memory looks while its agent plays, and what its compression loses: an episode's worth of numbers."""

from __future__ import annotations

from typing import Any

import torch

from agents.acting import Actor
from ct_rl.errors import RunFailed, one_line
from ct_rl.memory.report import AttentionReport
from envs.seeding import world_seeds

BUCKETS = 6  # of each of compressed memory, memory and window
_AT_ONCE, _MOST = 128, 2000  # steps of a pass, and of the episode that is looked at


def look(net: Any, env: Any, *, seed: int, greedy: bool) -> dict[str, Any]:
    """One episode on a vector environment of one world, at most 2000 steps of it.

    Returns:
        The fields of `ct_rl.evaluation_file.MemoryLook` that the memory has; nothing for one without attention.
    """
    if net.core(*_nothing(net), attention=True).attention is None:
        return {}
    x = _inputs(net, env, seed, greedy)  # (1, T, D)
    reports = _reports(net, x)
    steps = torch.tensor([float(length) for length, _ in reports])

    def mean(parts: list[torch.Tensor]) -> list[Any]:
        """Over the steps of all passes."""
        share = (steps / steps.sum()).reshape(-1, *[1] * parts[0].dim())
        found: list[Any] = (torch.stack([part.cpu() for part in parts]) * share).sum(0).tolist()
        return found

    every = [report for _, report in reports]
    seen = {
        "buckets": mean([report.buckets(BUCKETS).mean(1) for report in every]),
        "shares": mean([
            torch.stack([part.mean(1) for part in (one.compressed, one.memory, one.window)], 1)
            for one in every
        ]),
    }  # fmt: skip
    losses = [one.compression_loss for one in every if one.compression_loss is not None]
    return seen | ({"compression_loss": mean(losses)} if len(losses) == len(every) else {})


def _nothing(net: Any) -> tuple[torch.Tensor, Any]:
    return net.inlet.weight.new_zeros(1, 1, net.core.d_model), net.initial_state(1)


def _inputs(net: Any, env: Any, seed: int, greedy: bool) -> torch.Tensor:
    """[1, T, D]: what the memory was given in an episode."""
    taken: list[torch.Tensor] = []
    hook = net.inlet.register_forward_hook(lambda module, given, made: taken.append(made))
    try:
        actor = Actor(
            net,
            env,
            seeds=world_seeds(seed, 1, evaluation=True),
            noise=torch.Generator().manual_seed(seed),
        )
        while not actor.take_finished() and len(taken) < _MOST:
            actor.step(explore=not greedy)
    except ValueError as error:
        raise RunFailed(f"playing stopped: {one_line(error)[:400]}") from error
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
