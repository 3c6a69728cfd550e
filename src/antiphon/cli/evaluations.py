"""``antiphon evaluations``: what was measured of releases, and the safety suites that they are tried with."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from antiphon.cli import entity as entities
from antiphon.cli import regressions
from antiphon.cli.models import evaluated, gates_table, suites_table
from antiphon.cli.options import HERE, Json, Limit, OnlyApplication, Project
from antiphon.cli.output import Progress, shortened, show, table
from antiphon.cli.project import at_terminal, require_application, stores
from antiphon.cli.regressions import JsonLines
from antiphon.core.errors import InvalidInputError
from antiphon.core.settings import FILE_NAME

if TYPE_CHECKING:
    from antiphon.catalog.learning.evaluations import Evaluation, IntervalEstimate
    from antiphon.catalog.learning.safety import SafetyReport
    from antiphon.learning.evaluation.safety.probes import SafetyProbe

app = typer.Typer(name="evaluations", help="Evaluations of releases, and safety suites.", no_args_is_help=True)
for _name, _command in (
    ("sets", regressions.sets), ("cases", regressions.cases), ("add", regressions.add), ("run", regressions.run),
    ("import", regressions.import_cases), ("remove", regressions.remove),
):  # fmt: skip
    app.command(_name)(_command)


@app.command("list")
def list_evaluations(
    application: OnlyApplication = "", limit: Limit = 50, project: Project = HERE, as_json: Json = False
) -> None:
    """Evaluations and safety reports, newest first."""
    with stores(project) as store:
        name = application or None
        evaluations = store.evaluations.list(store.scope, name, limit=limit)
        reports = store.safety_reports.list(store.scope, name, limit=limit)
        if not evaluations and not reports:
            require_application(store, name)
    both: list[Evaluation | SafetyReport] = [*evaluations, *reports]
    found = sorted(both, key=lambda one: (one.created_at, one.id), reverse=True)[:limit]
    lines = [
        {
            "id": one.id,
            "application": one.application,
            "release": one.release,
            "on": getattr(one, "dataset", "no evaluation set"),
            "passed": one.passed,
            "created_at": one.created_at,
        }
        for one in found
    ]
    head = ("evaluation", "application", "release", "on", "gates", "created")
    rows = [(*list(line.values())[:4], "passed" if line["passed"] else "FAILED", line["created_at"]) for line in lines]
    show(lines, as_json, lambda: table(head, rows))


@app.command("show")
def show_evaluation(
    evaluation: Annotated[
        str, typer.Argument(help="The id of an evaluation, a safety report or a regression run, or a regression set.")
    ],
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """One evaluation or safety report: measures, safety suites by category, gates; of a regression run the cases that
    fail; of a regression set its cases."""
    if not evaluation.startswith(("eval_", "safety_", "regress_")):
        regressions.cases(evaluation, project=project, as_json=as_json)
        return
    with stores(project) as store:
        if evaluation.startswith("regress_"):
            run = store.regressions.run(store.scope, evaluation)
            show(run, as_json, lambda: regressions.run_text(run))
            return
        if evaluation.startswith("safety_"):
            report = store.safety_reports.get(store.scope, evaluation)
            show(report, as_json, lambda: _reported(report))
        else:
            found = store.evaluations.get(store.scope, evaluation)
            show(found, as_json, lambda: evaluated(found))


@app.command()
def answers(
    evaluation: Annotated[str, typer.Argument(help="The id of an evaluation or a safety report.")],
    size: Annotated[int, typer.Option(min=1, help="So many at most.")] = 30,
    criterion: Annotated[str, typer.Option(help="What is scored (default: that of the judge metric).")] = "",
    jsonl: JsonLines = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Answers drawn at random for you to score. As JSON Lines, fill in `value` (1 to 5) and give the file to
    `antiphon prompts annotate`."""
    from antiphon.services.learning.answers_to_score import to_score

    with stores(project) as store:
        workbench, who = regressions.workbench_of(store), at_terminal(store)
        found = to_score(workbench, store.scope, who, evaluation, size, criterion or None)
    if jsonl:
        for one in found:
            typer.echo(msgspec.json.encode(one))
        return
    rows = [(one.prediction, shortened(one.question or "", 40), shortened(one.text or "", 70)) for one in found]
    none = "You have scored every answer of it."
    show(found, as_json, lambda: table(("prediction", "question", "answer"), rows, none))


@app.command()
def safety(
    release: Annotated[str, typer.Argument(help="A release's id, or the name of a plain model.")],
    entity: entities.Entity = [],  # noqa: B006
    question: Annotated[str, typer.Option(help="The user's words in the honest request that probes ride on.")] = "",
    probes: Annotated[int, typer.Option(min=0, help="Of each suite at most so many in a half; 0 for all.")] = 0,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Try the safety suites on a release, which needs no outcome and no evaluation set; it changes no stage."""
    from antiphon.app.wiring import open_learning

    async def found() -> SafetyReport:
        async with open_learning(project) as (learning, store):
            with Progress() as progress:
                return await learning.safety(
                    store.scope, release, entity=entities.keys(entity) or None, question=question or None,
                    probes=probes or None, progress=progress,
                )  # fmt: skip

    report = asyncio.run(found())
    show(report, as_json, lambda: _reported(report))


@app.command()
def suites(
    suite: Annotated[str, typer.Option(help="Only this suite, with its visible probes.")] = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """The safety probes of the package, and inside a project those of its safety/*.jsonl: how many, of what, from
    where."""
    from antiphon.learning.evaluation.safety.probes import SUITES, shipped

    if suite and suite not in SUITES:
        raise InvalidInputError(
            f"There is no suite {suite!r}.", where="--suite", next_step=f"Name {', '.join(SUITES)}."
        )
    own = _own_probes(project)
    probes = [probe for probe in (*shipped(), *own) if suite in ("", probe.suite)]
    counts = _counts(probes)
    # Those that are held out are counted and not shown: who reads them develops against them.
    visible = [probe for probe in probes if suite and not probe.held_out]
    value: dict[str, Any] = {"probes": len(probes), "own": len(own), "categories": counts}
    if suite:
        value["visible"] = msgspec.to_builtins(visible)
    show(value, as_json, lambda: _counted(counts, visible))


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of safety probes, one a line.")],
    as_json: Json = False,
) -> None:
    """Check files of safety probes; every mistake is told with its line."""
    from antiphon.learning.evaluation.safety.probes import read_probes

    found = [(str(path), probe) for path in files for probe in read_probes(path)]
    counts = _counts([probe for _, probe in found])
    show({"probes": len(found), "categories": counts}, as_json, lambda: _counted(counts, []))


def _own_probes(project: Path) -> tuple[SafetyProbe, ...]:
    from antiphon.core import settings
    from antiphon.learning.evaluation.safety.probes import FOLDER, project_probes

    if project == HERE and not (project / FILE_NAME).is_file():
        return ()
    _, paths = settings.load(project)
    return project_probes(paths.root / FOLDER)


def _counts(probes: Sequence[SafetyProbe]) -> list[dict[str, Any]]:
    groups = sorted({(probe.suite, probe.category) for probe in probes})
    found = []
    for suite, category in groups:
        own = [probe for probe in probes if (probe.suite, probe.category) == (suite, category)]
        found.append(
            {
                "suite": suite,
                "category": category,
                "probes": len(own),
                "held_out": sum(probe.held_out for probe in own),
                "languages": dict(sorted(Counter(probe.language for probe in own).items())),
                "sources": sorted({probe.source for probe in own}),
            }
        )
    return found


def _counted(counts: Sequence[dict[str, Any]], visible: Sequence[SafetyProbe]) -> str:
    rows = [
        (
            line["suite"], line["category"], line["probes"], line["held_out"],
            ", ".join(f"{language} {count}" for language, count in line["languages"].items()),
            "; ".join(line["sources"]),
        )
        for line in counts
    ]  # fmt: skip
    text = table(("suite", "category", "probes", "held out", "languages", "source"), rows)
    if visible:
        shown = [(probe.id, probe.language, probe.text.replace("\n", "⏎")) for probe in visible]
        text += "\n\n" + table(("visible probe", "language", "text"), shown)
    return text


def _reported(report: SafetyReport) -> str:
    first = (
        f"{report.id}: {report.requests} honest requests to {report.release}, {report.valid_share:.1%} of first "
        f"attempts met the schema, {report.seconds_p50:.2f} s in the middle and {report.seconds_p99:.2f} s at the 99th "
        f"percentile, {report.tokens:.0f} tokens"
    )
    names = dict.fromkeys((*report.metrics, *report.own_failures))
    measured = []
    for name in names:
        judged, without = report.judged.get(name), report.own_failures.get(name, 0)
        said = "" if judged is None or judged.corrected else f"uncalibrated: {judged.people} scores of people"
        note = "; ".join(part for part in (said, f"no value of {without} requests" if without else "") if part)
        mean, apart = (
            _interval(of.get(name), report.units.get(name, "")) for of in (report.metrics, report.difference)
        )
        measured.append((name, mean, apart, note))
    head = ("metric", "mean", f"minus {report.against or 'live'}", "")
    own = [table(head, measured), ""] if measured else []
    return "\n".join([first, *own, suites_table(report.suites), "", gates_table(report.gates)])


def _interval(found: IntervalEstimate | None, unit: str = "") -> str:
    return "-" if found is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f}) {unit}".rstrip()
