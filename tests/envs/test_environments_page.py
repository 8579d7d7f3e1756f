"""docs/environments.md against the code."""

import dataclasses
import json
import re
from pathlib import Path

from envs.benchmarks import BENCHMARKS
from envs.room import RoomSettings

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
    for benchmark in BENCHMARKS:
        assert benchmark.title in PAGE and benchmark.install.split(" and ")[0] in PAGE


def test_the_pages_numbers_are_the_measured_ones():
    measured = json.loads((ROOT / "benchmarks" / "environments.json").read_text())
    for row in measured["speeds"]:
        assert f"| {row['steps_per_cpu_second']:,.0f} | {row['memory_mb']:.0f} |" in PAGE
    for row in measured["scores"]:
        assert f"| {row['mean_return']:.2f} +- {row['standard_error']:.2f} |" in PAGE
    assert f"{measured['memory']['growth_mb']:+.2f} MB" in PAGE
