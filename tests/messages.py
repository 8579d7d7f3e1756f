"""The messages that the code can end with, read off its sources, and the messages that a page tells about."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LANGUAGE = "The language model"  # a table for messages of `ct_rl.lm` alone
LEAST = 8  # letters of a message's own; what has fewer passes on another's words
GAP = "\0"  # what an f-string fills in
ENDS = ("UserError", "RunFailed", "Invalid", "LearnerFailed", "LearnerDied", "RunnerFailed")
# Errors of Python's own are for programmers, but for what looks at the values that a person gave.
DOORS = (
    "ct_rl/command_line.py",
    "ct_rl/config.py",
    "ct_rl/reader.py",
    "ct_rl/sections.py",
    "ct_rl/lm/build.py",
    "ct_rl/lm/config.py",
    "ct_rl/memory/options.py",
    "ct_rl/memory/registry.py",
    "ct_rl/memory/compressive/core.py",
    "ct_rl/memory/compressive/plan.py",
    "agents/auxiliary/registry.py",
    "agents/critics.py",
    "agents/encoders/build.py",
    "agents/encoders/images.py",
    "agents/encoders/registry.py",
    "agents/encoders/values.py",
    "envs/actions.py",
    "envs/registry.py",
    "envs/third_party.py",
    "envs/dmlab/make.py",
    "envs/dmlab/settings.py",
    "envs/room/settings.py",
)
DOOR_ERRORS = (*ENDS, "ValueError", "TypeError", "MissingDependencyError")
SAVED = ("Unreadable", "Damaged")  # of files, wherever they are raised


def messages() -> Iterator[tuple[str, str]]:
    """`file:line` and text of every message; those that only pass on another's words are left out."""
    for folder in ("ct_rl", "agents", "envs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            place = path.relative_to(ROOT).as_posix()
            names = (DOOR_ERRORS if place in DOORS else ENDS) + SAVED
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or _name(node.func) not in names:
                    continue
                # `Invalid(where, problem)` has its words in the second place.
                words = node.args[1:] if _name(node.func) == "Invalid" else node.args[:1]
                text = _text(words[0]) if words else GAP
                if len(re.findall("[a-z]", text)) >= LEAST:
                    yield f"{place}:{node.lineno}", text


def quoted(page: str) -> list[tuple[str, str]]:
    """Heading of its table, and text, of what stands between backticks in the first column of a page's tables."""
    found, heading = [], ""
    for line in page.splitlines():
        if line.startswith("## "):
            heading = line[3:]
        elif line.startswith("| `"):
            found += [(heading, text) for text in re.findall(r"`([^`]+)`", line.split(" | ")[0])]
    return found


def tells(kind: tuple[str, str], place: str, message: str) -> bool:
    """Whether a quoted message, with `...` for what belongs to the case, is that message."""
    heading, text = kind
    if heading == LANGUAGE and not place.startswith("ct_rl/lm/"):
        return False
    parts = [re.escape(part.strip()) for part in text.split("...")]
    return re.search(".*".join(parts), message, re.DOTALL) is not None


def _name(node: ast.expr) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.BoolOp):
        return _text(node.values[-1])
    return GAP
