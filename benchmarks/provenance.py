"""Where a figure comes from: the commit and the machine, as every benchmark's JSON names them."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch


def commit(checkout: Path = Path(__file__).parent) -> str:
    """The short hash of a checkout (this one), with "-dirty" where files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def machine(used: str | None = None) -> str:
    """Processor and torch; `used` says how much of the machine was used, all cores where absent."""
    return f"{processor()}, {used or f'{os.cpu_count()} cores'}, torch {torch.__version__}"


def processor() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
