"""compressive-transformer-pytorch 0.4.0 under this library's trainer.

As it is, its forward pass detaches the weights of keys and values in place, and they stay as they were drawn; `thaw`
takes that back after each pass, before the gradient would pass them by.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ct_rl.lm.model import Reading


class _NoCompressor(nn.Module):
    """The peer has one loss and one optimiser."""

    def compressor_parameters(self) -> list[nn.Parameter]:
        return []


class Peer(nn.Module):
    """The peer with a state of plain tensors, batch first; it reads at most one window at a time."""

    def __init__(self, net: nn.Module, thaw: bool):
        super().__init__()
        self.net, self.core, self.thaw = net, _NoCompressor(), thaw

    def initial_state(self, batch_size: int) -> dict[str, Tensor]:
        like = self.net.token_emb.weight
        empty = like.new_zeros(batch_size, self.net.depth, 0, like.shape[1])
        return {"memory": empty, "compressed": empty}

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor,
        state: dict[str, Tensor],
        resets: Tensor | None = None,
    ) -> Reading:
        memories = [state[name].transpose(0, 1) for name in ("memory", "compressed")]
        logits, after, loss = self.net(tokens, memories=memories)
        if self.thaw:
            self.net.requires_grad_(True)
        nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        parts = zip(("memory", "compressed"), after, strict=True)
        kept = {name: part.transpose(0, 1).detach() for name, part in parts}
        terms = {"compression": torch.tensor(tokens.numel())}
        return Reading(nll.view(targets.shape), kept, {"compression": loss}, terms)

    def task_parameters(self) -> list[nn.Parameter]:
        return list(self.parameters())


def peer_model(vocab_size: int, options: dict[str, Any], seed: int, thaw: bool = False) -> Any:
    """The peer at the sizes of a compressive core; None where it is not installed."""
    try:
        package = importlib.import_module("compressive_transformer_pytorch")
    except ImportError:
        return None
    torch.manual_seed(seed)
    return Peer(
        package.CompressiveTransformer(
            num_tokens=vocab_size,
            dim=options["d_model"],
            depth=options["n_layers"],
            heads=options["n_heads"],
            seq_len=options["window"],
            mem_len=options["memory"],
            cmem_len=options["compressed"],
            cmem_ratio=options["rate"],
        ),
        thaw,
    )
