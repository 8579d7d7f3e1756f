"""The level cache: compiled maps in a local folder that any number of processes share."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

MAX_BYTES = 4 * 1024**3


def default_folder() -> Path:
    """Where compiled maps are kept unless a setting says otherwise: below $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ct_rl" / "dmlab"


class LevelCache:
    """What `deepmind_lab.Lab(level_cache=...)` calls: `fetch` and `write` of compiled maps.

    Files appear whole or not at all, so processes need no lock; the longest unused go when there are too many.
    A cache only saves time: a folder that cannot be read or written costs one warning, never the episode
    (whatever these methods raise would come out of the engine's reset).

    Args:
        folder: made when the first map is written.
        max_bytes: of all files together.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES):
        self.folder, self.max_bytes = Path(folder), max_bytes
        self._warned = False

    def fetch(self, key: str, pk3_path: str) -> bool:
        """Copies the map `key` to `pk3_path`; False where it is not there."""
        path = self._path(key)
        try:
            shutil.copyfile(path, pk3_path)
        except FileNotFoundError:
            return False
        except OSError as error:
            self._warn(error)
            return False
        with contextlib.suppress(OSError):
            os.utime(path)
        return True

    def write(self, key: str, pk3_path: str) -> None:
        """Keeps a copy of `pk3_path` as the map `key`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            number, partial = tempfile.mkstemp(prefix=".partial-", dir=self.folder)
            os.close(number)
            try:
                shutil.copyfile(pk3_path, partial)
                os.replace(partial, self._path(key))
            finally:
                Path(partial).unlink(missing_ok=True)
            self._trim()
        except OSError as error:
            self._warn(error)

    def _path(self, key: str) -> Path:
        # Keys come from the engine: a digest is a file name wherever it comes from.
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.pk3"

    def _trim(self) -> None:
        """Removes the longest unused maps until the rest fits; another process may remove them first."""
        files = []
        for path in self.folder.glob("*.pk3"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files)[:-1]:
            if total <= self.max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            print(f"warning: level cache {self.folder}: {error}", file=sys.stderr, flush=True)
        self._warned = True
