"""Files: read though they may be anyone's (regular, of a sane size, YAML and JSON without surprises), written whole.

A FIFO, a device, a link out of a run's folder, an alias bomb or a gigabyte is refused in one line; no file is quoted.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ct_rl.errors import UserError, os_message

MIB = 2**20
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NODES = 100_000  # values in one YAML file, aliases written out


class Unreadable(UserError):
    """A file that cannot be what it should be; the text says which and why."""


def read_bytes(path: Path, most: int = MIB, *, links: bool = False) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Args:
        links: whether the path may be a symbolic link; a run's own files never are.

    Raises:
        FileNotFoundError: when it is not there.
        Unreadable: when it is no regular file, a link, too large, or may not be read.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)  # O_NONBLOCK: a FIFO without a writer does not hold us up
    except FileNotFoundError:
        raise
    except OSError as error:
        if path.is_symlink():
            raise Unreadable(f"'{path}' is a symbolic link: put the file itself there") from None
        raise Unreadable(os_message(error, f"reading '{path}'")) from None
    found = os.fstat(descriptor)
    kind = found.st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise Unreadable(
            f"'{path}' is {'a folder, not a' if stat.S_ISDIR(kind) else 'no regular'} file"
        )
    with os.fdopen(descriptor, "rb") as file:
        try:  # `read` sets as much memory aside as it is asked for
            content = b"" if found.st_size > most else file.read(found.st_size + MIB)
        except OSError as error:
            raise Unreadable(os_message(error, f"reading '{path}'")) from None
        except MemoryError:
            raise Unreadable(f"'{path}' is larger than the memory that is left") from None
    if max(found.st_size, len(content)) > most:
        raise Unreadable(f"'{path}' has more than {most // MIB or most} "
                         f"{'MiB' if most >= MIB else 'bytes'}: it is not what belongs there")  # fmt: skip
    return content


def read_text(path: Path, most: int = MIB, *, links: bool = False) -> str:
    """As `read_bytes`, as text; raises Unreadable where it is not UTF-8."""
    try:
        return read_bytes(path, most, links=links).decode("utf-8")
    except UnicodeDecodeError:
        raise Unreadable(f"'{path}' is not a text file (UTF-8)") from None


def read_json(path: Path, most: int = 16 * MIB, *, links: bool = False) -> Any:
    """The JSON value in a file; raises FileNotFoundError, or Unreadable where it is none."""
    return parse_json(read_text(path, most, links=links), str(path))


def finite(value: Any) -> Any:
    """Plain data with null for every number that is not finite, as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parse_json(text: str | bytes, source: str) -> Any:
    """The JSON value in a text, whose numbers are finite; raises Unreadable."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        raise Unreadable(f"'{source}' is not JSON") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and force it to disk before returning."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def partial_name(path: Path) -> Path:
    """A name beside `path` for what becomes `path` when it is whole; a name that is as long as may be has one, too."""
    # Drawn, since processes in containers or on several hosts may have one number.
    return path.with_name(f".partial-{secrets.token_hex(8)}")


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a reader sees the old or the new content, never a part."""
    partial = partial_name(path)
    try:
        write_synced(partial, content)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def _numbered(path: Path, suffix: str = "") -> Iterator[Path]:
    """NAME, NAME_2, NAME_3 and so on, each with the suffix."""
    yield path.with_name(path.name + suffix)
    for count in itertools.count(2):
        yield path.with_name(f"{path.name}_{count}{suffix}")


def make_free_folder(path: Path) -> Path:
    """Make the first of NAME, NAME_2 and so on that nothing has, however many starts look at once."""
    # Made here, where its own error is no reason to try another number.
    path.parent.mkdir(parents=True, exist_ok=True)
    for free in _numbered(path):
        with contextlib.suppress(FileExistsError):
            free.mkdir()
            return free
    raise AssertionError("there is always another number")


def write_under_free_name(path: Path, suffix: str, content: bytes) -> Path:
    """Write a file, whole from its first moment, as the first of NAME.SUFFIX, NAME_2.SUFFIX and so on that nothing has.

    Who else writes there at the same time gets another of the names: each is taken and not only looked for.

    Returns:
        The name that was taken.
    """
    partial = partial_name(path)
    try:
        write_synced(partial, content)
        for free in _numbered(path, suffix):
            with contextlib.suppress(FileExistsError):
                _take_name(free, partial)
                return free
    finally:
        partial.unlink(missing_ok=True)
    raise AssertionError("there is always another number")


def _take_name(path: Path, partial: Path) -> None:
    """Give a file a name that nothing has; raises FileExistsError."""
    try:
        os.link(partial, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        os.replace(partial, path)


def require_writable(path: Path, flag: str) -> None:
    """Raise UserError where a file that a flag names could not be written, before there is something to lose."""
    try:
        if path.is_dir():
            raise UserError(f"{flag} '{path}' is a folder: give a file")
        if not path.parent.is_dir():
            raise UserError(f"{flag} '{path}': there is no folder '{path.parent}'")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise UserError(f"{flag} '{path}' cannot be written: permission denied")
    except (OSError, ValueError) as error:
        why = os_message(error, "looking at it") if isinstance(error, OSError) else str(error)
        raise UserError(f"{flag} {str(path)[:80]!r}: {why}") from None


def write_new(path: Path, text: str, flag: str) -> None:
    """Write a text to a file that a flag names; raises UserError."""
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise UserError(os_message(error, f"writing {flag} '{path}'")) from None


def parse_yaml(text: str) -> Any:
    """The value in a YAML text, numbers read as in YAML 1.2: 1e-3 is a number, 1:30 a text.

    Raises:
        ValueError: one line that says what is wrong and where, without quoting the text.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"is not valid YAML{at}: {_said(error)}") from None
    except (yaml.YAMLError, ValueError, OverflowError):
        raise ValueError("is not valid YAML") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def scalar(text: str) -> Any:
    """A flag's word as recipes read it: a number, true, a list in brackets; or the text itself."""
    try:
        return parse_yaml(text)
    except ValueError:
        return text


def _said(error: yaml.MarkedYAMLError) -> str:
    # PyYAML's words quote tokens and tags of the file; what stands in quotes could be anything.
    return re.sub(r"'[^']{24,}'", "'...'", " ".join(str(error.problem).split()))[:200]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's numbers, each key once, and aliases that do not explode."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            self._count(node, {}, set())
        return node

    def _count(self, node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
        """The number of values below a node; raises where they are too many or contain themselves."""
        if id(node) in above:
            raise yaml.MarkedYAMLError(
                problem="an alias contains itself", problem_mark=node.start_mark
            )
        if id(node) not in known:
            below: list[Any] = []
            if isinstance(node, yaml.MappingNode):
                below = [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                below = node.value
            above.add(id(node))
            known[id(node)] = 1 + sum(self._count(part, known, above) for part in below)
            above.discard(id(node))
        if known[id(node)] > _NODES:
            raise yaml.MarkedYAMLError(
                problem=f"more than {_NODES:,} values", problem_mark=node.start_mark
            )
        return known[id(node)]

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key '{key.value[:40]}' is given twice",
                        problem_mark=key.start_mark,
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_DROPPED = (_INT, _FLOAT, "tag:yaml.org,2002:timestamp")  # a date is a text
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in _DROPPED]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver(
    _INT, re.compile(r"^(?:[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
# The first pattern that fits decides, and whole numbers fit both.
for _first in "-+0123456789":
    _Loader.yaml_implicit_resolvers[_first].sort(key=lambda pair: pair[0] != _INT)


def _construct_int(loader: yaml.SafeLoader, node: Any) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    return int(text, 16) if text.startswith("0x") else int(text)


def _construct_float(loader: yaml.SafeLoader, node: Any) -> float:
    text = loader.construct_scalar(node).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor(_INT, _construct_int)
_Loader.add_constructor(_FLOAT, _construct_float)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also puts quotes around texts that only `_Loader` takes for numbers."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Between single quotes these would be written as they are and read as the end of a line.
        style = '"' if any(sign in data for sign in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.yaml_implicit_resolvers = {
    first: [
        *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        *_Loader.yaml_implicit_resolvers.get(first, []),
    ]
    for first in {**yaml.SafeDumper.yaml_implicit_resolvers, **_Loader.yaml_implicit_resolvers}
}


def dump_yaml(value: Any) -> str:
    """Plain data as YAML that `parse_yaml` reads back equal."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text
