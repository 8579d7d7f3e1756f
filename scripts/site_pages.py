"""Pages of the documentation site that come from elsewhere in the repository (a hook of `mkdocs.yml`).

The front page is README.md. The reference lists the names in the packages' `__all__`, with their docstrings. A link out
of docs/ leads to a copy within the site: code becomes a page of its own, other files stay as they are.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"ct_rl": "ct_rl", "ct_rl.memory": "ct_rl/memory", "agents": "agents", "envs": "envs"}
PAGES = {  # of the repository, outside docs/, and their names in the site
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/README.md": "examples.md",
}
_HOMES = {page: os.path.dirname(source) for source, page in PAGES.items()}
_MORE = {"agents": ["rllib.config.MemoryAlgorithmConfig"]}  # what the configs have in common
_CODE = {".py": "python", ".yaml": "yaml", ".sh": "bash"}
_LINK = re.compile(r"(\]\()([^)\s#:]+)")


def public_names(package: str) -> list[str]:
    """What `__all__` of a package lists, without importing it."""
    source = ROOT / PACKAGES[package] / "__init__.py"
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    raise ValueError(f"{source} has no __all__")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made, and every file outside docs/ that some page links to."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for package in PACKAGES:
        names = [*public_names(package), *_MORE.get(package, ())]
        text = "\n\n".join(f"::: {package}.{name}" for name in names)
        page = f"reference/{package}.md"
        files.append(File.generated(config, page, content=f"# {package}\n\n{text}\n"))
    linked = {
        path
        for file in list(files.documentation_pages())
        for _, link in _LINK.findall(file.content_string)
        if (path := _outside(file.src_uri, link)) is not None
    }
    for path in sorted(linked):
        files.append(_copy(path, config))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """The page's text with links that mean the site's own copies."""

    def replace(match: re.Match[str]) -> str:
        target = _target(page.file.src_uri, match[2])
        return match[0] if target is None else match[1] + target

    return _LINK.sub(replace, markdown)


def _repository_path(page: str, link: str) -> str | None:
    """The file of the repository that a page's link means; None where there is none."""
    home = _HOMES.get(page, f"docs/{os.path.dirname(page)}")
    path = os.path.normpath(os.path.join(home, link))
    if f"{path}/README.md" in PAGES:
        path += "/README.md"
    return path if not path.startswith("..") and (ROOT / path).is_file() else None


def _outside(page: str, link: str) -> str | None:
    path = _repository_path(page, link)
    return None if path is None or path.startswith("docs/") or path in PAGES else path


def _target(page: str, link: str) -> str | None:
    """The link as the site has it, relative to the page."""
    path = _repository_path(page, link)
    if path is None:
        return None
    place = PAGES.get(path) or path.removeprefix("docs/")
    if _outside(page, link) is not None:
        place = _place(path)
    return os.path.relpath(place, os.path.dirname(page) or ".")


def _place(path: str) -> str:
    return f"source/{path}" + (".md" if Path(path).suffix in _CODE else "")


def _copy(path: str, config: MkDocsConfig) -> File:
    language = _CODE.get(Path(path).suffix)
    if language is None:
        return File.generated(config, _place(path), abs_src_path=str(ROOT / path))
    text = (ROOT / path).read_text(encoding="utf-8")
    fenced = f"`````{language}\n{text}`````\n"  # longer than any fence within
    return File.generated(config, _place(path), content=f"# {path}\n\n{fenced}")
