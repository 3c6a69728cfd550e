"""``antiphon outcomes`` and ``antiphon datasets`` on a project that does not run."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.cli.conftest import Ran, Run
from tests.unit.catalog.examples import receipt
from typer.testing import CliRunner

from antiphon.cli.main import assemble
from antiphon.core.errors import AntiphonError
from antiphon.core.ids import canonical, content_hash
from antiphon.durable.claims import ServedRuns
from antiphon.learning.outcomes.drift import Drift
from antiphon.learning.outcomes.drift_report import DriftReport
from antiphon.learning.outcomes.drift_runs import WORKFLOW
from antiphon.services.project.store import Store
from antiphon.serving.answering.context import subject_of

DAY0 = datetime(2013, 4, 1, tzinfo=UTC)
DEFINITIONS = """
from antiphon import (
    Application, Entity, Figure, FineTune, Outcome, Prompt, Source, TrainingWindow, count, feature_view,
)

stop = Entity("stop", keys=["stop"])
passes = Source.table("passes", path="passes.csv", event_time="due", available_at="seen", event_id="id")
flown = Source.table("flown", path="flown.csv", event_time="asked", available_at="known", event_id="id")

@feature_view(entity=stop, source=passes)
class Recent:
    passes = count(window="6h")

desk = Application(
    "desk", ungated="a test asks at once",
    entities=[stop], features=[Recent], purpose="inform", figures=[Figure("recent.passes")],
    prompt=Prompt("{{ entity.stop }} {{ features.recent.passes }}"),
    output={"type": "object", "properties": {"late": {"enum": ["yes", "no"]}}, "required": ["late"],
            "additionalProperties": False},
    model=FineTune(base="smollm2-135m", window=TrainingWindow(history="30d", embargo="2d"), examples=40),
    outcome=Outcome("late", positive="yes", history=flown),
)
"""


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learning")
    (folder / "antiphon.toml").write_text('[project]\nname = "learning"\n[engine]\nkind = "simulated"\n')
    (folder / "definitions.py").write_text(DEFINITIONS)
    hours = [DAY0 + timedelta(hours=n) for n in range(200)]
    write(folder / "passes.csv", [{"id": n, "stop": "a", "due": at, "seen": at} for n, at in enumerate(hours)])
    rows = [
        {
            "id": f"q{n}",
            "stop": "ab"[n % 2],
            "asked": at,
            "known": at + timedelta(hours=2),
            "late": "yes" if n % 3 == 0 else "no",
        }
        for n, at in enumerate(hours)
    ]
    write(folder / "flown.csv", rows)
    applied = in_process(folder)("apply", "--json")
    assert applied.code == 0, applied.err
    return folder


def in_process(folder: Path) -> Run:
    """The program without a process for each command."""
    runner, program = CliRunner(), assemble()

    def run(*arguments: str, **environment: str) -> Ran:
        given = [str(folder / each) if each.endswith(".csv") else each for each in arguments]
        result = runner.invoke(program, given, env={"ANTIPHON_PROJECT": str(folder), **environment})
        if isinstance(result.exception, AntiphonError):
            return Ran(result.exception.exit_code, result.stdout, str(result.exception))
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def antiphon(desk: Path) -> Run:
    return in_process(desk)


@pytest.fixture(scope="module")
def predicted(desk: Path) -> None:
    """Predictions about every hour of the first day."""
    store = Store.open(desk)
    entity = canonical({"stop": "a"})
    for n in range(0, 24, 2):
        at = DAY0 + timedelta(hours=n)
        made = receipt(
            f"p{n}", store.scope, release=store.releases.list(store.scope)[0].id, as_of=at, created_at=at,
            subject=subject_of(store.secret("subject"), store.scope, {"stop": "a"}), entity_blob=content_hash(entity),
            classes={"late": {"yes": 0.75 if n % 3 == 0 else 0.25}},
        )  # fmt: skip
        store.receipts.add(made, [entity])
    store.close()


def test_outcomes_are_imported_from_the_historys_own_table(antiphon: Run, predicted: None) -> None:
    tried = antiphon("outcomes", "import", "desk", "flown.csv", "--dry-run", "--json").json()
    assert tried == {
        "application": "desk", "rows": 200, "outcomes": {"joined": 12, "unknown": 188}, "refused": 0, "refusals": [],
        "dry_run": True,
    }  # fmt: skip
    first = antiphon("outcomes", "import", "desk", "flown.csv", "--json").json()
    assert first == {**tried, "dry_run": False}
    assert antiphon("outcomes", "import", "desk", "flown.csv", "--json").json() == first
    status = antiphon("outcomes", "status", "desk", "--json").json()
    assert status["counts"] == {"label": {"joined": 12, "unknown": 188}}
    assert status["whole"]["metrics"]["auc"] == 1.0
    assert status["coverage"][0]["labelled"] == 12
    shown = antiphon("outcomes", "status", "desk").out
    assert "100%" in shown
    assert "AUC" in shown
    assert len(antiphon("outcomes", "list", "desk", "--status", "joined", "--json").json()) == 12
    assert antiphon("outcomes", "rejoin", "desk", "--json").json() == {"joined": 0}
    assert antiphon("outcomes", "drift", "desk", "--json").json()["forecasts"][0]["verdict"] == "too-few"
    none = antiphon("outcomes", "drift", "desk", "--kept")
    assert "There is no report of drift of desk yet." in none.err
    assert "[worker] drift" in none.err


def test_the_newest_report_of_drift_is_shown_and_warned_of(antiphon: Run, desk: Path) -> None:
    store = Store.open(desk)
    texts = (Drift("what is asked", 0.8, 0.55, 200, 200, "shifted", DAY0),)
    report = DriftReport("desk", DAY0, texts=texts, problems=("Metrics are not compared: it rains.",))
    store.runs.submit(store.scope, WORKFLOW, {})
    claimed = store.runs.claim("worker", ServedRuns(store.scope.environment, (WORKFLOW,)), timedelta(minutes=1))
    assert claimed is not None
    store.runs.end(claimed, {"reports": {"desk": msgspec.to_builtins(report)}})
    store.close()
    shown = antiphon("outcomes", "drift", "desk", "--kept").out
    for said in ("what is asked", "shifted since", "Metrics are not compared: it rains."):
        assert said in shown
    assert "desk: drift since" in antiphon("status").out


def test_rows_that_are_refused_are_named_and_the_others_taken(antiphon: Run, desk: Path, predicted: None) -> None:
    at = DAY0.isoformat()
    rows = [
        {"prediction": "p2", "thumbs": "up", "at": "", "stop": "", "known": ""},
        {"prediction": "p2", "thumbs": "sideways", "at": "", "stop": "", "known": ""},
        {"prediction": "", "thumbs": "up", "at": at, "stop": "", "known": at},
        {"prediction": "", "thumbs": "up", "at": "noon", "stop": "a", "known": at},
        {"prediction": "", "thumbs": "down", "at": at, "stop": "a", "known": at},
    ]
    write(desk / "thumbs.csv", rows)
    ran = antiphon("outcomes", "import", "desk", "thumbs.csv")
    assert ran.code == 0, ran.err
    assert "5 rows: 1 joined, 1 late; 3 refused" in ran.out
    for told in ("row 2: ", "row 3: ", "row 4: at is 'noon'"):
        assert told in ran.out
    write(desk / "nothing.csv", [{"stop": "a", "at": at}])
    assert "no column with a value" in antiphon("outcomes", "import", "desk", "nothing.csv").err
    assert "no column 'when'" in antiphon("outcomes", "import", "desk", "thumbs.csv", "--at", "when").err
    gone = antiphon("outcomes", "import", "gone", "thumbs.csv")
    assert (gone.code, "no application 'gone'" in gone.err) == (3, True)
    assert "is no status" in antiphon("outcomes", "list", "desk", "--status", "sad").err


def test_datasets_are_built_listed_shown_and_built_again(antiphon: Run, desk: Path) -> None:
    cutoff = ("--cutoff", "2013-04-09T00:00:00Z", "--from", "history")
    survey = antiphon("datasets", "build", "desk", *cutoff, "--dry-run", "--json").json()
    assert (survey["rows"], sum(survey["labels"].values())) == (40, 40)
    built = antiphon("datasets", "build", "desk", *cutoff, "--json").json()
    assert (built["rows"], built["dropped"]["sampled-out"]) == (40, survey["dropped"]["sampled-out"])
    held_out = antiphon("datasets", "build", "desk", *cutoff, "--kind", "evaluation").out
    assert "evaluation set of desk" in held_out
    assert [each["id"] for each in antiphon("datasets", "list", "desk", "--json").json()][-1] == built["id"]
    assert f"values    {built['logical_hash']}" in antiphon("datasets", "show", built["id"]).out
    again = antiphon("datasets", "rebuild", built["id"])
    assert (again.code, "the same values" in again.err) == (0, True)
    before = (desk / "passes.csv").read_text()
    (desk / "passes.csv").write_text("\n".join(before.splitlines()[:100]) + "\n")
    changed = antiphon("datasets", "rebuild", built["id"])
    (desk / "passes.csv").write_text(before)
    assert (changed.code, "the file of passes changed" in changed.err) == (5, True)


def test_a_table_kept_aside_is_an_evaluation_set(antiphon: Run, desk: Path) -> None:
    rows = (desk / "flown.csv").read_text().splitlines()
    (desk / "aside.csv").write_text("\n".join([rows[0], *rows[-30:]]) + "\n")
    words = ("--kind", "evaluation", "--from", "history", "--cutoff", "2013-04-20T00:00:00Z")
    limits = ("--first", "2013-04-01T00:00:00Z", "--last", "2013-04-20T00:00:00Z", "--table", "aside.csv")
    aside = antiphon("datasets", "build", "desk", *words, *limits, "--json").json()
    assert 0 < aside["rows"] <= 30
    assert aside["spec"]["history"]["path"] == str(desk / "aside.csv")
    assert antiphon("datasets", "rebuild", aside["id"]).code == 0
    gone = antiphon("datasets", "build", "desk", "--table", "gone.csv")
    assert (gone.code, "There is no file" in gone.err) == (2, True)


def test_what_cannot_be_built_is_said(antiphon: Run) -> None:
    nothing = antiphon("datasets", "build", "desk", "--from", "history")
    assert nothing.code == 2
    assert "There is no example" in nothing.err
    assert "The moments there are reach from 2013-04-01" in nothing.err
    assert "do not come from hearsay" in antiphon("datasets", "build", "desk", "--from", "hearsay").err
    assert "is no kind" in antiphon("datasets", "build", "desk", "--kind", "test").err
    assert antiphon("datasets", "show", "gone").code == 3
