"""Downloads that go on where they were cut off, and take nothing half for whole."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ct_rl.errors import UserError, is_disk_error, os_message

_PIECE = 1 << 18
_TRIES = 5

Watch = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    Attributes:
        size: in bytes; None where unknown.
        checksum: "sha256:...", "sha1:..." or "md5:..."; None where unknown.
    """

    url: str
    size: int | None = None
    checksum: str | None = None

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.url.rsplit("/", 1)[1]


def download(
    remote: Remote, folder: Path, watch: Watch | None = None, patience: float = 1.0
) -> Path:
    """The file in `folder`, whole and checked; what is there already is not fetched again.

    A broken connection is taken up where it broke, in this call up to 5 times and in the next one; until it is whole,
    the file is called NAME.part.

    Args:
        watch: called with the bytes that are there and all of them (None where unknown).
        patience: seconds before the first new try; each next one waits twice as long.

    Raises:
        UserError: where there is no network, the server refuses, the content is not what it should be, or the disk is
            full.
    """
    target, part = folder / remote.name, folder / f"{remote.name}.part"
    if target.is_file():
        wrong = _wrong(remote, target)
        if wrong is not None:
            raise UserError(
                f"'{target}' is not the file that it should be: {wrong}; remove it, and it is fetched"
            )
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(_TRIES):
            try:
                if _fetch(remote, part, watch):
                    break
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise UserError(f"{remote.url}: the server says {error.code}") from None
                reason = f"the server says {error.code}"
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and is_disk_error(error):
                    raise
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            else:
                reason = "the connection broke"
            if attempt + 1 < _TRIES:
                time.sleep(patience * 2**attempt)
        else:
            raise UserError(
                f"{remote.url} cannot be fetched ({reason}; {_there(part):,} bytes are kept): try again, "
                "or give the file with --from where there is no network"
            )
        _check(remote, part)
        os.replace(part, target)
    except OSError as error:
        if not is_disk_error(error):
            raise
        raise UserError(os_message(error, f"downloading {remote.url}")) from None
    return target


def _there(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _fetch(remote: Remote, part: Path, watch: Watch | None) -> bool:
    """One connection: whether the file is whole after it."""
    have = _there(part)
    if remote.size is not None and have == remote.size:
        return True
    request = urllib.request.Request(remote.url, headers={"User-Agent": "ct_rl"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if (
            error.code == 416 and have
        ):  # nothing behind what we have, or it changed: once more from the start
            whole = error.headers.get("Content-Range", "").rpartition("/")[2]
            if whole == str(have):
                return True
            part.unlink()
            return False
        raise
    with answer:
        if have and answer.status != 206:  # a server that cannot go on begins again
            have = 0
        rest = answer.headers.get("Content-Length")
        total = remote.size if rest is None else have + int(rest)
        with open(part, "ab" if have else "wb") as file:
            while piece := answer.read(_PIECE):
                file.write(piece)
                have += len(piece)
                if watch is not None:
                    watch(have, total)
            file.flush()
            os.fsync(file.fileno())
    return total is None or have >= total


def _check(remote: Remote, part: Path) -> None:
    """Raise UserError, and remove what was fetched, where it is not what it should be."""
    wrong = _wrong(remote, part)
    if wrong is not None:
        part.unlink()
        raise UserError(f"{remote.url} is not the file that it should be: {wrong}; try again")


def _wrong(remote: Remote, path: Path) -> str | None:
    """What is wrong with a file, by its size and checksum; None where nothing is."""
    have = _there(path)
    if remote.size is not None and have != remote.size:
        return f"it has {have:,} bytes, not {remote.size:,}"
    if remote.checksum is not None:
        method, _, expected = remote.checksum.partition(":")
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, method).hexdigest()
        if found != expected:
            return f"its {method} is {found}, not {expected}"
    return None
