"""A look at an image encoder of somebody's own when it is built: does it give as many features as it says?"""

from __future__ import annotations

import copy
import numbers
from itertools import chain

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from ct_rl.errors import said
from ct_rl.memory.contract import described

_FRAMES = 3


def check_encoder(name: str, encoder: nn.Module, space: spaces.Box) -> None:
    """Asks a copy of an encoder for the features of a few black frames.

    One that cannot be copied passes, and so does one that raises an error where it may be made for another device: the
    error comes again in use.

    Raises:
        ValueError: one line that names the encoder, what it gave and what was expected.
    """
    if not isinstance(getattr(encoder, "d_out", None), numbers.Integral):
        raise ValueError(
            f"encoder {name!r} has no d_out: its __init__ sets it, the number of features that forward gives"
        )
    like: Tensor = next(chain(encoder.parameters(), encoder.buffers()), torch.empty(0))
    kind = torch.as_tensor(np.zeros((), space.dtype)).dtype
    try:
        asked = copy.deepcopy(encoder).eval()
    except Exception:
        return
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            frames = torch.zeros(_FRAMES, *space.shape, dtype=kind, device=like.device)
            features = asked(frames)
    except Exception as error:
        if like.device.type != "cpu" or torch.cuda.is_available():
            return
        raise ValueError(
            f"encoder {name!r} cannot read {_FRAMES} frames, {described(frames)}: {said(error)}"
        ) from error
    fits = isinstance(features, Tensor) and features.is_floating_point()
    if not fits or features.shape != (_FRAMES, encoder.d_out):
        raise ValueError(
            f"encoder {name!r} gave {described(features)} of {_FRAMES} frames, expected floating point "
            f"{[_FRAMES, encoder.d_out]}: a row of d_out features for each"
        )
