"""What a command says and returns when it cannot go on: one line and a status, no traceback."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from ct_rl.unread import unread_output

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

_DISK = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}


class UserError(Exception):
    """Something the person at the keyboard can mend; its text is the one line they read."""


class RunFailed(Exception):
    """The run itself broke (a learner error, a NaN); its text is the one line they read."""


def nearest(word: str, known: Sequence[str]) -> str:
    """`, did you mean 'x'?` when a known word resembles `word`, else an empty string."""
    close = get_close_matches(word[:100], known, n=1, cutoff=0.6)
    return f", did you mean '{close[0]}'?" if close else ""


def suggestion(word: str, known: Sequence[str]) -> str:
    """As `nearest`, or all that is known where nothing resembles `word`."""
    return nearest(word, known) or (f"; known here: {', '.join(known)}" if known else "")


def is_disk_error(error: OSError) -> bool:
    """Whether the error is about the disk or its permissions, not about the program."""
    return error.errno in _DISK


def os_message(error: OSError, doing: str) -> str:
    """One line for what the system refused: why, while doing what, and on which file where that is not said."""
    name = str(error.filename or "")
    where = f" ({name[:200]})" if name and name not in doing else ""
    why = _DISK.get(error.errno or 0) or (error.strerror or str(error)).lower()
    return f"{why} while {doing[:300]}{where}"


def one_line(text: object) -> str:
    """The text with every run of white space, line breaks included, as one blank."""
    return " ".join(str(text).split())


def run_command(command: Callable[[], int]) -> int:
    """Run a command's body and turn what a person can mend into one line and an exit status.

    Returns 0 done, 1 the run failed, 2 bad input or disk, 130 interrupted. Programming errors pass through. A reader of
    the output that goes away changes nothing.
    """
    with unread_output():
        return _run(command)


def _run(command: Callable[[], int]) -> int:
    try:
        status = command()
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a full disk is no traceback
        return status
    except UserError as error:
        _complain(error)
        return BAD_INPUT
    except RunFailed as error:
        _complain(error)
        return FAILED
    except OSError as error:
        if error.filename is None and not is_disk_error(error):
            raise  # no file: a programming error
        _complain(os_message(error, "reading or writing files"))
        return BAD_INPUT
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED


def _complain(message: object) -> None:
    print(f"error: {one_line(message)}", file=sys.stderr, flush=True)


def said(error: Exception) -> str:
    """One line; a ValueError's own words say all, others need their kind and place."""
    text = one_line(error)[:400]
    if isinstance(error, ValueError):
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{type(error).__name__}: {text} ({place.filename}, line {place.lineno}, in {place.name})"
    )
