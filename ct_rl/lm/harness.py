"""A trained run as a model of lm-evaluation-harness (EleutherAI; the extra `lm-eval`).

    from ct_rl.lm.harness import HarnessModel
    lm_eval.simple_evaluate(model=HarnessModel("runs/enwik8"), tasks=["mine"], task_manager=...)

Unlike a transformer of fixed length, it reads a whole document with its memory: no windows, no overlap.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ct_rl.errors import UserError
from ct_rl.lm import sampling
from ct_rl.lm.run import load_model
from ct_rl.lm.trainer import pick_device

try:
    from lm_eval.api.model import LM
except ImportError:
    raise UserError("the adapter needs the package lm-eval: pip install 'ct_rl[lm-eval]'") from None

_PIECE = 512
_START = "\n"  # what stands before a document, so that its first token has a price


class HarnessModel(LM):
    """The harness's three requests, answered by a run of `ct_rl.lm`.

    Args:
        run: its folder.
        max_tokens: of one generation, where a request names none.
        over: memory options other than in training.
    """

    def __init__(
        self, run: str | Path, device: str = "auto", max_tokens: int = 256, **over: Any
    ) -> None:
        super().__init__()
        self.model, self.vocabulary, _, _ = load_model(Path(run), pick_device(device), **over)
        if self.vocabulary.kind == "audio":
            raise UserError(f"{run} models sound: the harness asks for text")
        self.max_tokens = max_tokens

    def loglikelihood(self, requests: Iterable[Any], **_: Any) -> list[tuple[float, bool]]:
        """For (context, continuation): ln p of the continuation, and whether it is the likeliest one."""
        answers = []
        for request in requests:
            context, continuation = request.args
            before, tokens = self._before(context), self._tokens(continuation)
            nll, likeliest = self._price(np.concatenate([before, tokens]), len(tokens))
            answers.append((-float(nll.sum()), bool(likeliest.all())))
        return answers

    def loglikelihood_rolling(self, requests: Iterable[Any], **_: Any) -> list[float]:
        """For (text,): ln p of all of it."""
        answers = []
        for request in requests:
            tokens = self._tokens(request.args[0])
            nll, _likeliest = self._price(np.concatenate([self._before(""), tokens]), len(tokens))
            answers.append(-float(nll.sum()))
        return answers

    def generate_until(self, requests: Iterable[Any], **_: Any) -> list[str]:
        """For (context, settings): the text that goes on, to the first of `until`, without it.

        What is drawn repeats with the next call, and differs between its requests: the harness asks several times over
        for a vote.
        """
        return [self._generate(seed, *request.args) for seed, request in enumerate(requests)]

    def _generate(self, seed: int, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        until = [until] if isinstance(until, str) else list(until)
        sampled = bool(settings.get("do_sample", False))
        tokens = sampling.sample(
            self.model,
            self._to_device(self._before(context)),
            int(settings.get("max_gen_toks", self.max_tokens)),
            temperature=float(settings.get("temperature", 1.0)) if sampled else 0.0,
            top_p=float(settings.get("top_p", 1.0)),
            seed=seed,
        )
        drawn: list[int] = []
        text = ""
        for token in tokens:
            drawn.append(token)
            text = self.vocabulary.decode(drawn).decode(errors="ignore")
            ends = [place for stop in until if stop and (place := text.find(stop)) >= 0]
            if ends:
                return text[: min(ends)]
        return text

    def _before(self, context: str) -> np.ndarray:
        """The tokens of a context; where it has none, as blanks have of words, what stands before a document."""
        tokens = self._tokens(context)
        return tokens if len(tokens) else self._tokens(_START)

    def _tokens(self, text: str) -> np.ndarray:
        return self.vocabulary.encode(text).astype(np.int64)

    def _to_device(self, tokens: np.ndarray) -> Tensor:
        return torch.from_numpy(tokens).to(next(self.model.parameters()).device)

    @torch.no_grad()
    def _price(self, tokens: np.ndarray, last: int) -> tuple[Tensor, Tensor]:
        """Nats of the `last` tokens, and whether each was the likeliest."""
        given = self._to_device(tokens)[None]
        state, nll, likeliest = self.model.initial_state(1), [], []
        count = given.shape[1] - 1
        for start in range(0, count, _PIECE):
            end = min(start + _PIECE, count)
            out = self.model.run(given[:, start:end], state)
            state = out.state
            targets = given[0, start + 1 : end + 1]
            log_probs = self.model.head.log_probs(out.y[0])
            nll.append(-log_probs.gather(1, targets[:, None])[:, 0].cpu())
            likeliest.append((log_probs.argmax(1) == targets).cpu())
        if not last:
            return torch.zeros(0), torch.ones(0, dtype=torch.bool)
        skipped = count - last
        return torch.cat(nll)[skipped:], torch.cat(likeliest)[skipped:]
