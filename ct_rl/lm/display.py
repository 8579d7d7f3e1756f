"""What a run shows while it goes on, and the device's own speed beside it."""

from __future__ import annotations

import math
import os
import sys
import time
from typing import Any, TextIO

import torch


def measure_matrix_rate(device: torch.device, precision: str, seconds: float = 0.3) -> float:
    """Floating-point operations a second of the device's own matrix product, the best of several."""
    size = 4096 if device.type == "cuda" else 512
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end or best == math.inf:
        begun = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def loss_figure(nats: float, kind: str) -> tuple[str, float]:
    """A mean loss [nats a token] in the unit of its kind of token: bpc, bits a sample, or perplexity."""
    if kind == "bytes":
        return "bpc", nats / math.log(2)
    if kind == "audio":
        return "bits/sample", nats / math.log(2)
    return "perplexity", math.exp(min(nats, 700.0))


def clock(seconds: float) -> str:
    """3725 as 1:02:05."""
    whole = int(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


class Display:
    """Lines of progress; on a terminal, rows of training overwrite each other."""

    def __init__(self, stream: TextIO | None = None):
        # A closed standard output is None.
        self.stream = stream or sys.stdout or open(os.devnull, "w")  # noqa: SIM115
        self._live = self.stream.isatty()
        self._open = False

    def say(self, text: str) -> None:
        """A line that stays."""
        self._print(("\n" if self._open else "") + text + "\n")
        self._open = False

    def _print(self, text: str) -> None:
        """A reader that goes away does not end the run."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except BrokenPipeError:
            gone = self.stream.fileno()
            self.stream = open(os.devnull, "w")  # noqa: SIM115
            os.dup2(self.stream.fileno(), gone)

    def row(self, row: dict[str, Any], steps: int, kind: str) -> None:
        """One report of training."""
        unit, value = loss_figure(row["loss"], kind)
        words = [f"{row['step']:,}/{steps:,}", f"train {value:.3f} {unit}"]
        if "valid_loss" in row:
            words.append(f"valid {loss_figure(row['valid_loss'], kind)[1]:.3f}")
        words += [
            f"{row['tokens_per_second']:,.0f} tokens/s",
            f"{clock(row['seconds_left'])} left",
            f"{row['matrix_share']:.0%} of the matrix rate",
        ]
        text = "  ".join(words)
        if self._live and "valid_loss" not in row:
            self._print(f"\r\x1b[2K{text}")
            self._open = True
        else:
            self._print(("\r\x1b[2K" if self._open else "") + text + "\n")
            self._open = False
