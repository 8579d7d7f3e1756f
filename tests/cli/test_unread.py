"""A reader of a command's output that goes away, as `| head` does: the command ends as it would, its files written."""

import contextlib
import os
import subprocess
import sys

import pytest

from ct_rl import evaluate, export
from ct_rl.errors import run_command
from ct_rl.report import __main__ as report
from ct_rl.unread import is_unread, unread_output
from tests.cli.conftest import ROOT


@contextlib.contextmanager
def unread():
    """Standard output that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stream, contextlib.redirect_stdout(stream):
        yield stream


@pytest.mark.parametrize(
    ("program", "words", "wrote"),
    [
        (evaluate, ["--episodes", "1", "--max-steps", "5", "--out", "."], "evaluations/*.json"),
        (report, ["--out", "page.html"], "page.html"),
        (export, ["exported"], "exported/README.md"),
    ],
)
def test_files_are_written_and_the_status_is_what_it_would_be(
    trained, tmp_path, monkeypatch, program, words, wrote
):
    monkeypatch.chdir(tmp_path)
    run, *_ = trained
    with unread():
        assert run_command(lambda: program.command([str(run.resolve()), *words])) == 0
    assert list(tmp_path.glob(wrote))


def test_what_is_printed_afterwards_is_dropped_and_can_be_asked_about():
    with unread() as before:
        with unread_output():
            assert not is_unread(sys.stdout)
            print("nobody reads it", flush=True)
            assert is_unread(sys.stdout)
            print("nor this", flush=True)
        assert sys.stdout is before


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words", [("ct_rl",), ("ct_rl.train", "--help"), ("ct_rl", "lm", "prepare", "--help")]
)
def test_a_listing_ends_without_a_word(words, unbuffered):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 0)


def test_errors_that_nobody_reads_do_not_change_the_status():
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "ct_rl.train", "--rate", "0"],
            stdout=stream,
            stderr=stream,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert done.returncode == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_and_no_traceback():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ct_rl"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no space left") and done.stderr.count("\n") == 1
