"""The documentation site: it builds without a warning, needs no network to be read, and its reference is complete."""

import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ct_rl", "ct_rl.memory", "agents", "envs")

pytest.importorskip("mkdocs")
pytest.importorskip("material")
pytest.importorskip("mkdocstrings")
pytestmark = pytest.mark.slow


class Loads(HTMLParser):
    """What a page loads by itself, without a click."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "link" and given.get("rel") != "canonical":
            self.found.append(given.get("href", ""))
        elif tag != "a":
            self.found.append(given.get("src") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_of_docs_is_there_and_nothing_is_loaded_from_elsewhere(site):
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / page.with_suffix(".html").name).exists()
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text())
        assert loads.found and not [x for x in loads.found if re.match(r"(https?:)?//", x)]
        assert 'class="mermaid"' not in page.read_text()  # would fetch its drawing program


def test_the_reference_has_every_public_name_and_what_it_does(site):
    for package in PACKAGES:
        text = (site / "reference" / f"{package}.html").read_text()
        for name in importlib.import_module(package).__all__:
            assert re.search(rf'<h2 id="[\w.]+\.{name}"', text), f"{package}.{name}"
    assert "Makes an environment known as" in text  # envs.register, from its docstring
