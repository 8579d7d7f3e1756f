"""Writes the tables of the experiments' results into the pages that show them.

    python benchmarks/doc_tables.py            # all pages of docs/
    python benchmarks/doc_tables.py --check    # says which are not as the results are, and writes nothing

A page has a line `<!-- table: NAME -->`, for `docs/results/NAME.json`, an empty line and the table, which is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from ct_rl.comparison_table import markdown

DOCS = Path(__file__).resolve().parent.parent / "docs"
TABLE = re.compile(r"^(<!-- table: (\w+) -->\n)(?:\n(?:\|.*\n)+)?", re.MULTILINE)


def filled(page: str) -> str:
    """A page with its tables as the results are."""

    def table(found: re.Match[str]) -> str:
        results = json.loads((DOCS / "results" / f"{found[2]}.json").read_text())
        return f"{found[1]}\n{markdown(results)}"

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
