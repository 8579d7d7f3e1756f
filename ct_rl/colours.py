"""One colour for each memory and rate, in every picture: Okabe and Ito's eight, which the colour-blind tell apart."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Okabe & Ito 2008, "Color Universal Design"; yellow last, because it is faint on white.
PALETTE: dict[str, str] = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "vermillion": "#D55E00",
    "sky": "#56B4E9",
    "black": "#000000",
    "yellow": "#F0E442",
}
_MEMORIES = {
    "lstm": "orange",
    "gru": "green",
    "gtrxl": "purple",
    "transformer_xl": "vermillion",
    "linear": "sky",
    "identity": "black",
    "compressive": "blue",
}
_RATES = {1: "sky", 2: "green", 3: "orange", 4: "blue", 8: "vermillion", 16: "purple"}
_DASHES = ("", "6 3", "2 2", "8 3 2 3")


@dataclass(frozen=True)
class Look:
    """How something is drawn: a name of `PALETTE`, and the dashes of its lines as SVG takes them."""

    colour: str
    dash: str = ""

    @property
    def line(self) -> str | tuple[int, tuple[int, ...]]:
        """The dashes as Matplotlib takes them."""
        return (0, tuple(map(int, self.dash.split()))) if self.dash else "-"


def memory_of(settings: Mapping[str, Any]) -> tuple[str, Any]:
    """What a colour stands for, from a section `memory`: its kind, and its rate where it has one."""
    return str(settings.get("kind")), settings.get("rate")


def looks(memories: Sequence[tuple[str, Any]], scopes: Sequence[str] | None = None) -> list[Look]:
    """A look for each: one colour for each memory and rate; others of the same memory and rate differ in dashes.

    A memory or rate has its own colour wherever that is free; what comes first keeps it. Where nothing but one memory
    and rate is compared, its colour tells nothing, and each has a colour of its own.

    Args:
        scopes: of each, the picture that it is in; those of different pictures need no different dashes.
    """
    if len(set(memories)) == 1 and (scopes is None or len(set(scopes)) == 1):
        taken: list[str] = []
        for memory in memories:
            taken.append(_free(_wanted(memory, memories), taken))
        return [
            Look(colour, _DASHES[i // len(PALETTE) % len(_DASHES)])
            for i, colour in enumerate(taken)
        ]
    colours: dict[Hashable, str] = {}
    for memory in memories:
        if memory not in colours:
            colours[memory] = _free(_wanted(memory, memories), list(colours.values()))
    seen: dict[tuple[str, str], int] = {}
    made = []
    for memory, scope in zip(memories, scopes or [""] * len(memories), strict=True):
        colour = colours[memory]
        number = seen[colour, scope] = seen.get((colour, scope), -1) + 1
        made.append(Look(colour, _DASHES[number % len(_DASHES)]))
    return made


def _wanted(memory: tuple[str, Any], memories: Sequence[tuple[str, Any]]) -> str | None:
    kind, rate = memory
    rates = {other for name, other in memories if name == kind}
    return _RATES.get(rate) if len(rates) > 1 else _MEMORIES.get(kind)


def _free(wanted: str | None, taken: Sequence[str]) -> str:
    if wanted is not None and wanted not in taken:
        return wanted
    return min(PALETTE, key=lambda name: (taken.count(name), list(PALETTE).index(name)))


def as_it_is(text: str) -> str:
    """A text that matplotlib shows as it is: a dollar begins no formula."""
    return text.replace("$", r"\$")
