"""What this package relies on inside RLlib is there, and nothing else of RLlib's privates is touched."""

import ast
import functools
import inspect
import re
from pathlib import Path

import pytest

import agents.rllib
from agents.rllib import internals

FOLDER = Path(agents.rllib.__path__[0])


@pytest.mark.parametrize("owner, name", internals.METHODS, ids=lambda x: getattr(x, "__name__", x))
def test_a_method_takes_what_is_relied_on(owner, name):
    found = inspect.signature(getattr(owner, name))
    # Ray adds its tracing's argument to every method of a class that was made an actor in this process
    names = tuple(each for each in found.parameters if each != "_ray_trace_ctx")
    assert names == internals.METHODS[owner, name]


@pytest.mark.parametrize("name", internals.ATTRIBUTES)
def test_an_attribute_is_set_where_it_is_relied_on(name):
    source = inspect.getsource(internals.ATTRIBUTES[name])
    assert re.search(rf"self\.{name}\b[^=\n]*=|\"{name}\"", source), f"{name} is gone"


@pytest.mark.parametrize("name", internals.PROPERTIES)
def test_a_property_is_one(name):
    assert isinstance(inspect.getattr_static(internals.PROPERTIES[name], name), property)


@pytest.mark.slow
def test_no_other_private_name_of_rllib_is_touched():
    """Every underscored attribute in this package is its own, or stands in `internals`."""
    known = {name for _, name in internals.METHODS} | {*internals.ATTRIBUTES, *internals.PROPERTIES}
    own, touched = set(), {}
    for file in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            if not isinstance(node, ast.Attribute) or not re.match(r"_[a-z]", node.attr):
                continue
            if isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            touched.setdefault(node.attr, file.name)
    relied = {name for name in own if re.match(r"_[a-z]", name) and _rllib_has(name)} - known
    assert not relied, f"set here and RLlib's, too: {relied}"
    strange = {name: file for name, file in touched.items() if name not in own | known}
    assert not strange, f"not in internals.py: {strange}"


def _rllib_has(name: str) -> bool:
    return re.search(rf"\b{name}\b", _rllibs_sources()) is not None


@functools.cache
def _rllibs_sources() -> str:
    owners = {cls for cls, _ in internals.METHODS} | set(internals.ATTRIBUTES.values())
    return "\n".join(map(inspect.getsource, owners))
