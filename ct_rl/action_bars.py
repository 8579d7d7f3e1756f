"""The policy of a step as bars: probabilities of discrete actions, mean and deviation of continuous ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ct_rl.drawing import FAINT, GOOD, INK, PANEL, Box, fill, text

_ROW = 19  # the least height [pixels]


def draw_choices(frame: np.ndarray, box: Box, choices: Sequence[Any], taken: Sequence[str]) -> None:
    """Bars in `box`; where there are too many, those `taken` and of the greatest probability. The taken are marked."""
    x, y, width, height = box
    rows = max(1, height // _ROW)
    discrete = all(len(choice) == 2 for choice in choices)
    shown = list(choices)
    if len(shown) > rows:
        if discrete:
            order = sorted(
                range(len(shown)), key=lambda i: (shown[i][0] not in taken, -shown[i][1])
            )
            best = order[: rows - 1]
            shown = [shown[i] for i in sorted(best)]
        else:
            shown = shown[: rows - 1]
        text(frame, f"and {len(choices) - len(shown)} more", (x, y + len(shown) * _ROW), 12, FAINT)
    names = 150
    for i, (name, *numbers) in enumerate(shown):
        top = y + i * _ROW
        mine = name in taken
        text(
            frame,
            name.replace("_", " "),
            (x, top),
            12,
            INK if mine else FAINT,
            bold=mine,
            most=names - 8,
        )
        if not discrete:
            mean, deviation = numbers
            text(frame, f"{mean:+.2f} \u00b1 {deviation:.2f}", (x + names, top), 12)
            continue
        (share,) = numbers
        bar = width - names - 48
        fill(frame, (x + names, top + 2, bar, 12), PANEL)
        fill(frame, (x + names, top + 2, bar * share, 12), GOOD if mine else FAINT)
        text(
            frame,
            f"{100 * share:.0f} %",
            (x + width, top),
            12,
            INK if mine else FAINT,
            align="right",
        )
