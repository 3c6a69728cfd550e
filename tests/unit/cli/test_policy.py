"""``antiphon policy`` over a project that does not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from antiphon.cli.policy import app

SETTINGS = (
    '[project]\nname = "shops"\n[engine]\nkind = "simulated"\nmodels = ["base"]\n'
    '[policy]\nfiles = ["more.cedar"]\ntests = ["more.toml"]\n'
)
RULE = '@id("closed") forbid (principal in Role::"service", action == Action::"answer", resource);'
CASES = """
[[case]]
name = "closed"
principal = { role = "service" }
action = "answer"
resource = { kind = "stream", name = "x" }
expect = "deny"
by = ["closed"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "antiphon.toml").write_text(SETTINGS)
    (tmp_path / "more.cedar").write_text("")
    (tmp_path / "more.toml").write_text("case = []\n")
    return tmp_path


def run(project: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--project", str(project)])


def read(project: Path, *arguments: str) -> Any:
    result = run(project, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_change_goes_from_files_to_in_force(project: Path) -> None:
    assert run(project, "check").stdout.endswith("0 problems, 0 warnings.\n")
    (project / "more.cedar").write_text(RULE)
    failing = run(project, "test")
    assert failing.exit_code == 1
    assert "services ask [service answer]" in failing.stdout
    (project / "more.toml").write_text(CASES)
    # The default suite says that services ask: whoever closes that begins without it.
    whole = (
        project / "more.cedar"
    ).read_text() + '\n@id("admins") permit (principal in Role::"admin", action, resource);'
    (project / "more.cedar").write_text(whole)
    assert run(project, "test", "--without-defaults").stdout.endswith("Decide no case: admins.\n")
    proposed = read(project, "propose", "--reason", "night", "--without-defaults")
    assert (proposed["number"], proposed["state"]) == (1, "proposed")
    changed = run(project, "diff", "1").stdout
    assert '+@id("closed")' in changed
    assert "services ask [service answer]: allowed (service-asks) → denied (closed)" in changed
    assert read(project, "approve", "1", "--reason", "mine, in dev")["state"] == "in_force"
    assert [(one["number"], one["state"]) for one in read(project, "list")] == [(1, "in_force"), (0, "superseded")]
    assert RULE in run(project, "show").stdout
    assert RULE not in run(project, "show", "0").stdout


def test_explain_says_who_decided(project: Path) -> None:
    told = run(project, "explain", "clerk", "answer", "application/desk", "--role", "service").stdout
    assert "clerk (service, cleared for internal) may answer application/desk: by service-asks." in told
    found = read(
        project, "explain", "clerk", "promote", "release/r", "--role", "engineer", "--clearance", "restricted",
        "--context", "purpose=x", "--context", "as_of=3", "--entity", "origin=JFK",
    )  # fmt: skip
    assert found["decision"]["allowed"] is False
    assert "promotion-after-gates" in found["sentence"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("explain", "nobody", "answer", "a/b"), "There is no key"),
        (("explain", "x", "fly", "a/b", "--role", "admin"), "not an action"),
        (("explain", "x", "read", "a/b", "--role", "king"), "Invalid enum value"),
        (("explain", "x", "read", "a/b", "--role", "admin", "--context", "purpose"), "not KEY=VALUE"),
        (("explain", "x", "read", "a/b", "--role", "admin", "--context", "as_of=noon"), "no whole number"),
        (("approve", "7", "--reason", "why"), "no version 7"),
        (("propose", "--reason", " "), "rationale"),
    ],
)
def test_bad_input_says_what_to_do(project: Path, arguments: tuple[str, ...], said: str) -> None:
    result = run(project, *arguments)
    assert result.exit_code != 0
    assert said in str(result.exception)
    assert getattr(result.exception, "next_step", None)


def test_a_policy_that_does_not_parse_is_shown_by_check(project: Path) -> None:
    (project / "more.cedar").write_text("permit (principal, acti")
    result = run(project, "check")
    assert result.exit_code == 1
    assert "problem: " in result.stdout
