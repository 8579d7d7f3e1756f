"""Names of a package that are imported when they are asked for: torch takes a second that not every use needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: dict[str, Any], places: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__` (PEP 562).

    Args:
        package: its globals.
        places: of each name, the module in the package that has it.
    """
    own = package["__name__"]

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {own!r} has no attribute {name!r}")
        return getattr(import_module(f"{own}.{places[name]}"), name)

    return get, lambda: sorted({*package, *places})
