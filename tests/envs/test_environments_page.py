"""docs/environments.md against the code."""

import dataclasses
import json
import re
from pathlib import Path

import envs
from envs.observations import CHANNELS, ENLARGED, LARGEST, MANY, SMALLEST
from envs.room import RoomSettings
from envs.third_party import PACKAGES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")


def test_every_setting_and_benchmark_stands_on_the_page():
    table = PAGE[PAGE.index("### Settings") : PAGE.index("### The 36 objects")]
    rows = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.M)
        for name in re.findall(r"`(\w+)`", row)
    }
    settings = {field.name for field in dataclasses.fields(RoomSettings)}
    assert rows == settings | {"renderer", "autoreset_mode"}
    for benchmark in PACKAGES:
        assert benchmark.title in PAGE and benchmark.install.split(" and ")[0] in PAGE


def test_the_pages_numbers_are_the_measured_ones():
    measured = json.loads((ROOT / "benchmarks" / "environments.json").read_text())
    ran = [row for row in measured["speeds"] if "not_run" not in row]
    assert len(ran) >= 5
    for row in ran:
        assert f"| {row['steps_per_cpu_second']:,.0f} | {row['memory_mb']:.0f} |" in PAGE
    for row in measured["scores"]:
        assert f"| {row['mean_return']:.2f} +- {row['standard_error']:.2f} |" in PAGE
    assert f"{measured['memory']['growth_mb']:+.2f} MB" in PAGE


def test_the_page_tells_how_to_bring_ones_own():
    for name in ("register", "names", "adapt", "adapt_vec", "make_vec"):
        assert hasattr(envs, name) and f"envs.{name}(" in PAGE
    for word in ("--import", "module", "`action_mask`", "`own_last_reward`", "`instruction:PATH`"):
        assert word in PAGE
    assert f"sides beyond {LARGEST}" in PAGE and f"{MANY:,} numbers" in PAGE
    assert (
        f"up to {CHANNELS} channels, sides from {ENLARGED}" in PAGE
        and f"sides of {SMALLEST}" in PAGE
    )
