"""All commands of this package: `python -m ct_rl` lists them, `ct-rl train ...` (or `python -m ct_rl ...`) runs one."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ct_rl.errors import DONE, UserError, nearest, one_line, run_command

COMMANDS = ("train", "evaluate", "experiment", "report", "export", "suite", "lm")


def main() -> None:
    """What `ct-rl` runs."""
    sys.exit(run_command(lambda: command(sys.argv[1:])))


def command(words: list[str]) -> int:
    """List the commands, or run the one that `words` begin with."""
    if not words or words[0] in ("-h", "--help"):
        print(listing())
        return DONE
    known = [name for name in COMMANDS if _source(name) is not None]
    if words[0] not in known:
        hint = nearest(words[0], known) or f"; choose one of {', '.join(known)}"
        raise UserError(f"unknown command {one_line(words[0])[:80]!r}{hint}")
    sys.argv = [f"ct_rl.{words[0]}", *words[1:]]
    import_module(_module(words[0])).main()
    return DONE


def listing() -> str:
    """The commands, each with the first line that its module says of itself."""
    lines = [
        "usage: ct-rl COMMAND ... (or python -m ct_rl.COMMAND ...); COMMAND --help says more",
        "",
    ]
    for name in COMMANDS:
        source = _source(name)
        if source is not None:
            text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
            lines.append(
                f"  {name:<11} {one_line(text.splitlines()[0]).partition(': `')[0].rstrip('.')}"
            )
    return "\n".join(lines)


def _source(name: str) -> Path | None:
    """Where a command is written, found without importing it; None where it does not exist."""
    found = find_spec(f"ct_rl.{name}")
    return None if found is None or found.origin is None else Path(found.origin)


def _module(name: str) -> str:
    """A package's command lies in its __main__."""
    found = find_spec(f"ct_rl.{name}")
    package = found is not None and found.submodule_search_locations is not None
    return f"ct_rl.{name}.__main__" if package else f"ct_rl.{name}"


if __name__ == "__main__":
    main()
