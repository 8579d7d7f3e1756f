"""Frames as blocks of pixels, for a first layer whose filters move by a block.

Such a layer reads the same from blocks with smaller filters on more channels, which matrix units are made for: three
channels leave most of one idle. Shapes: N frames, H height, W width, C channels, b the side of a block in pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agents.encoders.compiled import compiled


def fold(frames: Tensor, block: int, dtype: torch.dtype) -> Tensor:
    """Bytes [N, H, W, C] with each block's pixels as the channels of one, [N, H // b, W // b, b^2 C].

    `block` must be a multiple of 4. A CPU makes bfloat16 in one pass, by a loop that numba compiles.
    """
    n, height, width, channels = frames.shape
    rows, columns = height // block, width // block
    whole = frames[:, : rows * block, : columns * block]
    on_cpu = frames.device.type == "cpu" and dtype == torch.bfloat16
    if on_cpu and not torch.compiler.is_compiling():
        folded = torch.empty(n, rows, columns, block * block * channels, dtype=dtype)
        parts = folded.view(torch.int16).view(n, rows, columns, block, block * channels)
        compiled(_fold)(whole.flatten(2).numpy(), parts.numpy())
        return folded
    # Moved four bytes at a time, from a place that is a multiple of four.
    whole = whole.contiguous()
    whole = whole.clone() if whole.storage_offset() % 4 else whole
    words = whole.view(n, rows, block, columns, block * channels).view(torch.int32)
    moved = words.transpose(2, 3).contiguous().view(torch.uint8)
    return moved.view(n, rows, columns, block * block * channels).to(dtype)


def fold_filters(weight: Tensor, block: int) -> Tensor:
    """Filters [F, C, H, W] of a stride of `block`, for folded frames: [F, b^2 C, H // b, W // b]."""
    n, channels, height, width = weight.shape
    blocks = weight.view(n, channels, height // block, block, width // block, block)
    return blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


def _fold(lines: np.ndarray, folded: np.ndarray) -> None:
    """Writes bytes [N, H, W C] as bfloat16, the upper half of float32, into int16 [N, H // b, W // b, b, b C]."""
    n, rows, columns, block, wide = folded.shape
    line = np.empty(columns * wide, np.float32)
    bits = line.view(np.int32)
    for i in range(n):
        for row in range(rows):
            for y in range(block):
                for x in range(columns * wide):
                    line[x] = lines[i, row * block + y, x]
                for column in range(columns):
                    for x in range(wide):
                        folded[i, row, column, y, x] = bits[column * wide + x] >> 16
