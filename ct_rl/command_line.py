"""The command line of dataclasses: tyro's parsing and help, errors as one line.

Order of precedence: the dataclasses' defaults, then the recipe, then the flags.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import tyro

from ct_rl.errors import UserError, nearest

Config = TypeVar("Config")


def parse(
    cls: type[Config], argv: list[str], *, prog: str, default: Config | None = None
) -> Config:
    """The configuration that the flags give on top of `default`; raises UserError in one line.

    `--help` prints and exits 0. A flag that tyro does not know is named with the nearest known one.
    """
    settings: dict[str, Any] = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            parsed, unknown = tyro.cli(
                cls, args=argv, prog=prog, return_unknown_args=True, **settings
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_from_box(complaint.getvalue(), prog)) from None
    if unknown:
        raise UserError(_unknown(unknown[0], cls, prog, default))
    if default is not None:
        _merge_options(parsed, default)
    return parsed


def flag_value(argv: list[str], flag: str) -> str | None:
    """The value of `--flag VALUE` or `--flag=VALUE`, read before the other flags; None when absent."""
    value = None
    for position, word in enumerate(argv):
        if word == flag:
            if position + 1 == len(argv) or argv[position + 1].startswith("--"):
                raise UserError(f"{flag} needs a value")
            value = argv[position + 1]
        elif word.startswith(flag + "="):
            value = word.partition("=")[2]
    return value


def _merge_options(parsed: Any, default: Any) -> None:
    """KEY=VALUE flags replace the keys they name and keep the recipe's others."""
    for item in fields(parsed):
        given, before = getattr(parsed, item.name), getattr(default, item.name)
        if is_dataclass(given):
            _merge_options(given, before)
        elif isinstance(given, dict):
            setattr(parsed, item.name, {**before, **given})


def _unknown(word: str, cls: type, prog: str, default: Any) -> str:
    if not word.startswith("-"):
        return f"unexpected argument {word!r}; see python -m {prog} --help"
    name = word.partition("=")[0]
    hint = nearest(name, _flags(cls, prog, default))
    return f"unknown option {name}{hint}; see python -m {prog} --help"


def _flags(cls: type, prog: str, default: Any) -> list[str]:
    text = io.StringIO()
    settings = {} if default is None else {"default": default}
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(cls, args=["--help"], prog=prog, **settings)
    return sorted(set(re.findall(r"--[a-z][\w.-]*", text.getvalue())))


def _from_box(box: str, prog: str) -> str:
    """The first paragraph of tyro's framed complaint, frame and colours taken off."""
    words: list[str] = []
    for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines():
        text = line.strip("│ \t")
        if set(text) <= set("─╭╮╰╯") and words:
            break
        if not text.startswith(("╭", "╰")) and text:
            words.append(text)
    return f"{' '.join(words)}; see python -m {prog} --help"


def program_arguments() -> list[str]:
    """The words behind the program's name."""
    return sys.argv[1:]
