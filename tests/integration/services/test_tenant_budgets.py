"""Budgets of another tenant at the terminal, and settings of budgets that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from antiphon.cli.main import assemble
from antiphon.core import settings
from antiphon.core.errors import InvalidInputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "antiphon.toml").write_text("")
    (tmp_path / "definitions.py").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_budgets_of_another_tenant_are_listed_shown_and_removed(folder: Path) -> None:
    runner = CliRunner()

    def run(*arguments: str) -> str:
        result = runner.invoke(assemble(), list(arguments))
        assert result.exit_code == 0, result.output
        return result.stdout

    run("tenants", "create", "rival")
    run("budgets", "set", "whole", "--tenant", "rival", "--limit", "5", "--reason", "a trial")
    assert json.loads(run("budgets", "list", "--json")) == []
    (listed,) = json.loads(run("budgets", "list", "--tenant", "rival", "--json"))
    assert listed["budget"]["name"] == "whole"
    assert "5.000000" in run("budgets", "show", "whole", "--tenant", "rival")
    refused = runner.invoke(assemble(), ["budgets", "remove", "whole", "--reason", "over"])
    assert refused.exit_code != 0, "it is no budget of the own tenant"
    run("budgets", "remove", "whole", "--tenant", "rival", "--reason", "over")
    assert json.loads(run("budgets", "list", "--tenant", "rival", "--json")) == []
    unknown = runner.invoke(assemble(), ["budgets", "list", "--tenant", "nobody"])
    assert unknown.exit_code != 0
    assert "There is no tenant 'nobody'." in str(unknown.exception or unknown.output)


@pytest.mark.parametrize("line", ["token_seconds = -0.1", "token_seconds = 3601.0", 'patience = "-5s"'])
def test_bounds_of_what_is_reserved_are_refused_by_name_where_they_cannot_be(folder: Path, line: str) -> None:
    (folder / "antiphon.toml").write_text(f"[budgets]\n{line}\n")
    with pytest.raises(InvalidInputError, match=f"budgets.{line.split()[0]}") as refused:
        settings.load(folder)
    assert refused.value.next_step == "See docs/settings.md for every field."
