"""PG-19's books: one text file each, in train/, validation/ and test/."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ct_rl.errors import UserError
from ct_rl.lm.corpus import SPLITS
from ct_rl.lm.download import Remote, download

_HOST = "https://storage.googleapis.com"
_BUCKET = "deepmind-gutenberg"
_FOLDERS = {"train": ("train",), "valid": ("validation", "valid"), "test": ("test",)}


def find(folder: Path, split: str) -> list[Path]:
    """A split's books in a local folder; raises UserError where there are none."""
    names = _FOLDERS[split]
    for name in names:
        books = sorted((folder / name).glob("*.txt"))
        if books:
            return books
    raise UserError(
        f"{folder} has no books in {' or '.join(names)}/: PG-19 has them in three folders"
    )


def fetch(folder: Path, host: str | None = None) -> Path:
    """All books into `folder`, each checked; what is there is kept, so a broken fetch goes on.

    Args:
        host: of the storage service, for a mirror.
    """
    host = (host or _HOST).rstrip("/")
    for split in SPLITS:
        name = _FOLDERS[split][0]
        for number, book in enumerate(_listed(host, f"{name}/")):
            digest = base64.b64decode(book["md5Hash"]).hex()
            url = f"{host}/{_BUCKET}/{book['name']}"
            download(Remote(url, int(book["size"]), f"md5:{digest}"), folder / name)
            if number % 500 == 0:
                print(f"PG-19 {name}: book {number + 1:,}", flush=True)
    return folder


def _listed(host: str, prefix: str) -> Iterator[dict[str, Any]]:
    """The bucket's objects under a prefix, page by page (the storage service's JSON interface)."""
    token = ""
    while True:
        query = urllib.parse.urlencode(
            {"prefix": prefix, "fields": "items(name,size,md5Hash),nextPageToken"}
            | ({"pageToken": token} if token else {})
        )
        url = f"{host}/storage/v1/b/{_BUCKET}/o?{query}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                page = json.load(answer)
        except (urllib.error.URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise UserError(
                f"PG-19's list of books cannot be fetched from {host} ({reason}): try again, or give a folder "
                "with train/, validation/ and test/ as --from"
            ) from None
        yield from (item for item in page.get("items", ()) if item["name"].endswith(".txt"))
        token = page.get("nextPageToken", "")
        if not token:
            return
