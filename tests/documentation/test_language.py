"""Names, docstrings and imports keep the rules of docs/glossary.md."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from benchmarks.structure import Offence, Structure, circles, measure

KINDS = ["participles", "duplicates", "question_docstrings", "private_words"]


@cache
def structure() -> Structure:
    return measure()


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_docstrings_keep_the_rule(kind: str) -> None:
    offences: list[Offence] = getattr(structure(), kind)
    assert [str(each) for each in offences] == []


def test_ports_stay_few() -> None:
    """A Protocol has two production implementations, or lets a lower room call a higher one."""
    assert len(structure().protocols) <= 40


def test_no_circle_between_files() -> None:
    assert structure().circles == []


def test_every_rule_finds_its_offence(tmp_path: Path) -> None:
    (tmp_path / "antiphon").mkdir()
    (tmp_path / "antiphon" / "first.py").write_text(
        '"""What it is."""\nfrom antiphon import second\nclass Asked: ...\nclass Request: ...\ndef lane(): ...\n'
    )
    (tmp_path / "antiphon" / "second.py").write_text("from antiphon import first\nclass Request: ...\n")
    glossary = tmp_path / "glossary.md"
    glossary.write_text("## Do not use\n\n| word | instead |\n|---|---|\n| `lane` | executor |\n")
    found = measure(tmp_path, glossary)
    assert [each.name for each in found.participles] == ["Asked"]
    assert [each.name for each in found.duplicates] == ["Request", "Request"]
    assert [each.text for each in found.question_docstrings] == ["What it is."]
    assert [each.name for each in found.private_words] == ["lane"]
    assert found.circles == [["antiphon.first", "antiphon.second"]]


def test_a_chain_is_no_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
