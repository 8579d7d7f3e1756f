"""Sections of a configuration whose fields belong to what is chosen by name: a memory, auxiliary losses.

`memory: {kind: NAME, OPTION: VALUE}` has the options of NAME's own dataclass, `auxiliary: {NAME: {OPTION: VALUE}}`
those of each loss. Nothing of them is repeated here: names, types, bounds, defaults and help are the dataclass's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from typing import Annotated, Any, get_type_hints

from tyro.conf import arg

from ct_rl.errors import UserError, suggestion

DEFAULT = "compressive"
KIND = "kind"
_IMPORT_HINT = " (for one of your own: --import MODULE)"


class Memory:
    """What every memory's section is: `kind`, and beside it the fields of that memory's options."""

    kind: str


@dataclass
class Auxiliary:
    """What a section of auxiliary losses is: a field for each that was chosen, its options in it."""


def default_memory() -> Any:
    """The section of the default memory with its own defaults."""
    return memory_section(DEFAULT)()


def memory_settings(section: Any) -> dict[str, Any]:
    """The options of a memory's section, as `ct_rl.memory.build_memory` takes them."""
    return {item.name: getattr(section, item.name) for item in fields(section) if item.name != KIND}


def auxiliary_settings(section: Auxiliary) -> dict[str, dict[str, Any]]:
    """The options of each loss in a section, as `agents.ActorCritic` takes them."""
    return {
        loss.name: {item.name: getattr(chosen, item.name) for item in fields(chosen)}
        for loss in fields(section)
        for chosen in (getattr(section, loss.name),)
    }


def memory_section(kind: str) -> Any:
    """The dataclass of the section `memory` for one kind of memory; raises UserError for an unknown one."""
    from ct_rl.memory import memory_options

    if len(kind) > 100:
        raise UserError(f"memory.kind: no memory has a name of {len(kind)} letters")
    try:
        options: Any = memory_options(kind)
    except ValueError as error:
        raise UserError(f"{error}{_IMPORT_HINT}") from None
    return _memory_section(kind, options)


@cache
def _memory_section(kind: str, options: Any) -> Any:
    chosen = Annotated[str, arg(name="memory", prefix_name=False, help=_memory_help())]
    extra: list[Any] = [(KIND, chosen, field(default=kind, kw_only=True))]
    for item in fields(options):
        if item.name == "rate":  # the one number that names a run, as --rate
            declared = get_type_hints(options, include_extras=True)[item.name]
            hint: Any = Annotated[(declared, arg(aliases=("--rate",)))]
            extra.append(("rate", hint, field(default=item.default, kw_only=True)))
    return make_dataclass(
        "memory",
        extra,
        bases=(options, Memory),
        frozen=options.__dataclass_params__.frozen,
        namespace={"__doc__": options.__doc__},
    )


def _memory_help() -> str:
    from ct_rl.memory import memory_names

    return f"Memory: {', '.join(memory_names())}; the flags --memory.OPTION are the chosen one's."


def auxiliary_section(names: Sequence[str]) -> Any:
    """The dataclass of the section `auxiliary` for the chosen losses; raises UserError for an unknown one."""
    if not names:
        return Auxiliary
    from agents import auxiliary_options

    try:
        chosen = tuple((name, auxiliary_options(name)) for name in dict.fromkeys(names))
    except ValueError as error:
        raise UserError(f"{error}{_IMPORT_HINT}") from None
    return _auxiliary_section(chosen)


@cache
def _auxiliary_section(chosen: tuple[tuple[str, Any], ...]) -> Any:
    items = [(name, options, field(default_factory=options)) for name, options in chosen]
    text = "The auxiliary losses that were chosen."
    return make_dataclass("auxiliary", items, bases=(Auxiliary,), namespace={"__doc__": text})


def sections_for(memory: Any, auxiliary: Any) -> dict[str, type]:
    """The dataclasses of both sections for what a file or flags say, which may be anything.

    Raises:
        UserError: for names that nobody knows.
        ValueError: for data that are no sections.
    """
    kind: Any = DEFAULT
    if isinstance(memory, Mapping):
        kind = memory.get(KIND, DEFAULT)
    if not isinstance(kind, str):
        raise ValueError("memory.kind: expected the name of a memory")
    names = list(auxiliary) if isinstance(auxiliary, Mapping) else []
    if not all(isinstance(name, str) for name in names):
        raise ValueError("auxiliary: expected names of losses")
    return {"memory": memory_section(kind), "auxiliary": auxiliary_section(names)}


def foreign_option(kind: str, option: str) -> str:
    """One line about an option that the chosen memory has not."""
    known = [item.name for item in fields(memory_section(kind)) if item.name != KIND]
    near = suggestion(option, known) if known else ""
    hint = near if near.startswith(", did") else ""
    return f"memory {kind!r} has no option {option!r}: its options are {', '.join(known)}{hint}"


def idle_option(flag: str, other: str) -> str:
    """One line about a flag that does nothing because another one is 0."""
    return f"{flag} does nothing where {other} is 0: leave it out, or give {other} 1 or more"
