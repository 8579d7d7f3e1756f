"""Cleans up behind a run that cannot do so itself, because it was killed.

Started beside Ray as `python reaper.py FOLDER PROCESS`; it waits until its standard input closes, which the kernel
does when the run ends in any way. Then it ends every process of Ray's that is left, except the run's own PROCESS, and
removes Ray's folder. Standard library only: it is a process of its own for the whole run.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

MARK = "CT_RL_RAY_FOLDER"


def processes_of(folder: str, spare: int) -> list[int]:
    """The ids of the processes that bear the run's mark or hold files in its folder, without `spare`.

    Some of Ray's overwrite their environment with a title; those have their logs open in the folder.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in (spare, os.getpid()):
            with contextlib.suppress(OSError):
                if _is_marked(entry, folder) or _holds_files(entry, folder):
                    found.append(int(entry.name))
    return found


def _is_marked(process: Path, folder: str) -> bool:
    return f"{MARK}={folder}".encode() in (process / "environ").read_bytes().split(b"\0")


def _holds_files(process: Path, folder: str) -> bool:
    for link in (process / "fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(link).startswith(folder + "/"):
                return True
    return False


def reap(folder: str, spare: int) -> None:
    """End the run's processes, those that start meanwhile included, and remove its folder."""
    for _ in range(20):
        left = processes_of(folder, spare)
        for process in left:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        if not left:
            break
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    reap(sys.argv[1], int(sys.argv[2]))
