"""HTML as a tree: every text is escaped when it is written, whoever wrote it, and every element is closed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

# What HTML cannot hold, and what turns the direction of a line around.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)

Content = Element | str | float | None


def el(tag: str, *content: Content | Iterable[Content], **attributes: object) -> Element:
    """An element; texts and elements stand in it in order, None stands for nothing.

    Args:
        attributes: a trailing underscore is dropped (`class_`), other underscores become hyphens; None is left out.
    """
    made = Element(tag, {
        name.rstrip("_").replace("_", "-"): clean(str(value))
        for name, value in attributes.items()
        if value is not None
    })  # fmt: skip
    for part in content:
        for one in part if isinstance(part, list | tuple) else (part,):
            _append(made, one)  # type: ignore[arg-type]
    return made


def _append(parent: Element, part: Content) -> None:
    if part is None:
        return
    if isinstance(part, Element):
        parent.append(part)
    elif len(parent):
        parent[-1].tail = (parent[-1].tail or "") + clean(str(part))
    else:
        parent.text = (parent.text or "") + clean(str(part))


def clean(text: str) -> str:
    """The text without characters that a page cannot hold."""
    return _UNPRINTABLE.sub("\ufffd", text)


def table(
    heads: Iterable[Content], rows: Iterable[Iterable[Content]], **attributes: object
) -> Element:
    """A table whose first column names the rows; it scrolls sideways where it is too wide."""
    head = el("tr", [el("th", cell, scope="col") for cell in heads])
    body = []
    for row in rows:
        first, *others = row
        body.append(el("tr", el("th", first, scope="row"), [el("td", cell) for cell in others]))
    return el("div", el("table", el("thead", head), el("tbody", body), **attributes), class_="wide")


def page(root: Element) -> str:
    """The document as text."""
    return "<!DOCTYPE html>\n" + tostring(root, encoding="unicode", method="html") + "\n"
