"""Hooks of the documentation site (mkdocs.yml).

Pages that live at the root of the repository (README, ARCHITECTURE, CHANGELOG) are included by a line
``{{ include FILE }}`` or ``{{ include FILE#section }}``. Links to files outside ``docs/`` become links to the
repository, and marks on code fences that only the documentation tests read are taken away.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
_INCLUDE = re.compile(r"^\{\{ include ([\w./-]+)(?:#(\w+))? \}\}$", re.MULTILINE)
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)]*)?(?=\))")
_FENCE = re.compile(r"^(\s*```\w+)[^\n{`]+$", re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Returns the page's text as mkdocs is to read it."""
    folder = posixpath.dirname(posixpath.join("docs", page.file.src_uri))
    text = _relink(markdown, folder, folder)
    text = _INCLUDE.sub(lambda match: _relink(_section(match[1], match[2]), "", folder), text)
    return _FENCE.sub(r"\1", text)


def _section(name: str, section: str | None) -> str:
    text = (ROOT / name).read_text()
    if section is None:
        return text
    found = re.search(rf"<!-- {section} -->\n(.*?)<!-- /{section} -->", text, re.DOTALL)
    if found is None:
        raise ValueError(f"{name} has no section {section!r} between <!-- {section} --> and <!-- /{section} -->.")
    return found[1]


def _relink(text: str, written_in: str, shown_in: str) -> str:
    """Rewrites links of a text from the folder ``written_in`` to the folder ``shown_in``; both relative to the root."""

    def rewrite(match: re.Match[str]) -> str:
        opening, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(written_in, target))
        if path == "docs/adr":
            path = "docs/adr/README.md"
        if path in {"ARCHITECTURE.md", "CHANGELOG.md"}:
            path = f"docs/{path.lower()}"
        if not path.startswith("docs/"):
            return f"{opening}{SOURCE}/{path}{anchor}"
        return f"{opening}{posixpath.relpath(path, shown_in)}{anchor}"

    return _LINK.sub(rewrite, text)
