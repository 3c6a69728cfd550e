"""Documents agree with the code and with each other: links resolve, decisions are whole, nothing is left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from antiphon.core.settings import Settings

ROOT = Path(__file__).parents[2]
DECISIONS = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def tokens(text: str) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        yield from token.children or ()


def slug(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    parsed = list(MarkdownIt("commonmark").enable("table").parse(path.read_text()))
    return {slug(parsed[at + 1].content) for at, token in enumerate(parsed) if token.type == "heading_open"}


def broken_links(document: Path) -> list[str]:
    wrong = []
    for token in tokens(document.read_text()):
        target = str(token.attrs.get("href") or token.attrs.get("src") or "")
        if not target or re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_inside_the_repository_resolve(document: Path) -> None:
    assert broken_links(document) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# Some: heading!\n")
    document = tmp_path / "a.md"
    document.write_text("[1](b.md) [2](c.md) [3](b.md#some-heading) [4](b.md#other) ![5](d.png) [6](https://x.y)\n")
    assert broken_links(document) == ["c.md", "b.md#other", "d.png"]


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.name)
def test_a_decision_has_all_its_parts(decision: Path) -> None:
    text = decision.read_text()
    assert re.match(rf"# {decision.name[:4]}[:.]? ", text), "it begins with its number and its name"
    said = re.findall(r"^(?:## |\*\*)(\w+)", text, re.MULTILINE)
    assert {"Context", "Decision", "Rejected"} <= set(said)
    # A decision about correctness has no milliseconds to show; it says what it was checked by.
    assert {"Numbers", "Checked"} & set(said)


def test_decisions_are_numbered_once() -> None:
    numbers = [path.name[:4] for path in DECISIONS]
    assert numbers
    assert len(set(numbers)) == len(numbers)


def test_every_decision_is_in_the_index() -> None:
    listed = re.findall(r"^\| \[\d+\]\(([^)]+)\)", (ROOT / "docs" / "adr" / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [path.name for path in DECISIONS]


def sections() -> list[tuple[str, str, Any]]:
    """(section, field, default); of a section whose kinds have fields of their own, those of each."""

    def below(name: str, shape: Any) -> Iterator[tuple[str, str, Any]]:
        for field in msgspec.structs.fields(shape):
            made = field.default_factory if field.default_factory is not msgspec.NODEFAULT else lambda: None
            default = field.default if field.default is not msgspec.NODEFAULT else made()
            if isinstance(default, msgspec.Struct):
                yield from below(f"{name}.{field.name}", field.type)
            else:
                yield name, field.name, default

    def of(section: Any) -> Iterator[tuple[str, str, Any]]:
        # A table of sections, `[engines.NAME]`, has the fields of one of them.
        named = get_args(section.type)
        if not named:
            yield from below(section.name, section.type)
        elif kinds := get_args(named[1]):
            yield f"{section.name}.NAME", "kind", None
            for kind in kinds:
                yield from below(f"{section.name}.NAME", kind)
        else:
            yield from below(f"{section.name}.NAME", named[1])

    found = [one for section in msgspec.structs.fields(Settings) for one in of(section)]
    return [one for place, one in enumerate(found) if one not in found[:place]]


def documented_settings() -> dict[tuple[str, str], str | None]:
    """(section, field) to the default as it is written; a row may have several fields and as many defaults."""
    found: dict[tuple[str, str], str | None] = {}
    section = ""
    for line in (ROOT / "docs" / "settings.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        fields = re.findall(r"`(\w+)`", cells[1]) if len(cells) == 4 else []
        if fields:
            section = cells[0].strip("`") or section
            defaults: list[str | None] = [*re.findall(r"`([^`]+)`", cells[2])] or [None] * len(fields)
            found |= {(section, field): default for field, default in zip(fields, defaults, strict=True)}
    return found


@pytest.mark.parametrize(("section", "field", "default"), sections(), ids=str)
def test_every_setting_is_documented_with_its_default(section: str, field: str, default: Any) -> None:
    shown = documented_settings()[section, field]
    plain = json.loads(msgspec.json.encode(default))
    assert shown == plain or (shown is not None and not isinstance(plain, str) and json.loads(shown) == plain)


def test_no_setting_is_documented_that_does_not_exist() -> None:
    assert sorted(documented_settings()) == sorted((section, field) for section, field, _ in sections())


def commands() -> list[str]:
    import typer

    from antiphon.cli.main import assemble

    def below(command: Any, path: str) -> Iterator[str]:
        if getattr(command, "commands", None):
            for name, sub in command.commands.items():
                yield from below(sub, f"{path} {name}")
        else:
            yield path

    return list(below(typer.main.get_command(assemble()), "antiphon"))


def test_every_command_is_documented_and_every_documented_one_exists() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    documented = re.findall(r"^\| `(antiphon(?: [a-z-]+)+)", text, re.MULTILINE)
    assert sorted(documented) == sorted(commands())


def test_commands_named_in_prose_exist() -> None:
    known = commands()
    for document in DOCUMENTS:
        for named in re.findall(r"`(antiphon(?: [a-z][a-z-]*)+)", document.read_text()):
            words = named.split()
            assert any(command.split()[: len(words)] == words[: len(command.split())] for command in known), (
                f"{document.name}: {named}"
            )
