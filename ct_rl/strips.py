"""Strips of the attention film: rows of one axis of time that ends at the present step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ct_rl.drawing import BAD, CURVE, FAINT, GOOD, INK, PANEL, PLACES, fill, text
from ct_rl.insight import Attended

_ROWS = 8  # layers that are drawn at most, evenly spaced
_MARK = (96, 100, 112)  # trials


@dataclass(frozen=True)
class Axis:
    """The last `span` steps between the pixels `left` and `right`; the present step is the last column."""

    left: int
    right: int
    span: int

    def x(self, step: float, now: int) -> float:
        """Where a step's column begins; steps before the axis lie at its left end."""
        column = (self.right - self.left) / self.span
        return max(self.left, self.right - (now + 1 - step) * column)

    def ticks(self, frame: np.ndarray, y: int) -> None:
        """How long ago, below a strip."""
        every = next(n for n in (10, 20, 50, 100) if self.span / n <= 7)
        text(frame, "now", (self.right, y), 11, FAINT, align="right")
        for ago in range(every, self.span, every):
            x = round(self.x(0, ago))
            text(frame, f"\u2212{ago}", (x, y), 11, FAINT, align="middle")


def draw_value(
    frame: np.ndarray,
    axis: Axis,
    place: tuple[int, int],
    now: int,
    values: Sequence[float],
    rewards: Sequence[float],
    trials: Sequence[int | None],
) -> None:
    """The value as a curve; rewards as bars up and down, each the answer to the step before; trials as lines.

    Args:
        place: upper edge and height.
    """
    y, height = place
    fill(frame, (axis.left, y, axis.right - axis.left, height), PANEL)
    begin = max(0, now + 1 - axis.span)
    for step in range(max(begin, 1), min(now + 1, len(trials))):
        if trials[step] != trials[step - 1]:
            x = round(axis.x(step, now))
            fill(frame, (x, y, 1, height), _MARK)
            if axis.right - x > 60:
                text(frame, f"trial {(trials[step] or 0) + 1}", (x + 8, y), 11, FAINT)
    shown = rewards[begin : now + 1]
    most = max((abs(reward) for reward in shown), default=0.0)
    middle = y + height / 2
    for step, reward in enumerate(shown, begin):
        if reward:
            # A small one is seen beside a large one too.
            size = max(4.0, (height / 2 - 2) * abs(reward) / most)
            top = middle - size if reward > 0 else middle
            column = (axis.right - axis.left) / axis.span
            box = (axis.x(step, now), top, max(3.0, column - 1), size)
            fill(frame, box, GOOD if reward > 0 else BAD)
    seen = np.asarray(values[begin : now + 1], np.float64)
    if not len(seen):
        return
    low, high = float(seen.min()), float(seen.max())
    extent = max(high - low, 1e-9)
    xs = [axis.x(step + 0.5, now) for step in range(begin, begin + len(seen))]
    ys = y + height - 5 - (seen - low) / extent * (height - 10)
    line = np.rint(np.stack([xs, ys], 1) * 16).astype(np.int32)
    cv2.polylines(frame, [line], False, CURVE, 2, cv2.LINE_AA, 4)
    text(frame, f"{seen[-1]:.2f}", (axis.left - 6, y + height - 18), 12, CURVE, align="right")


def short(number: float) -> str:
    """A number of one or two digits that count."""
    return f"{number:.2g}" if number >= 1e-3 else f"{number:.1g}"


def _layers(count: int) -> list[int]:
    """Which layers are drawn."""
    return np.unique(np.linspace(0, count - 1, min(count, _ROWS)).round().astype(int)).tolist()


def draw_shares(
    frame: np.ndarray, axis: Axis, y: int, height: int, now: int, shares: Sequence[np.ndarray]
) -> int:
    """Each layer's attention at each step as a column of three colours; gives the lower edge."""
    layers = _layers(len(shares[0]))
    row = height // len(layers)
    begin = max(0, now + 1 - axis.span)
    for k, layer in enumerate(layers):
        top = y + k * row
        fill(frame, (axis.left, top, axis.right - axis.left, row - 2), PANEL)
        text(frame, f"{layer + 1}", (axis.left - 6, top + (row - 16) // 2), 11, INK, align="right")
        for step in range(begin, min(now + 1, len(shares))):
            x, to = round(axis.x(step, now)), round(axis.x(step + 1, now))
            ends = top + np.rint(np.cumsum([0.0, *shares[step][layer]]) * (row - 2)).astype(int)
            for kind in range(3):
                frame[ends[kind] : ends[kind + 1], x:to] = PLACES[kind]
    return y + len(layers) * row


def draw_looks(
    frame: np.ndarray,
    axis: Axis,
    y: int,
    height: int,
    now: int,
    look: Attended,
    weights: np.ndarray,
    unit: str = "share",
) -> int:
    """A bar for each place of the memory, as wide as the steps that it holds; gives the lower edge.

    Args:
        weights: [L, N], drawn to the scale of each row's largest, which is written at its left.
    """
    layers = _layers(len(weights))
    row = height // len(layers)
    for k, layer in enumerate(layers):
        top = y + k * row
        fill(frame, (axis.left, top, axis.right - axis.left, row - 2), PANEL)
        most = float(weights[layer].max())
        said = f"{100 * most:.0f} %" if unit == "share" else short(most)
        if row >= 16 or k == 0:
            text(frame, said, (axis.left - 6, top), 11, FAINT, align="right")
        if unit == "share" and row >= 12:
            text(frame, f"{layer + 1}", (axis.left - 50, top), 11, INK, align="right")
        if unit == "nats" and most < 1e-4:
            continue  # nothing that would be seen in the policy
        for n in range(len(look.first)):
            x, to = (
                round(axis.x(int(look.first[n]), now)),
                round(axis.x(int(look.last[n]) + 1, now)),
            )
            tall = round((row - 4) * float(weights[layer, n]) / max(most, 1e-9))
            frame[top + row - 2 - tall : top + row - 2, x : max(to - 1, x + 1)] = PLACES[
                look.kind[n]
            ]
    return y + len(layers) * row


def picks(look: Attended, weight: np.ndarray, now: int, span: int, count: int = 5) -> list[int]:
    """The places of greatest weight, oldest first: neighbours of a greater one and the present step left out."""
    apart = max(2, span // 24)
    least = max(1e-4, 0.02 * float(weight.max(initial=0.0)))
    chosen: list[int] = []
    for n in map(int, np.argsort(-weight, kind="stable")):
        if len(chosen) == count or weight[n] < least:
            break
        if look.first[n] == now:
            continue
        if all(abs(int(look.middle[n]) - int(look.middle[m])) >= apart for m in chosen):
            chosen.append(n)
    return sorted(chosen)
