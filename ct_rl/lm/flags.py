"""The command line of a dataclass, complaints as one line."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import tyro

from ct_rl.errors import UserError, nearest

Flags = TypeVar("Flags")


def parse(cls: type[Flags], argv: list[str], prog: str, default: Flags | None = None) -> Flags:
    """What the flags give on top of `default`; `--help` prints and exits 0.

    Raises:
        UserError: for a flag or value that does not fit, naming the nearest flag.
    """
    settings: dict[str, Any] = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed, unknown = tyro.cli(
                cls, args=argv, prog=f"python -m {prog}", return_unknown_args=True, **settings
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{_plain(complaint.getvalue())}; see python -m {prog} --help") from None
    if unknown:
        name = unknown[0].partition("=")[0]
        known = [f"--{flag}" for flag in _names(cls)]
        what = "unknown option" if name.startswith("-") else "unexpected argument"
        raise UserError(f"{what} {name}{nearest(name, known)}; see python -m {prog} --help")
    if default is not None:
        _keep_options(parsed, default)
    return parsed


def value_of(argv: list[str], flag: str) -> str | None:
    """The value of `--flag VALUE` or `--flag=VALUE`, read before the others; None where absent."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
        if word == flag:
            if not following or following.startswith("--"):
                raise UserError(f"{flag} needs a value")
            return following
    return None


def _keep_options(parsed: Any, default: Any) -> None:
    """NAME=VALUE flags replace the names they give and keep the others."""
    for item in fields(parsed):
        given, before = getattr(parsed, item.name), getattr(default, item.name)
        if is_dataclass(given):
            _keep_options(given, before)
        elif isinstance(given, dict):
            setattr(parsed, item.name, {**before, **given})


def _names(cls: Any) -> list[str]:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(cls, args=["--help"])
    return re.findall(r"--([a-z][\w.-]*)", text.getvalue())


def _plain(box: str) -> str:
    """The first paragraph of tyro's framed complaint."""
    words: list[str] = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines():
        text = line.strip("│ \t")
        if set(text) <= set("─╭╮╰╯") and words:
            break
        if text and not text.startswith(("╭", "╰")):
            words.append(text)
    return " ".join(words)
