"""The Markdown table of an experiment's results, and the pages that show one."""

import importlib.util
import json
from pathlib import Path

from ct_rl.comparison_table import markdown

ROOT = Path(__file__).parents[2]


def run(steps=200_000, passed=None, **ways):
    reached = {"33": passed and {"steps": passed, "minutes": 1.0}}
    evaluation = {way: {"choice_accuracy": right} for way, right in ways.items()}
    return {"steps": steps, "reached": reached, "evaluation": evaluation}


def variant(values, mean, interval, runs, area):
    score = {"values": values, "mean": mean, "interval": interval}
    return {"runs": runs, "scores": {"greedy": score}, "area": {"mean": area}}


def results(variants, measure="return"):
    return {"measure": measure, "levels": [33.0], "variants": variants}


def test_a_row_has_every_seed_the_mean_and_its_interval():
    runs = [run(passed=123_000, greedy=0.9), run(greedy=0.8)]
    two = variant([52.04, 47.0], 49.52, [47, 52.04], runs, 21.16)
    one = variant([None], None, None, [run(greedy=0.5)], None)
    assert markdown(results({"a|b": two, "lstm": one})).splitlines() == [
        "| variant | above 33 [M steps] | greedy, each seed | mean, 95 % | right | area |",
        "| --- | --- | --- | --- | --- | --- |",
        "| a&#124;b | 0.12, - | 52.0, 47.0 | 49.5 (47.0 to 52.0) | 0.85 | 21.2 |",
        "| lstm *(1 seed)* | - | - | - | 0.50 | - |",
    ]


def test_shares_have_two_places_and_short_runs_thousands_of_steps():
    short = variant([0.52], 0.52, None, [run(steps=1_600, passed=1_200, greedy=0.52)], 0.5)
    table = markdown(results({"a": short}, "choice_accuracy"))
    assert table.splitlines()[0::2] == [
        "| variant | above 33 [k steps] | greedy, each seed | mean, 95 % | area |",
        "| a | 1 | 0.52 | 0.52 | 0.50 |",
    ]


def test_the_tables_of_the_pages_are_those_of_the_results():
    """Where it fails: python benchmarks/doc_tables.py."""
    place = ROOT / "benchmarks" / "doc_tables.py"
    spec = importlib.util.spec_from_file_location("doc_tables", place)
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    pages = [page.read_text() for page in (ROOT / "docs").glob("*.md")]
    assert sum(len(tables.TABLE.findall(page)) for page in pages) >= 5
    assert all(tables.filled(page) == page for page in pages)
    name = "rooms_select_rates"
    known = markdown(json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text()))
    for old in ("", "\n| old |\n| older |\n"):
        page = tables.filled(f"a\n<!-- table: {name} -->\n{old}\nb\n")
        assert page == f"a\n<!-- table: {name} -->\n\n{known}\nb\n"
