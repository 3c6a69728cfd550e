"""Projects that ``antiphon init`` writes: their definitions, policies and own tests hold as they are written."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.integration.cli.conftest import run_in

from antiphon.cli.blueprints.mails import write_mails
from antiphon.cli.blueprints.products import write_products
from antiphon.cli.blueprints.tickets import write_tickets

BLUEPRINTS = {
    "desk": "desk",
    "triage": "triage",
    "extraction": "extract",
    "enrichment": "enrich",
    "assistant": "assistant",
}
"""Blueprint to the name of its application."""


@pytest.mark.parametrize("blueprint", BLUEPRINTS)
def test_a_new_project_has_no_mistake_and_passes_its_own_tests(blueprint: str, tmp_path: Path) -> None:
    antiphon = run_in(tmp_path)
    made = antiphon("init", "mine", "--blueprint", blueprint, "--json")
    assert made.code == 0, made.err
    planned = antiphon("plan", "--project", "mine", "--json").json()["changes"]
    assert ("application", BLUEPRINTS[blueprint]) in {(change["noun"], change["name"]) for change in planned}
    tested = antiphon("policy", "test", "--project", "mine")
    assert tested.code == 0, tested.out + tested.err
    own = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."],
        cwd=tmp_path / "mine", env={**os.environ, "PYTEST_ADDOPTS": ""}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert own.returncode == 0, own.stdout


@pytest.mark.parametrize("write", [write_tickets, write_mails, write_products])
def test_the_same_records_are_written_for_the_same_time(write, tmp_path: Path) -> None:
    until = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        assert write(tmp_path / folder, until) >= 100
    for file in (found for found in (tmp_path / "a").rglob("*") if found.is_file()):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()
        assert "2026-03-01T13" not in file.read_text()
