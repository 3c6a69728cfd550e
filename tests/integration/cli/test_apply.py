"""``antiphon plan`` and ``antiphon apply`` of a view that is published already, while nothing runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.cli.conftest import Ran
from tests.integration.services.test_apply_order import SETTINGS, STRICT, WINDOW, Harbor
from typer.testing import CliRunner

from antiphon.cli.main import assemble
from antiphon.cli.up import _greet
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.services.features.refreshing import refresh_now


@pytest.fixture
def harbor(tmp_path: Path) -> Harbor:
    """Its definitions are applied and published; its stores are closed."""
    harbor = Harbor(tmp_path)
    harbor.apply()
    refresh_now(harbor.store, harbor.platform, harbor.platform.refresh(harbor.store.scope))
    harbor.platform.close()
    harbor.store.close()
    return harbor


def run_in(folder: Path) -> Callable[..., Ran]:
    """Commands on a project, in this process: each start of the program takes longer than what is tested."""

    def run(*arguments: str) -> Ran:
        done = CliRunner().invoke(assemble(), [*arguments, "--project", str(folder)])
        if done.exception is None or isinstance(done.exception, SystemExit):
            return Ran(done.exit_code, done.stdout, done.stderr)
        assert isinstance(done.exception, AntiphonError), done.exception
        return Ran(done.exception.exit_code, done.stdout, f"{done.stderr}{done.exception}")

    return run


def test_a_plan_says_what_is_materialized_first_and_apply_waits_for_it(harbor: Harbor) -> None:
    antiphon = run_in(harbor.folder)
    harbor.declare(WINDOW)
    planned = antiphon("plan")
    assert "Materialized and published first, while what is live goes on answering" in planned.out
    assert "An apply is under way" not in planned.out
    left = antiphon("apply", "--no-wait", "--json").json()
    assert (left["activated"], left["run"].startswith("run_")) == ([], True)
    assert [one["view"] for one in left["plan"]["materializes"]] == ["traffic"]
    assert f"An apply is under way, run {left['run']}" in antiphon("plan").out
    text = antiphon("apply", "--no-wait")
    assert f"Not in force yet: run {left['run']}" in text.out, "the same apply is the same run"
    applied = antiphon("apply")
    assert applied.code == 0, applied.err
    assert "Went live: pilot." in applied.out
    assert f"features first, what is live goes on answering: run {left['run']}" in applied.err
    assert {change["change"] for change in antiphon("plan", "--json").json()["changes"]} == {"unchanged"}


def test_what_cannot_be_published_ends_the_command_with_the_reason_and_the_next_step(harbor: Harbor) -> None:
    antiphon = run_in(harbor.folder)
    harbor.declare(WINDOW, STRICT)
    refused = antiphon("apply")
    assert refused.code == 2
    assert "Nothing was applied: what was live goes on answering" in refused.err
    assert "antiphon apply" in refused.err
    assert antiphon("releases", "list", "pilot", "--json").json()[-1]["stage"] == "live"


async def test_a_platform_whose_features_cannot_be_published_says_that_it_is_up_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harbor, ready = Harbor(tmp_path), asyncio.Event()
    harbor.apply()
    (tmp_path / "calls.csv").unlink()
    ready.set()
    run = harbor.platform.refresh(harbor.store.scope)
    greeting = asyncio.create_task(_greet(harbor.store, ready, as_json=True, patience=0.0))
    with contextlib.suppress(InvalidInputError):
        await asyncio.to_thread(refresh_now, harbor.store, harbor.platform, run)
    await asyncio.wait_for(greeting, 60)
    harbor.platform.close()
    harbor.store.close()
    assert json.loads(capsys.readouterr().out)["unpublished"] == ["traffic"]


def test_a_plan_names_the_files_of_views_that_are_not_there(harbor: Harbor) -> None:
    table = harbor.folder / "calls.csv"
    antiphon = run_in(harbor.folder)
    assert "there is no file" not in antiphon("plan").out
    table.rename(table.with_suffix(".away"))
    planned = antiphon("plan")
    assert (planned.code, f"there is no file {table}." in planned.out) == (0, True), planned
    assert len(antiphon("plan", "--json").json()["missing"]) == 1


LABEL = {"type": "object", "properties": {"berth": {"type": "string", "enum": ["a", "b"]}}, "required": ["berth"]}
NOTICE = {"type": "object", "properties": {"notice": {"type": "string"}}, "required": ["notice"]}
TEXTS = {
    "plain": "",
    "notice": f"output={NOTICE}",
    "begun": 'ungated=GateExemption("it opens the port", releases="first")',
    "ungated": 'ungated="a test asks at once"',
    "label": f"output={LABEL}",
    "guarded": "guards=[PIIGuard()]",
    "corrected": "outcome=Outcome()",
    "measured": "metrics=[metrics.refusals()]",
    "regressed": 'gates=Gates(regressions=("complaints",))',
}
"""Name of an application to what it declares beside its prompt."""


def test_a_plan_names_applications_whose_texts_no_gate_reads(tmp_path: Path) -> None:
    (tmp_path / "antiphon.toml").write_text(SETTINGS)
    names = "Application, Gates, GateExemption, Outcome, PIIGuard, Prompt, metrics"
    prompt = 'features=[], model="base", purpose="guide", prompt=Prompt("{{ question }}")'
    declared = [f'Application("{name}", {prompt}, {parts})' for name, parts in TEXTS.items()]
    (tmp_path / "definitions.py").write_text("\n".join([f"from antiphon import {names}", *declared]))
    antiphon = run_in(tmp_path)
    planned = antiphon("plan", "--json")
    assert planned.code == 0, planned.err
    unread = planned.json()["unread"]
    assert {sentence.partition(":")[0] for sentence in unread} == {"plain", "notice", "begun"}
    assert all("docs/gates.md" in sentence for sentence in unread)
    assert set(unread) <= set(antiphon("plan").out.splitlines())
