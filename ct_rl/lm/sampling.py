"""Samples: one token after the other, memory carried."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ct_rl.lm.model import LanguageModel
from ct_rl.lm.vocabulary import Vocabulary
from ct_rl.memory import State

_BROKEN = "\ufffd"  # what stands for bytes that are no character
_LONGEST = 8  # tokens that may be one character, of at most four bytes; more are none


def read(
    model: LanguageModel, tokens: Tensor, state: State, length: int = 512
) -> tuple[Tensor, State]:
    """Reads a prompt int64 [B, T], in pieces: ln p of the next token [B, V] and the state after."""
    with torch.no_grad():
        for start in range(0, tokens.shape[1], length):
            out = model.run(tokens[:, start : start + length], state)
            state = out.state
        return model.head.log_probs(out.y[:, -1]), state


def choose(
    log_probs: Tensor, temperature: float, top_p: float, generator: torch.Generator
) -> Tensor:
    """One token a row of ln p [B, V]: the likeliest at temperature 0, else drawn from the nucleus.

    The nucleus is the fewest likeliest tokens whose probability together reaches `top_p` (Holtzman et al. 2020,
    arXiv 1904.09751); the temperature is applied first.
    """
    if temperature == 0:
        return log_probs.argmax(-1)
    below = log_probs.double() - log_probs.amax(-1, keepdim=True)  # 0 at most, at any temperature
    probs, order = (below / temperature).softmax(-1).sort(-1, descending=True)
    before = probs.cumsum(-1) - probs
    probs = probs * (before < top_p)
    drawn = torch.multinomial(probs.cpu(), 1, generator=generator).to(order.device)
    return order.gather(-1, drawn)[:, 0]


def sample(
    model: LanguageModel,
    prompt: Tensor,
    count: int,
    *,
    temperature: float = 1.0,
    top_p: float = 0.98,
    seed: int = 0,
) -> Iterator[int]:
    """`count` tokens that go on from prompt int64 [T], each as soon as it is there.

    Raises:
        ValueError: for an empty prompt, a temperature below 0, or a nucleus `top_p` that is not above 0 and at most 1.
    """
    if prompt.dim() != 1 or not len(prompt):
        raise ValueError(f"the prompt is {list(prompt.shape)}: give one token or more, [T]")
    if not 0 <= temperature < math.inf or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature={temperature} must be 0 or more and top_p={top_p} above 0 and at most 1"
        )
    return _drawn(model, prompt, count, temperature, top_p, seed)


def _drawn(
    model: LanguageModel, prompt: Tensor, count: int, temperature: float, top_p: float, seed: int
) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    log_probs, state = read(model, prompt[None], model.initial_state(1))
    for _ in range(count):
        token = choose(log_probs, temperature, top_p, generator)
        yield int(token)
        log_probs = model.step(token, state)


def decoded(tokens: Iterator[int], vocabulary: Vocabulary) -> Iterator[str]:
    """What each token adds to the text; a character may be several tokens, and waits until it is whole."""
    held: list[int] = []
    shown = 0  # characters of what `held` says
    for token in tokens:
        held.append(token)
        text = vocabulary.decode(held).decode(errors="replace")
        whole = text if len(held) > _LONGEST else text.rstrip(_BROKEN)
        yield whole[shown:]
        shown = len(whole)
        if whole == text:
            held, shown = [], 0
    yield vocabulary.decode(held).decode(errors="replace")[shown:]
