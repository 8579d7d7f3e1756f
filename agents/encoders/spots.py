"""Spots: what stands in one column of a frame and not in the others, for objects of few pixels.

Shapes: N frames, H height, W width, C channels, F filters, K columns.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.encoders.compiled import compiled


class Spots(nn.Module):
    """How much stronger the strongest answer of each colour filter is in each column than in the middle one of them.

    A filter answers most to the colours furthest out in its direction, wherever they stand, even where they are a few
    pixels that wide filters blur away. Walls, floor and sky answer alike in every column, and the median over the
    columns takes them out: what is left is what stands in one column and not in the others.

    Finding the strongest pixels is what costs, and `pick` does it apart: an answer at a pixel that was the strongest a
    few updates ago is too small by a term of second order in what the filters have moved since (the envelope theorem).

    Args:
        channels: C of a frame.
        filters: F, how many.
        columns: K, equal parts of the frame's width.
    """

    AT_ONCE = 4  # frames whose answers stay in a processor's cache
    AT_ONCE_ELSEWHERE = 256  # a GPU's, whose answers are 0.45 GB for frames of 72 x 96 pixels
    GAIN = 12.0  # what is left after the median is about as large as other features are

    def __init__(self, channels: int, filters: int = 64, columns: int = 6):
        super().__init__()
        self.columns = columns
        weight = F.normalize(torch.randn(filters, channels), dim=-1)
        self.weight = nn.Parameter(self.GAIN * weight)
        self.d_out = filters * columns

    def pick(self, frames: Tensor) -> Tensor:
        """The pixels [N, F, K, C] that answer most, as they are in frames [N, H, W, C].

        RGB bytes on the CPU are searched by a loop that numba compiles, which asks each colour of a column once. Other
        frames are searched pixel by pixel by torch, and so are all where torch compiles or exports.
        """
        rgb_bytes = frames.dtype == torch.uint8 and frames.shape[3] == 3
        on_cpu = frames.device.type == "cpu" and self.weight.dtype == torch.float32
        if rgb_bytes and on_cpu and not torch.compiler.is_compiling():
            return self._pick_colours(frames)
        return self._pick_pixels(frames)

    def forward(self, picked: Tensor, scale: float = 1.0) -> Tensor:
        """Answers [N, F * K] to picked pixels [N, F, K, C], whose values times `scale` are read."""
        answers = (picked * (scale * self.weight)[:, None]).sum(-1)  # (N, F, K)
        # torch's median, by an operation that ONNX has.
        middle = (self.columns - 1) // 2
        median = answers.sort(-1).values[..., middle : middle + 1]
        return (answers - median).flatten(1)

    def _pick_colours(self, frames: Tensor) -> Tensor:
        picked = frames.new_empty(len(frames), len(self.weight), self.columns, 3)
        by_channel = self.weight.detach().T.contiguous().numpy()
        compiled(_strongest_colours)(frames.contiguous().numpy(), by_channel, picked.numpy())
        return picked

    @torch.no_grad()
    def _pick_pixels(self, frames: Tensor) -> Tensor:
        n, height, width, channels = frames.shape
        on_cpu = frames.device.type == "cpu"
        at_once = min(n, self.AT_ONCE if on_cpu else self.AT_ONCE_ELSEWHERE)
        weight = self.weight.T.contiguous()
        answers = weight.new_empty(at_once * height * width, len(self.weight))
        found = []
        for part in frames.split(at_once):
            here = answers[: len(part) * height * width]
            torch.mm(part.reshape(-1, channels).to(weight.dtype), weight, out=here)
            planes = here.view(len(part), height, width, -1).permute(0, 3, 1, 2)
            kernel = (height, -(-width // self.columns))
            found.append(F.max_pool2d(planes, kernel, ceil_mode=True, return_indices=True)[1])
        where = torch.cat(found).flatten(1)  # (N, F * K), as row * W + column
        pixels = frames.flatten(1, 2).gather(1, where[..., None].expand(-1, -1, channels))
        return pixels.unflatten(1, (len(self.weight), -1))


def _strongest_colours(frames: np.ndarray, weight: np.ndarray, picked: np.ndarray) -> None:
    """Writes into `picked` [N, F, K, 3] the colours of uint8 frames [N, H, W, 3] that answer most to weight [3, F].

    What a column has seen already is known by a table of the last colour in each of its places, which may forget.
    Whole numbers are of 32 bits, as the answers are, so that a processor takes as many of them at once.
    """
    n, height, width, _ = frames.shape
    n_filters, columns = picked.shape[1], picked.shape[2]
    wide = -(-width // columns)
    red, green, blue = weight[0], weight[1], weight[2]
    best, strongest = np.empty(n_filters, np.float32), np.empty(n_filters, np.int32)
    seen = np.empty(1024, np.int32)
    for i in range(n):
        for k in range(columns):
            best[:] = -np.inf
            strongest[:] = 0
            seen[:] = -1
            for y in range(height):
                for x in range(k * wide, min((k + 1) * wide, width)):
                    r, g, b = frames[i, y, x, 0], frames[i, y, x, 1], frames[i, y, x, 2]
                    colour = np.int32((np.int32(r) << 16) | (np.int32(g) << 8) | np.int32(b))
                    # Knuth's multiplicative hash.
                    place = ((np.int64(colour) * 2654435761) >> 22) & 1023
                    if seen[place] == colour:
                        continue
                    seen[place] = colour
                    r_, g_, b_ = np.float32(r), np.float32(g), np.float32(b)
                    for f in range(n_filters):
                        answer = red[f] * r_ + green[f] * g_ + blue[f] * b_
                        stronger = answer > best[f]
                        best[f] = answer if stronger else best[f]
                        strongest[f] = colour if stronger else strongest[f]
            for f in range(n_filters):
                picked[i, f, k, 0] = strongest[f] >> 16
                picked[i, f, k, 1] = (strongest[f] >> 8) & 255
                picked[i, f, k, 2] = strongest[f] & 255
