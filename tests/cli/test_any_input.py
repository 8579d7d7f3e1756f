"""Bad inputs generated for every field, flag and file: each is refused in one clear line, and nothing is executed."""

import json
import math
import os
import random
import time
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ct_rl import checkpoint, command_line, config_file, plain_files, reader
from ct_rl.config import TrainConfig, check
from ct_rl.errors import UserError, run_command
from ct_rl.evaluation_file import read_evaluation
from ct_rl.experiment_file import parse as parse_experiment
from ct_rl.memory import memory_names
from ct_rl.run_folder import RunFolder
from ct_rl.sections import auxiliary_section, memory_section
from ct_rl.suite import command as suite
from ct_rl.train import Arguments

QUICK = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SECTIONS = {"memory": memory_section("compressive"), "auxiliary": auxiliary_section(["contrast"])}
# Values that fit no field or only by luck; what is taken for one must be in its bounds all the same.
ODD = [
    None, True, False, -1, 0, 2**63, -(2**63), 10**400, 1.5, -0.0, 1e308, -1e308, math.inf, -math.inf,
    math.nan, "", "x", "3", "1e400", "\x00", "☃" * 50, "x" * 100_000, "../../etc/passwd", "$(reboot)",
    [], [[]], {}, {"a": {}}, [[0, math.nan]], [[5, 1]], [[0, 1], [0, 1]], {1: 2}, b"bytes", (1, 2), [None] * 1000,
]  # fmt: skip


def places(cls, sections, at=()):
    hints = get_type_hints(cls, include_extras=True) | sections
    for item in fields(cls):
        if is_dataclass(hints[item.name]):
            yield (*at, item.name)
            yield from places(hints[item.name], {}, (*at, item.name))
        else:
            yield (*at, item.name)


def within_bounds(value):
    """Whether whatever was accepted is finite, short enough to print, and of a size that a machine has."""
    if isinstance(value, dict):
        return all(map(within_bounds, value.values()))
    if isinstance(value, list):
        return all(map(within_bounds, value))
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return True
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) <= reader.LARGEST


@pytest.mark.parametrize("place", list(places(TrainConfig, SECTIONS)), ids=".".join)
def test_no_field_takes_what_it_cannot_be(place):
    refused = 0
    for odd in ODD:
        data = {"auxiliary": {"contrast": {}}}
        inner = data
        for part in place[:-1]:
            inner = inner.setdefault(part, {})
        inner[place[-1]] = odd
        try:
            config = config_file.from_data(data, "config 'x'")
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 500
            assert place[-1] in str(error) or place[0] in str(error), (odd, error)
        else:
            taken = reader.plain(config)
            for part in place:
                taken = taken[part]
            assert within_bounds(taken), (place, odd)
            text = config_file.dump(config)
            assert config_file.parse(text, "x") == config  # what is accepted can be repeated
    assert refused >= len(ODD) // 3


@pytest.mark.parametrize("kind", memory_names())
def test_every_option_of_every_memory_has_bounds(kind):
    section = memory_section(kind)
    for item in fields(section):
        for odd in ODD:
            try:
                made = reader.read(section, {item.name: odd})
            except reader.Invalid as error:
                assert item.name in str(error) or not error.where
                assert "\n" not in str(error)
            else:
                assert within_bounds(getattr(made, item.name))


@pytest.mark.parametrize("flag", list(command_line.flag_names(Arguments, SECTIONS)))
def test_no_flag_takes_what_it_cannot_be(flag):
    default = Arguments(memory=SECTIONS["memory"](), auxiliary=SECTIONS["auxiliary"]())
    words = [
        "x",
        "-1",
        "1e400",
        "nan",
        "[",
        "{a: b}",
        "a=b",
        "\x00",
        "9" * 5000,
        "1.5",
        "0:1,5:nan",
    ]
    for word in random.Random(flag).sample(words, 1):
        try:
            given = command_line.parse(
                Arguments, [flag, word], prog="p", default=default, sections=SECTIONS
            )
        except UserError as error:
            assert (
                flag.rpartition(".")[2] in str(error)  # by its short name where it has one
                or "--rate" in str(error)
                or "argument" in str(error)
                or "option -1" in str(error)
            )
            assert "\n" not in str(error) and len(str(error)) < 500
        else:
            assert within_bounds(reader.plain(given))


@settings(QUICK, max_examples=25)
@given(st.lists(st.text(max_size=30), max_size=4))
def test_any_words_are_a_configuration_or_one_line(words):
    default = Arguments(memory=SECTIONS["memory"](), auxiliary=SECTIONS["auxiliary"]())
    try:
        command_line.parse(Arguments, words, prog="p", default=default, sections=SECTIONS)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 800
    except SystemExit as stop:
        assert not stop.code and any(word in ("-h", "--help") for word in words)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["memory", "kind", "rate", "run", "env", "x"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@QUICK
@given(PLAIN)
def test_any_yaml_is_a_recipe_an_experiment_or_one_line(data):
    text = yaml.safe_dump(data)
    for read in (config_file.parse, lambda text, name: parse_experiment(text, name, name)):
        try:
            read(text, "f.yaml")
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 700


@QUICK
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_file_or_one_line(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    path = folder / "f.yaml"
    path.write_bytes(content)
    for read in (config_file.read, read_evaluation, lambda p: checkpoint.load(p.parent)):
        with pytest.raises((UserError, checkpoint.Damaged)) as error:
            read(path)
            raise UserError("an empty recipe is a recipe")
        assert "\n" not in str(error.value)
    run = RunFolder(folder)
    path.rename(run.metrics)
    assert run.read_metrics() == []


@example("\x85")
@example("a\u2028b\x85")
@given(
    st.text(max_size=12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**53), 2**53)
)
@settings(max_examples=300, deadline=None)
def test_what_is_written_as_yaml_reads_back_equal(value):
    text = plain_files.dump_yaml({"a": value})
    try:
        assert plain_files.parse_yaml(text) == {"a": value}
    except ValueError:  # what YAML cannot hold, such as surrogates and control characters
        assert isinstance(value, str) and not value.isprintable()


def bomb(levels):
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join([*lines, f"training: {{lr: *a{levels - 1}}}", f"env: *a{levels - 1}"])


STRANGE = {
    "bomb": bomb(12),
    "circle": "env: &e {options: *e}",
    "deep list": "[" * 5_000,
    "deep map": "a: " * 5_000,
    "deep flow": "{a: " * 3_000,
    "long key": f"{'k' * 100_000}: 1",
    "tag": "env: !!python/object/apply:os.system ['touch /tmp/never']",
    "new tag": "env: !!python/name:os.system",
    "twice": "run: {seed: 1}\nrun: {seed: 2}",
    "unhashable": "? {a: 1}\n: 2",
    "merge": "a: &a {x: 1}\nrun: {<<: *a}",
    "documents": "a: 1\n---\nb: 2",
    "huge int": f"run: {{steps: {'9' * 5000}}}",
    "nul": 'run: {run_dir: "a\\0b"}\nx: 1',
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_file_is_refused_quickly(name, tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text(STRANGE[name])
    begun = time.process_time()
    for read in (config_file.read_recipe, config_file.read):
        with pytest.raises(UserError) as error:
            read(str(path) if read is config_file.read_recipe else path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 500
    with pytest.raises(UserError):
        parse_experiment(STRANGE[name], "f", "f.yaml")
    assert time.process_time() - begun < 10  # an alias bomb written out would take for ever
    assert not Path("/tmp/never").exists()


@pytest.fixture(params=["fifo", "zero", "folder", "large", "link", "gone"])
def odd_file(request, tmp_path):
    path = tmp_path / "odd"
    if request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "zero":
        path.symlink_to("/dev/zero")
    elif request.param == "folder":
        path.mkdir()
    elif request.param == "large":
        with open(path, "wb") as file:
            file.truncate(2**37)  # sparse
    elif request.param == "link":
        (tmp_path / "secret").write_text("steps: 1")
        path.symlink_to(tmp_path / "secret")
    return path


def test_a_file_that_is_none_is_refused_wherever_one_is_read(odd_file, tmp_path):
    for read in (config_file.read, read_evaluation):
        with pytest.raises(UserError) as error:
            read(odd_file)
        assert str(odd_file) in str(error.value) and "\n" not in str(error.value)
    assert run_command(lambda: suite([str(odd_file)])) == 2
    step = tmp_path / "checkpoints" / "step_000000000001"
    step.parent.mkdir()
    checkpoint.save(step.parent, 1, {}, {})
    for name in (checkpoint.WEIGHTS, checkpoint.META, checkpoint.MANIFEST):
        kept = (step / name).read_bytes()
        (step / name).unlink()
        if odd_file.exists() or odd_file.is_symlink():
            odd_file.rename(step / name)
        with pytest.raises(checkpoint.Damaged, match=name):
            checkpoint.load(step)
        if (step / name).exists() or (step / name).is_symlink():
            (step / name).rename(odd_file)
        (step / name).write_bytes(kept)


META = [
    {}, [], None, {"step": -1}, {"step": True}, {"step": "1"}, {"step": 1, "score": "high"},
    {"step": 1, "network": []}, {"step": 1, "progress": 3},
]  # fmt: skip


@pytest.mark.parametrize("meta", META, ids=str)
def test_a_consistent_checkpoint_of_wrong_types_is_damaged_not_a_traceback(tmp_path, meta):
    path = checkpoint.save(tmp_path, 1, {}, {})
    content = json.dumps(meta).encode()
    (path / checkpoint.META).write_bytes(content)
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    manifest["files"][checkpoint.META] = {
        "bytes": len(content),
        "sha256": checkpoint.hashlib.sha256(content).hexdigest(),
    }
    (path / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    found, (damaged,) = checkpoint.load_last(tmp_path)
    assert found is None and "meta.json is no checkpoint's" in damaged


def test_checks_between_fields_hold_for_any_sizes():
    for envs in (1, 3, 32):
        for fragment in (1, 20, 60):
            config = TrainConfig()
            config.runners.envs_per_runner, config.runners.fragment = envs, fragment
            for batch in range(1, 4 * envs * fragment, max(1, envs * fragment // 3)):
                config.training.batch = batch
                if batch % (envs * fragment):
                    with pytest.raises(UserError, match="no whole number of fragments"):
                        check(config)
                else:
                    check(config)
