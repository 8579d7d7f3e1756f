"""The arrows of `ct_rl.memory`, and what is declared once: options, their bounds, their help."""

import ast
import dataclasses
import functools
import inspect
import sys
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import pytest
import torch
from annotated_types import Ge, Le

import ct_rl.memory
from ct_rl.memory import (
    CompressiveTransformer,
    MemoryCore,
    MemoryOutput,
    build_memory,
    memory_class,
    memory_names,
    memory_options,
    option_help,
    register_memory,
    registry,
)
from ct_rl.memory.activations import ACTIVATIONS
from ct_rl.memory.compressive.options import CompressiveOptions
from ct_rl.memory.options import Activation, check_options

FOLDER = Path(ct_rl.memory.__path__[0])
DOCS = Path(__file__).parents[2] / "docs" / "memory.md"
# Those of this package; the contract tests of others run on what `-p my_module` registered, too.
OURS = [name for name in memory_names() if memory_class(name).__module__.startswith("ct_rl.")]


@functools.cache
def imports():
    """What each module of the package imports, also inside functions; a name that is a module counts as itself."""
    files = {
        ".".join(["ct_rl.memory", *file.relative_to(FOLDER).with_suffix("").parts]): file
        for file in FOLDER.rglob("*.py")
    }
    modules = {name.removesuffix(".__init__") for name in files}
    found = {}
    for name, file in files.items():
        text, wanted = file.read_text(), set()
        if name != "ct_rl.memory.__init__":  # which names for type checkers what it resolves later
            assert "TYPE_CHECKING" not in text, f"{name} hides an import"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                assert not node.level, f"{name} imports by dots, which this test does not follow"
                inner = {f"{node.module}.{alias.name}" for alias in node.names} & modules
                wanted |= inner or {node.module}
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
        found[name.removesuffix(".__init__")] = wanted
    return found


def test_plain_torch_and_nothing_else():
    outside = {module.partition(".")[0] for wanted in imports().values() for module in wanted}
    assert outside - set(sys.stdlib_module_names) == {"torch", "annotated_types", "ct_rl"}


def in_order(graph):
    """The modules, each after those that it imports; AssertionError for a circle."""
    done: list[str] = []
    while len(done) < len(graph):
        free = [
            n for n, wanted in graph.items() if n not in done and wanted & set(graph) <= {*done}
        ]
        assert free, f"a circle among {sorted(set(graph) - set(done))}"
        done += free
    return done


def test_there_is_no_circle():
    assert in_order(imports())[-1] == "ct_rl.memory"
    with pytest.raises(AssertionError, match=r"a circle among \['a', 'b'\]"):
        in_order({"a": {"b"}, "b": {"a"}, "c": set()})


def test_the_contract_knows_no_core():
    ours = {
        name: {m for m in wanted if m.startswith("ct_rl")} for name, wanted in imports().items()
    }
    assert ours["ct_rl.memory.contract"] == {"ct_rl.memory.means", "ct_rl.memory.report"}
    assert not ours["ct_rl.memory.means"] | ours["ct_rl.memory.report"]


@pytest.mark.parametrize("name", memory_names())
def test_every_option_has_a_type_a_default_and_a_help_text(name):
    options = memory_options(name)
    assert dataclasses.is_dataclass(options) and options.__dataclass_params__.frozen
    names = [field.name for field in dataclasses.fields(options)]
    assert set(option_help(options)) >= set(names)
    assert all(option_help(options)[option] for option in names)
    core = build_memory(name, **memory_class(name).small)
    assert isinstance(core, MemoryCore) and core.d_model == options().d_model
    with pytest.raises(dataclasses.FrozenInstanceError):
        options().d_model = 3


@pytest.mark.parametrize("name", OURS)
def test_the_constructor_has_the_defaults_of_the_dataclass(name):
    """Whoever builds the class itself gets what whoever names it gets."""
    given = inspect.signature(memory_class(name)).parameters
    for field in dataclasses.fields(memory_options(name)):
        assert given[field.name].default == field.default, field.name
    assert set(given) == {field.name for field in dataclasses.fields(memory_options(name))}


def test_every_activation_is_an_option():
    assert get_args(Activation) == tuple(ACTIVATIONS)


def test_near_first_takes_two_heads():
    with pytest.raises(ValueError, match="near_first=True needs n_heads of 2 or more"):
        build_memory("compressive", n_heads=1, near_first=True)


@pytest.mark.parametrize("name", OURS)
def test_the_page_has_every_option(name):
    """docs/memory.md has a row for each option of each core, with its default and its help."""
    page, texts = DOCS.read_text(), option_help(memory_options(name))
    for option in dataclasses.fields(memory_options(name)):
        row = f"| `{option.name}` | {option.default} | {' '.join(texts[option.name].split())} |"
        assert row in page, f"docs/memory.md lacks this row: {row}"


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"rate": 0}, "rate=0: expected a whole number of at least 1 and at most 65536"),
        ({"rate": float("inf")}, "rate=inf: expected a whole number"),
        ({"memory": 9223372036854775808}, "expected a whole number of at least 0"),
        ({"n_layers": 10**8}, "n_layers=100000000: expected a whole number"),
        ({"d_ff": -1}, "d_ff=-1: expected a whole number"),
        ({"gate": []}, "gate=[]: expected one of residual, gru"),
        ({"mask_empty": 1}, "mask_empty=1: expected True or False"),
        ({"d_mdel": 8}, "memory 'x' has no option 'd_mdel' (did you mean 'd_model'?)"),
    ],
)
def test_a_wrong_option_is_one_line(wrong, said):
    with pytest.raises(ValueError) as caught:
        check_options("memory 'x'", CompressiveOptions, wrong)
    (line,) = str(caught.value).splitlines()
    assert said in line


def test_what_is_no_core_is_refused():
    with pytest.raises(ValueError, match="give a subclass of MemoryCore"):
        register_memory("wrong", dict, CompressiveOptions)
    with pytest.raises(ValueError, match="give a dataclass"):
        register_memory("wrong", memory_class("gru"), dict)

    @dataclasses.dataclass(frozen=True)
    class NoWidth:
        size: int = 3

    with pytest.raises(ValueError, match="has no option d_model"):
        register_memory("wrong", memory_class("gru"), NoWidth)

    @dataclasses.dataclass(frozen=True)
    class Wanting:
        d_model: int

    with pytest.raises(ValueError, match="option 'd_model' has no default"):
        register_memory("wrong", memory_class("gru"), Wanting)
    for name in ("", 3, "two words", "gru"):
        with pytest.raises(ValueError, match="memory"):
            register_memory(name, memory_class("identity"), memory_options("identity"))
    assert "wrong" not in memory_names()


@pytest.mark.parametrize(
    "option, kind, default, said",
    [
        ("keep", Annotated[float, Ge(0), Le(1)], 7.0, "default 7.0.*a number of at least 0 and at"),
        ("keep", int, 0.5, "default 0.5.*expected a whole number"),
        ("keep", float, None, "default None.*expected a number"),
        ("keep", tuple[int, ...], ("x",), r"expected tuple\[int, ...\], and 'x' is not a whole"),
        ("name", str, "x", "has an option named 'name': give it another name"),
        ("kind", str, "x", "has an option named 'kind': give it another name"),
    ],
)
def test_an_option_that_could_not_be_used_is_refused_where_it_is_registered(
    monkeypatch, option, kind, default, said
):
    monkeypatch.setattr(registry, "_CORES", {})
    fields = [("d_model", int, 8), (option, kind, default)]
    with pytest.raises(ValueError, match=f"^memory 'wrong'.*{said}"):
        register_memory(
            "wrong", memory_class("identity"), dataclasses.make_dataclass("Wrong", fields)
        )
    assert "wrong" not in memory_names()


@pytest.mark.parametrize(
    "given, said",
    [
        ({"sizes": ["x"]}, "expected tuple[int, ...], and 'x' is not a whole number"),
        ({"sizes": "12"}, "sizes='12': expected tuple[int, ...]"),
        ({"pair": (1, 2, 3)}, "expected tuple[int, str]"),
        ({"shares": {"a": "x"}}, "expected dict[str, float], and 'x' is not a number"),
        ({"shares": {1: 0.5}}, "and 1 is not a text"),
        ({"rows": [[1], [True]]}, "and True is not a whole number"),
    ],
)
def test_elements_of_an_option_are_checked(given, said):
    @dataclasses.dataclass(frozen=True)
    class Options:
        sizes: tuple[int, ...] = (1, 2)
        pair: tuple[int, str] = (1, "a")
        shares: dict[str, float] = dataclasses.field(default_factory=dict)
        rows: list[list[int]] | None = None

    with pytest.raises(ValueError) as caught:
        check_options("x", Options, given)
    assert said in str(caught.value)
    fits = {"sizes": [], "pair": [3, "b"], "shares": {"a": 1}, "rows": [[1], []]}
    assert check_options("x", Options, fits)["pair"] == (3, "b")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda out: out.y, "run gave torch.float32 [4, 3, 8], expected a MemoryOutput"),
        (lambda out: MemoryOutput(out.y[..., :3], out.state), "y as torch.float32 [4, 3, 3]"),
        (lambda out: MemoryOutput(out.y.double(), out.state), "y as torch.float64"),
        (
            lambda out: MemoryOutput(out.y, {"other": out.state["steps"]}),
            "state 'steps' as NoneType",
        ),
        (lambda out: MemoryOutput(out.y, {**out.state, "more": out.y}), "initial_state has not"),
        (lambda out: MemoryOutput(out.y, out.state, {"own": out.y}), "the loss 'own' as"),
        (
            lambda out: MemoryOutput(out.y, out.state, {"own": out.y.mean()[None]}),
            "the loss 'own' as torch.float32 [1], expected a floating-point scalar",
        ),
        (lambda out: MemoryOutput(out.y, out.state, {"policy": out.y.sum()}), "is the learner's"),
        (
            lambda out: MemoryOutput(out.y, out.state, counts={"own": out.y.new_ones(())}),
            "a count of 'own', and no loss of that name",
        ),
        (
            lambda out: MemoryOutput(out.y, out.state, {"own": out.y.mean()}, counts={"own": 12}),
            "the count of 'own' as int, expected a tensor of shape []",
        ),
    ],
)
def test_a_core_that_breaks_the_contract_is_refused_when_it_is_built(monkeypatch, change, said):
    class Odd(memory_class("identity")):
        def run(self, x, state, resets, attention):
            return change(super().run(x, state, resets, attention))

    monkeypatch.setattr(registry, "_CORES", {})
    register_memory("odd", Odd, memory_options("identity"))
    with pytest.raises(ValueError, match="memory 'odd'") as caught:
        build_memory("odd", d_model=8)
    assert said in str(caught.value)


class Sum(MemoryCore):
    """The sum of what an episode gave so far."""

    def __init__(self, d_model=128):
        super().__init__()
        self.d_model = self.d_out = d_model

    context_length = None

    def initial_state(self, batch_size):
        return {"sum": self.like.new_zeros(batch_size, self.d_model)}

    def forgets(self, resets, t):
        return resets[:, t]

    def run(self, x, state, resets, attention):
        held, y = state["sum"], []
        for t in range(x.shape[1]):
            held = torch.where(self.forgets(resets, t)[:, None], 0.0, held) + x[:, t]
            y.append(held)
        return MemoryOutput(torch.stack(y, 1), {"sum": held.detach()})


class Widthless(Sum):
    def __init__(self, d_model=128):
        super().__init__(d_model)
        del self.d_out


class OneRow(Sum):
    def initial_state(self, batch_size):
        return super().initial_state(1)


class Nested(Sum):
    def initial_state(self, batch_size):
        return {"layer": super().initial_state(batch_size)}


class Ones(Sum):
    def initial_state(self, batch_size):
        return {"sum": self.like.new_ones(batch_size, self.d_model)}


class Never(Sum):
    def forgets(self, resets, t):
        return torch.zeros_like(resets[:, t])


class OnlyFirst(Sum):
    def forgets(self, resets, t):
        return resets[:, t] & (t == 0)


class OnlyLater(Sum):
    def forgets(self, resets, t):
        return resets[:, t] & (t > 0)


class Fails(Sum):
    def run(self, x, state, resets, attention):
        raise KeyError("oops")


@pytest.mark.parametrize(
    "core, said",
    [
        (Widthless, "has no d_out: its __init__ calls MemoryCore's"),
        (OneRow, "initial_state(4) gave 'sum' as torch.float32 [1, 8], expected a tensor whose"),
        (Nested, "initial_state(4) gave 'layer' as dict, expected a tensor whose first dimension"),
        (Ones, "initial_state gave 'sum' other values than a reset does"),
        (Never, "does not forget where an episode begins in step 0 of a call"),
        (OnlyFirst, "does not forget where an episode begins in step 1 of a call"),
        (OnlyLater, "does not forget where an episode begins in step 0 of a call"),
        (Fails, "cannot read 4 rows of 3 steps: KeyError: 'oops' ("),
    ],
)
def test_a_core_whose_state_or_resets_are_wrong_is_refused_when_it_is_built(
    monkeypatch, core, said
):
    monkeypatch.setattr(registry, "_CORES", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    register_memory("odd", core, memory_options("identity"))
    with pytest.raises(ValueError, match="memory 'odd'") as caught:
        build_memory("odd", d_model=8)
    (line,) = str(caught.value).splitlines()
    assert said in line


def test_an_error_of_a_core_that_may_be_made_for_a_gpu_comes_in_use(monkeypatch):
    monkeypatch.setattr(registry, "_CORES", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    register_memory("odd", Fails, memory_options("identity"))
    core = build_memory("odd", d_model=8)
    with pytest.raises(KeyError, match="oops"):
        core(torch.zeros(1, 1, 8), core.initial_state(1))


@pytest.mark.parametrize("name", memory_names())
def test_a_core_that_keeps_the_contract_is_built(monkeypatch, name):
    """Also one that draws, where rows cannot be compared."""
    own, options = memory_class(name), memory_options(name)

    class Drawing(own):
        def run(self, x, state, resets, attention):
            out = super().run(x, state, resets, attention)
            out.y = out.y + torch.randn_like(out.y)
            return out

    for core in (own, Drawing):
        monkeypatch.setattr(registry, "_CORES", {})
        register_memory("own", core, options)
        assert isinstance(build_memory("own", **own.small), core)


@pytest.mark.parametrize(
    "cls, wrong",
    [
        (CompressiveTransformer, {"norm": "x"}),
        (CompressiveTransformer, {"compression_loss": "atention"}),
        (CompressiveTransformer, {"n_layers": 0}),
        (CompressiveTransformer, {"rate": 2.5}),
        (memory_class("transformer_xl"), {"norm": "none"}),
        (memory_class("linear"), {"cell": "x"}),
        (memory_class("lstm"), {"hidden": 0}),
        (memory_class("identity"), {"d_model": 0}),
    ],
)
def test_a_class_checks_its_options_as_its_name_does(cls, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{cls.__name__}: {name}={value!r}: expected"):
        cls(**wrong)


def test_what_a_core_is_asked_leaves_it_as_it_was(monkeypatch):
    """Also one that learns from its first batch, or needs a gradient or more rows than one."""

    class First(memory_class("identity")):
        def __init__(self, d_model=128):
            super().__init__(d_model)
            self.register_buffer("seen", torch.zeros(()))
            self.norm = torch.nn.BatchNorm1d(d_model)

        def run(self, x, state, resets, attention):
            self.seen += 1
            x = self.norm(x.flatten(0, 1)).view_as(x)
            torch.autograd.grad(x.sum(), self.norm.bias, retain_graph=True)
            return super().run(x, state, resets, attention)

    monkeypatch.setattr(registry, "_CORES", {})
    register_memory("first", First, memory_options("identity"))
    core = build_memory("first", d_model=8)
    assert core.seen == 0 and core.norm.num_batches_tracked == 0 and core.training


def test_a_script_or_a_notebook_registers_again(monkeypatch):
    monkeypatch.setattr(registry, "_CORES", {})
    identity, options = memory_class("identity"), memory_options("identity")

    def made(module, name="Mine"):
        return type(name, (identity,), {"__module__": module, "__qualname__": name})

    register_memory("mine", made("script"), options)
    register_memory("mine", made("script"), options)  # a module that was reloaded
    register_memory("mine", made("__main__"), options)  # the same script as the program
    register_memory("mine", made("__main__", "Better"), options)
    register_memory("mine", made("script"), options)
    with pytest.raises(ValueError, match="memory 'mine' is there already"):
        register_memory("mine", made("another"), options)


def test_options_may_be_numpys_numbers_lists_for_tuples_and_of_types_for_checkers_alone():
    @dataclasses.dataclass(frozen=True)
    class Options:
        sizes: tuple[tuple[int, int], ...] = ()
        width: int = 3
        share: float = 0.5

    given = {"sizes": [[1, 2]], "width": np.int64(4), "share": np.float32(0.25)}
    assert check_options("x", Options, given) == {"sizes": ((1, 2),), "width": 4, "share": 0.25}
    with pytest.raises(ValueError, match="width=True: expected a whole number"):
        check_options("x", Options, {"width": True})

    @dataclasses.dataclass(frozen=True)
    class Unseen:
        layers: "Sequence[int]" = (1, 2)  # noqa: F821

    assert check_options("x", Unseen, {}) == {"layers": (1, 2)}
    assert check_options("x", Unseen, {"layers": (3,)}) == {"layers": (3,)}
