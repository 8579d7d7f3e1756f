"""Spots: what stands in one column of a frame and not in the others, for objects of few pixels.

Shapes: N frames, H height, W width, C channels, F filters, K columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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

    def fits(self, width: int) -> bool:
        """Whether frames of this width have something in each column: all but the last are equally wide."""
        return (self.columns - 1) * -(-width // self.columns) < width

    def pick(self, frames: Tensor) -> Tensor:
        """The pixels [N, F, K, C] that answer most, as they are in frames [N, H, W, C].

        RGB bytes on the CPU are searched by a loop that numba compiles, which asks each colour of a column once. Other
        frames are searched pixel by pixel by torch, and so are all where torch compiles or exports.
        """
        return self._pick_colours(frames) if self._by_loops(frames) else self._pick_pixels(frames)

    def forward(self, picked: Tensor, scale: float = 1.0) -> Tensor:
        """Answers [N, F * K] to picked pixels [N, F, K, C], whose values times `scale` are read."""
        weight = scale * self.weight
        if self._by_loops(picked):
            found: Tensor = _Answers.apply(weight, picked)
            return found.flatten(1)
        answers = (picked.to(weight.dtype) * weight[:, None]).sum(-1)  # (N, F, K)
        # torch's median, by an operation that ONNX has.
        middle = (self.columns - 1) // 2
        median = answers.sort(-1).values[..., middle : middle + 1]
        return (answers - median).flatten(1)

    def _by_loops(self, pixels: Tensor) -> bool:
        """Whether loops that numba compiles read pixels [..., C]."""
        rgb_bytes = pixels.dtype == torch.uint8 and pixels.shape[-1] == 3
        on_cpu = pixels.device.type == "cpu" and self.weight.dtype == torch.float32
        return rgb_bytes and on_cpu and not torch.compiler.is_compiling()

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


class _Answers(torch.autograd.Function):
    """How much more filters [F, 3] answer to bytes [N, F, K, 3] than to the middle one of them, [N, F, K].

    The bytes are read as they are, once: torch makes floats of them, and passes over those, for each operation.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, picked: Tensor) -> Tensor:
        picked = picked.contiguous()
        answers = weight.new_empty(picked.shape[:3])
        middle = torch.empty(picked.shape[:2], dtype=torch.int16)
        compiled(_answer)(picked.numpy(), weight.detach().numpy(), answers.numpy(), middle.numpy())
        ctx.save_for_backward(picked, middle)
        return answers

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        picked, middle = ctx.saved_tensors
        sums = np.zeros((picked.shape[1], 3))
        compiled(_add_gradient)(picked.numpy(), middle.numpy(), gradient.contiguous().numpy(), sums)
        return torch.from_numpy(sums).to(gradient.dtype), None


def _answer(
    picked: np.ndarray, weight: np.ndarray, answers: np.ndarray, middle: np.ndarray
) -> None:
    """Writes `_Answers` into float32 [N, F, K], and into int16 [N, F] which column is the middle one."""
    n, n_filters, columns, _ = picked.shape
    # Filters last, so that a processor compares as many of them at once as it can.
    raw = np.empty((columns, n_filters), np.float32)
    smaller, place = np.empty(n_filters, np.int32), np.empty(n_filters, np.int32)
    median = np.empty(n_filters, np.float32)
    for i in range(n):
        for f in range(n_filters):
            red, green, blue = weight[f, 0], weight[f, 1], weight[f, 2]
            for k in range(columns):
                r, g, b = picked[i, f, k, 0], picked[i, f, k, 1], picked[i, f, k, 2]
                raw[k, f] = red * np.float32(r) + green * np.float32(g) + blue * np.float32(b)
        # Answers that are no numbers have no middle one.
        median[:] = np.nan
        place[:] = 0
        for k in range(columns):
            smaller[:] = 0
            for j in range(columns):
                for f in range(n_filters):
                    less = raw[j, f] <= raw[k, f] if j < k else raw[j, f] < raw[k, f]
                    smaller[f] += 1 if less else 0
            for f in range(n_filters):
                here = smaller[f] == (columns - 1) // 2
                median[f] = raw[k, f] if here else median[f]
                place[f] = k if here else place[f]
        for f in range(n_filters):
            middle[i, f] = place[f]
            for k in range(columns):
                answers[i, f, k] = raw[k, f] - median[f]


def _add_gradient(
    picked: np.ndarray, middle: np.ndarray, gradient: np.ndarray, sums: np.ndarray
) -> None:
    """Adds to `sums` [F, 3] what a gradient [N, F, K] of `_Answers` is for the filters."""
    n, n_filters, columns, _ = picked.shape
    for i in range(n):
        for f in range(n_filters):
            total = 0.0
            for k in range(columns):
                one = gradient[i, f, k]
                total += one
                for c in range(3):
                    sums[f, c] += one * picked[i, f, k, c]
            for c in range(3):
                sums[f, c] -= total * picked[i, f, middle[i, f], c]


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
