"""Memory cores by name, each with the dataclass of its options."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import Any

from ct_rl.memory.options import check_declared, check_name, check_options

# name -> core and options as "module:class" below this package, imported when asked for: a command reads options
# before it needs torch, which takes a second to import.
_BUILT_IN = {
    "compressive": ("compressive.core:CompressiveTransformer", "compressive.options:CompressiveOptions"),
    "gru": ("recurrent:GRUMemory", "recurrent:RecurrentOptions"),
    "gtrxl": ("compressive.core:GTrXL", "compressive.options:GTrXLOptions"),
    "identity": ("identity:Identity", "identity:IdentityOptions"),
    "linear": ("linear:LinearRecurrence", "linear:LinearOptions"),
    "lstm": ("recurrent:LSTMMemory", "recurrent:RecurrentOptions"),
    "transformer_xl": ("compressive.core:TransformerXL", "compressive.options:TransformerXLOptions"),
}  # fmt: skip
# What stands beside a memory's options: in a recipe, in `build_memory`, in `with_memory`.
_NOT_OPTIONS = ("kind", "name", "network", "auxiliary", "loss_coeffs", "self")
_CORES: dict[str, tuple[type, type]] = {}


def register_memory(name: str, core: type, options: type) -> None:
    """Makes a core known as `name`: `--memory NAME`, its own flags and help, and the contract tests.

    Args:
        core: built as `core(**fields)` from all fields of `options`.
        options: a frozen dataclass, each option once: `Annotated[int, Ge(1), Le(64)] = 4` and a string of help below.
            One of them is d_model.

    Raises:
        ValueError: for something that is no core's class, no such dataclass, or a name that cannot be one or is
            another's.
    """
    contract: Any = import_module("ct_rl.memory.contract")
    if not (isinstance(core, type) and issubclass(core, contract.MemoryCore)):
        raise ValueError(f"memory {name!r} is {core!r}: give a subclass of MemoryCore")
    check_name("memory", name, core, _CORES.get(name, (None,))[0], _BUILT_IN)
    check_declared("memory", name, options, _NOT_OPTIONS)
    if "d_model" not in {item.name for item in dataclasses.fields(options)}:
        raise ValueError(f"memory {name!r} has no option d_model: every core has that width")
    _CORES[name] = core, options


def memory_names() -> list[str]:
    """The names that `build_memory` knows."""
    return sorted({*_BUILT_IN, *_CORES})


def memory_options(name: str) -> type:
    """The dataclass of the options that the core `name` takes.

    Raises:
        ValueError: for a name that does not exist, naming those that do.
    """
    return _find(name, 1)


def memory_class(name: str) -> Any:
    """The class of the core `name`; raises ValueError as `memory_options` does."""
    return _find(name, 0)


def build_memory(name: str, **options: Any) -> Any:
    """A memory core by its name.

    Raises:
        ValueError: for a name or an option that does not exist, naming those that do, a value out of its bounds,
            sizes that do not fit together, or a registered core that does not keep the contract.
    """
    core = memory_class(name)(**check_options(f"memory {name!r}", memory_options(name), options))
    if name in _CORES:
        import_module("ct_rl.memory.check").check_core(name, core)
    return core


def registration(name: str) -> tuple[type, type] | None:
    """What `name` was registered with, to be carried elsewhere; None for this package's own and the unknown."""
    return _CORES.get(name)


def restore(name: str, found: tuple[type, type]) -> None:
    """Enters in this process what `registration` gave in another, unless the name is known here."""
    _CORES.setdefault(name, found)


def _find(name: str, part: int) -> type:
    """The core's class (0) or its options' (1)."""
    if name in _CORES:
        return _CORES[name][part]
    if name not in _BUILT_IN:
        raise ValueError(f"unknown memory {name!r}: choose one of {', '.join(memory_names())}")
    module, _, attribute = _BUILT_IN[name][part].partition(":")
    found: type = getattr(import_module(f"ct_rl.memory.{module}"), attribute)
    return found
