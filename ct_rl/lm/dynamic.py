"""Dynamic evaluation: weights that learn from what they have read (Krause et al. 2018, arXiv 1709.07432)."""

from __future__ import annotations

import torch
from torch import Tensor

from ct_rl.lm.model import LanguageModel


class DynamicWeights:
    """Gradient steps with a way back, w -= rate g - decay (w0 - w): the paper's SGD variant, section 3.

    Args:
        rate: of a step along the gradient, whose norm is clipped at 1.
        decay: part of the way back to the trained weights with each step.
    """

    def __init__(self, model: LanguageModel, rate: float = 0.05, decay: float = 0.002):
        self.rate, self.decay = rate, decay
        self.parameters = model.task_parameters()
        self.trained = [p.detach().clone() for p in self.parameters]

    def learn(self, loss: Tensor) -> None:
        """One step on what has just been read."""
        grads = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        norm = torch.sqrt(
            sum((g.square().sum() for g in grads if g is not None), loss.new_zeros(()))
        )
        rate = self.rate / max(float(norm), 1.0)
        with torch.no_grad():
            for p, start, grad in zip(self.parameters, self.trained, grads, strict=True):
                if grad is not None:
                    p.sub_(grad, alpha=rate)
                p.lerp_(start, self.decay)

    @torch.no_grad()
    def restore(self) -> None:
        """The trained weights again."""
        for p, start in zip(self.parameters, self.trained, strict=True):
            p.copy_(start)
