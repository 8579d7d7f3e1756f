"""Pages that tell about commands: what they quote is what the code says; the command that lists all commands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ct_rl import __main__ as commands
from ct_rl.reader import _EXPECTED
from tests.messages import GAP, messages, quoted, tells

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()


def source():
    """The package's code as one line, string literals joined where they go on, without what f-strings fill in."""
    text = " ".join(
        path.read_text()
        for folder in ("ct_rl", "agents", "envs")
        for path in (ROOT / folder).rglob("*.py")
    )
    text = re.sub(r"\"\s*\n?\s*f?\"", "", text)
    return re.sub(r"\s+", " ", text)


KINDS = quoted(PAGE)
QUOTED = [part.strip() for _, text in KINDS for part in text.split("...") if len(part.strip()) > 3]


def test_every_message_on_the_page_is_one_that_the_code_gives():
    text = source()
    # What is put together of parts.
    made = {f"expected {what}, not" for what in (*_EXPECTED.values(), "a text")}
    made |= {"unknown auxiliary loss", "unknown encoder", "more than 100,000 values"}
    made |= {"is not valid YAML at line"}
    missing = [part for part in QUOTED if part not in text and part not in made]
    assert len(QUOTED) > 60 and not missing


def test_every_message_of_the_code_is_on_the_page():
    """A new message needs a row of docs/troubleshooting.md, or words that a row quotes already."""
    said = list(messages())
    missing = [
        f"{place}: {text.replace(GAP, '...')}"
        for place, text in said
        if not any(tells(kind, place, text) for kind in KINDS)
    ]
    assert len(said) > 200 and not missing
    new = f"the tide is out: give {GAP}"
    assert not any(tells(kind, "ct_rl/train.py", new) for kind in KINDS)


def test_no_row_is_so_general_that_it_tells_nothing():
    said = list(messages())
    told = {kind: sum(tells(kind, *message) for message in said) for kind in KINDS}
    assert all(count <= 12 for count in told.values()), max(told, key=lambda kind: told[kind])


def test_the_commands_are_listed_and_run():
    shown = commands.listing()
    for name in ("train", "evaluate", "experiment", "report", "suite"):
        assert re.search(rf"^  {name} +\w", shown, re.MULTILINE)
    said = subprocess.run(
        [sys.executable, "-m", "ct_rl", "train", "--rate", "0"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (said.returncode, said.stderr) == (2, "error: --rate 0 is too small: give 1 or more\n")


@pytest.mark.parametrize(("word", "says"), [("trian", "did you mean 'train'"), ("x", "choose one")])
def test_an_unknown_command_is_one_line(monkeypatch, capsys, word, says):
    monkeypatch.setattr(sys, "argv", ["ct-rl", word])
    with pytest.raises(SystemExit) as stop:
        commands.main()
    assert stop.value.code == 2 and says in capsys.readouterr().err
