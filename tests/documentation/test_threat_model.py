"""The threat model names tests that exist, and leaves no penetration test out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "threat-model.md"
OWASP = [f"LLM{number:02}" for number in range(1, 11)]


def named() -> set[str]:
    return set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", DOCUMENT.read_text()))


def written_in(file: Path) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        f"{file.relative_to(ROOT)}::{node.name}"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, functions) and node.name.startswith("test_")
    }


def test_every_named_test_exists() -> None:
    files = {ROOT / name.partition("::")[0] for name in named()}
    assert named() - {test for file in files if file.is_file() for test in written_in(file)} == set()


def test_every_penetration_test_is_named() -> None:
    tests = {test for file in (ROOT / "tests" / "pentest").glob("test_*.py") for test in written_in(file)}
    assert len(tests) > 40
    assert tests - named() == set()


def test_every_risk_of_the_list_is_answered() -> None:
    text = DOCUMENT.read_text()
    assert [risk for risk in OWASP if f"| {risk} |" not in text] == []
