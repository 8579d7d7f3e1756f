"""`python -m ct_rl.lm train|eval|sample|prepare`: the memory core as a language and speech model."""

from __future__ import annotations

import importlib
import sys

from ct_rl.command_line import program_arguments
from ct_rl.errors import DONE, UserError, nearest, run_command

COMMANDS = {
    "train": ("ct_rl.lm.train", "train a model on text or sound"),
    "eval": ("ct_rl.lm.eval", "bpc and perplexity of a trained model, and its figures"),
    "sample": ("ct_rl.lm.sample_command", "text or sound from a trained model"),
    "prepare": ("ct_rl.lm.prepare", "download and map enwik8, text8, wikitext103, pg19"),
}


def command(argv: list[str]) -> int:
    """Run the command that `argv` begins with."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m ct_rl.lm COMMAND [--help]")
        for name, (_, what) in COMMANDS.items():
            print(f"  {name:8} {what}")
        return DONE
    if argv[0] not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise UserError(
            f"unknown command {argv[0]!r}{nearest(argv[0], list(COMMANDS))}: choose one of {known}"
        )
    return importlib.import_module(COMMANDS[argv[0]][0]).command(argv[1:])


def main() -> None:
    """What `python -m ct_rl.lm` runs."""
    sys.exit(run_command(lambda: command(program_arguments())))


if __name__ == "__main__":
    main()
