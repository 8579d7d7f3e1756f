"""Writes the tables of the experiments' results into the pages that show them.

    python benchmarks/doc_tables.py            # all pages of docs/
    python benchmarks/doc_tables.py --check    # says which are not as the results are, and writes nothing

A page has a line `<!-- table: NAME -->`, an empty line, and the table of `docs/results/NAME.json`, which is replaced:
the results of an experiment, or of `benchmarks/delay.py`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from ct_rl.comparison_table import markdown

ONE_SIDE = 0.6  # right at most for a player who always goes to one side, behind any of the doors
DOCS = Path(__file__).resolve().parent.parent / "docs"
TABLE = re.compile(r"^(<!-- table: (\w+) -->\n)(?:\n(?:\|.*\n)+)?", re.MULTILINE)


def delays(results: dict[str, Any]) -> str:
    """The table of `benchmarks/delay.py`: a row a run, the highest rate first; bold is two errors above `ONE_SIDE`."""

    def cell(share: dict[str, float]) -> str:
        right = f"{share['right']:.2f}"
        return f"**{right}**" if share["right"] - 2 * share["error"] > ONE_SIDE else right

    runs = sorted(results["runs"], key=lambda run: (-run["rate"], run["run"]))
    lines = [["rate, reach", "seed", *map(str, runs[0]["delays"])]]
    lines.append(["---"] * len(lines[0]))
    for run in runs:
        seed = run["run"].rpartition("seed")[2]
        cells = map(cell, run["by_delay"].values())
        lines.append([f"{run['rate']}, {run['reach']} steps", seed, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def filled(page: str) -> str:
    """A page with its tables as the results are."""

    def table(found: re.Match[str]) -> str:
        results = json.loads((DOCS / "results" / f"{found[2]}.json").read_text())
        made = markdown(results) if "variants" in results else delays(results)
        return f"{found[1]}\n{made}"

    return TABLE.sub(table, page)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    other = [
        page for page in sorted(DOCS.glob("*.md")) if filled(page.read_text()) != page.read_text()
    ]
    for page in other:
        if not check:
            page.write_text(filled(page.read_text()))
        print(f"{page.name}: {'not as the results are' if check else 'written'}")
    sys.exit(bool(other) and check)


if __name__ == "__main__":
    main()
