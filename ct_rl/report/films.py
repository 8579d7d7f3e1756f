"""Videos inside a page: as data, newest of every run first, up to a size."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal

from ct_rl.plain_files import Unreadable, read_bytes
from ct_rl.report.material import Run


def embedded(runs: Sequence[Run], most: int) -> tuple[dict[Path, str], list[str]]:
    """Addresses that hold the videos themselves, and a line about each that is left out.

    Args:
        most: bytes of all videos together.
    """
    chosen: dict[Path, str] = {}
    left_out = []
    films = sorted(
        ((place, run, path) for run in runs for place, path in enumerate(run.videos)),
        key=lambda item: item[0],
    )
    for _, run, path in films:
        try:
            content = read_bytes(path, most)
        except FileNotFoundError:
            continue
        except Unreadable:
            content = b""
            size = path.stat().st_size if path.is_file() else 0
            if size <= most:
                left_out.append(f"{run.name}: the video {path.name} cannot be read and is left out")
                continue
        if content and content[4:8] != b"ftyp":
            left_out.append(f"{run.name}: {path.name} is no MP4 file and is left out")
        elif content:
            most -= len(content)
            chosen[path] = "data:video/mp4;base64," + base64.b64encode(content).decode()
        else:
            left_out.append(f"{run.name}: the video {path.name} ({decimal(path.stat().st_size)}) is left out: "
                            f"{decimal(most)} are left for it (--video-mb)")  # fmt: skip
    return chosen, left_out
