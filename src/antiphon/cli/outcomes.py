"""``antiphon outcomes``: what became of predictions, from a table, and how they came true."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import msgspec
import typer

from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Json, Limit, Project
from antiphon.cli.output import Progress, moment, show, table
from antiphon.cli.project import at_terminal, require_application, stores
from antiphon.core.clock import from_microseconds
from antiphon.core.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from antiphon.catalog.learning.outcomes import OutcomeKind
    from antiphon.definitions.application import ApplicationSpec
    from antiphon.learning.outcomes.drift_report import DriftReport
    from antiphon.learning.outcomes.intake import OutcomeResult
    from antiphon.learning.outcomes.monitoring import Performance
    from antiphon.learning.outcomes.submission import OutcomeSubmission

app = typer.Typer(name="outcomes", help="What became of predictions.", no_args_is_help=True)

Application = Annotated[str, typer.Argument(help="The application whose predictions they are.")]

_CHUNK = 500
_MOST_SHOWN = 10
_UNDECLARED: tuple[OutcomeKind, ...] = ("thumbs", "correction", "text")


class Refusal(msgspec.Struct, frozen=True):
    """One row that was refused; rows count from 1."""

    row: int
    code: str
    message: str


class ImportReport(msgspec.Struct):
    """Counts of one import; ``outcomes`` counts predictions, so a row may count more than once. ``refusals`` are the
    first few."""

    application: str
    rows: int = 0
    outcomes: dict[str, int] = {}
    refused: int = 0
    refusals: list[Refusal] = []
    dry_run: bool = False

    def take(self, row: int, taken: OutcomeResult) -> None:
        """Count what became of a row."""
        if taken.error is not None:
            self.refuse(row, taken.error)
        for outcome in taken.outcomes:
            self.outcomes[outcome.status] = self.outcomes.get(outcome.status, 0) + 1

    def refuse(self, row: int, error: Any) -> None:
        """Count a refused row."""
        self.refused += 1
        if len(self.refusals) < _MOST_SHOWN:
            self.refusals.append(Refusal(row, error.code, str(error)))


class Columns(msgspec.Struct, frozen=True):
    """Names of the columns of a table of outcomes, and what the value is of: a declared outcome, or another kind."""

    value: str
    outcome: str | None
    kind: OutcomeKind | None
    at: str
    available_at: str
    id: str


@app.command("import")
def import_table(
    application: Application,
    file: Annotated[
        Path, typer.Argument(help="Parquet, CSV or JSON Lines: a prediction, or entity keys and the moment; a value.")
    ],
    outcome: Annotated[
        str, typer.Option(help="The declared outcome; by default the first one that has a column.", metavar="NAME")
    ] = "",
    value: Annotated[str, typer.Option(help="Column with the value.", metavar="COLUMN")] = "",
    at: Annotated[str, typer.Option(help="Column with the moment of the question.", metavar="COLUMN")] = "",
    available_at: Annotated[
        str, typer.Option(help="Column with the moment at which it was known.", metavar="COLUMN")
    ] = "",
    id: Annotated[str, typer.Option("--id", help="Column with the outcome's own id.", metavar="COLUMN")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would become of it; keep nothing.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Take every row of a table as an outcome. Taking a row again changes nothing.

    Columns not named are looked for under the names of the declared outcomes and those that the history declares, then
    as `value` or `label` (or `thumbs`, `correction`, `text`), `at`, `available_at` and `id`.
    """
    from antiphon.batch import tables
    from antiphon.services.learning.outcomes import declared_applications, outcome_joiner

    with stores(project) as store:
        declared = declared_applications(store)(store.scope, application)
        joiner, principal = outcome_joiner(store), at_terminal(store).id
        imported = ImportReport(application, dry_run=dry_run)
        rows = tables.read(file)
        first = list(islice(rows, 1))
        columns = _columns(
            declared, first[0] if first else {}, Columns(value, outcome or None, None, at, available_at, id), file
        )
        numbered = enumerate(chain(first, rows), 1)
        with Progress(f"{file.name} rows") as progress:
            while chunk := list(islice(numbered, _CHUNK)):
                arriving: dict[int, OutcomeSubmission] = {}
                for place, row in chunk:
                    try:
                        arriving[place] = _arriving(declared, row, columns)
                    except InvalidInputError as error:
                        imported.refuse(place, error)
                taken = joiner.take_many(store.scope, principal, list(arriving.values()), dry_run=dry_run)
                for place, each in zip(arriving, taken, strict=True):
                    imported.take(place, each)
                imported.rows = chunk[-1][0]
                progress(imported.rows, None)
    imported.refusals.sort(key=lambda refusal: refusal.row)
    refused = f"{imported.refused} row(s) were refused; mend them and import the table again."
    show(imported, as_json, lambda: _text(imported), refused if imported.refused else "")


@app.command("list")
def list_outcomes(
    application: Application,
    status: Annotated[
        str, typer.Option(help="joined, late, duplicate, contradictory or unknown.", metavar="STATUS")
    ] = "",
    limit: Limit = 20,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Outcomes, latest first."""
    from antiphon.catalog.learning.outcomes import OutcomeStatus

    statuses: tuple[OutcomeStatus, ...] = get_args(OutcomeStatus)
    selected = next((known for known in statuses if known == status), None)
    if status and selected is None:
        raise InvalidInputError(
            f"{status!r} is no status.", where="--status", next_step=f"One of {', '.join(statuses)}."
        )
    with stores(project) as store:
        found = store.outcomes.list(store.scope, application, status=selected, limit=limit)
        if not found:
            require_application(store, application)
    rows = [
        (
            each.status,
            each.outcome or each.kind,
            each.value[:40],
            each.prediction,
            each.as_of,
            each.available_at,
            each.reference,
        )
        for each in found
    ]
    head = ("status", "outcome", "value", "prediction", "as of", "known", "reference")
    show(found, as_json, lambda: table(head, rows, "No outcome yet."))


@app.command("status")
def status(
    application: Application,
    outcome: Annotated[str, typer.Option(help="The declared outcome; the first by default.", metavar="NAME")] = "",
    since: Annotated[str, typer.Option(help="Questions as of this moment on.", metavar="TIME")] = "",
    until: Annotated[str, typer.Option(help="Questions before this moment.", metavar="TIME")] = "",
    slices: Annotated[
        list[str] | None,
        typer.Option("--slice", help="An entity key or a feature; those of the gates by default.", metavar="KEY"),
    ] = None,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Count outcomes by status and measure predictions by release."""
    from antiphon.services.learning.outcomes import monitor

    with stores(project) as store:
        found = monitor(store).performance(
            store.scope, application, outcome or None, since=entities.moment(since), until=entities.moment(until),
            slices=slices or (),
        )  # fmt: skip
    show(found, as_json, lambda: _performance(found))


@app.command("pending")
def pending(
    application: Application,
    outcome: Annotated[str, typer.Option(help="The declared outcome; the first by default.", metavar="NAME")] = "",
    limit: Limit = 20,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Predictions that wait for an outcome, oldest first: those of its sample."""
    from antiphon.services.learning.outcomes import monitor

    with stores(project) as store:
        found = monitor(store).pending(store.scope, application, outcome or None, limit=limit)
    rows = [(each.prediction, each.release, each.as_of, each.until) for each in found]
    show(found, as_json, lambda: table(("prediction", "release", "as of", "until"), rows, "Nothing waits."))


@app.command("signals")
def signals(application: Application, project: Project = HERE, as_json: Json = False) -> None:
    """Count what users sent of answers: thumbs and declared signals, by release."""
    from antiphon.services.learning.outcomes import monitor

    with stores(project) as store:
        found = monitor(store).signals(store.scope, application)
    rows = [
        (one.signal, one.release, one.predictions, one.sent, _counted(one.values), _share(one.good), _share(one.bad))
        for one in found
    ]
    head = ("signal", "release", "predictions", "sent", "values", "good", "bad")
    show(found, as_json, lambda: table(head, rows, "No signal has been sent yet."))


@app.command("drift")
def drift(
    application: Application,
    texts: Annotated[
        bool, typer.Option("--texts", help="Also of what is asked and answered, by embedding; takes some seconds.")
    ] = False,
    kept: Annotated[
        bool, typer.Option("--kept", help="Show the newest report that the worker has made, with texts and metrics.")
    ] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Compare the distributions of printed features, forecasts and texts with those of the release's first week."""
    from antiphon.services.learning.outcomes import drift_reports

    with stores(project) as store:
        drift = drift_reports(store)
        found = drift.newest(store.scope, application) if kept else None
        if kept and found is None:
            require_application(store, application)
            raise NotFoundError(
                f"There is no report of drift of {application} yet.",
                where="--kept",
                next_step="The worker makes one each `[worker] drift`, 24h by default, after a release went live; "
                "leave --kept out to compare now.",
            )
        found = found or drift.reader.compare(store.scope, application, texts=texts)
    show(found, as_json, lambda: _drift_text(found))


@app.command("rejoin")
def rejoin(application: Application, project: Project = HERE, as_json: Json = False) -> None:
    """Look again for the predictions of unknown outcomes."""
    from antiphon.services.learning.outcomes import outcome_joiner

    with stores(project) as store:
        joiner = outcome_joiner(store)
        joined = joiner.rejoin(store.scope, application, since=from_microseconds(0), most=1_000_000)
    show({"joined": joined}, as_json, lambda: f"{joined} outcome(s) are unknown no more.")


def _columns(declared: ApplicationSpec, row: dict[str, Any], wished: Columns, file: Path) -> Columns:
    """The columns to read, held against the first row."""
    outcome = declared.outcome
    history = outcome.history if outcome is not None else None
    declared_at, declared_known, declared_id = (
        (history.event_time, history.available_at, history.event_id) if history is not None else (None, None, None)
    )

    def found(named: str, option: str, *candidates: str | None) -> str:
        if named and row and named not in row:
            raise InvalidInputError(
                f"There is no column {named!r}; there are {', '.join(row)}.", where=f"--{option}", next_step="Name one."
            )
        return named or next((name for name in candidates if name and name in row), "")

    known = [shape.name for shape in declared.shapes] + [one.name for one in declared.signals or ()]
    named = [wished.outcome] if wished.outcome else known
    value = found(wished.value, "value", *named, "value", "label", *([] if wished.outcome else _UNDECLARED))
    if row and not value:
        raise InvalidInputError(
            f"{file} has no column with a value: {', '.join(row)}.", where=str(file), next_step="Name one with --value."
        )
    kind = None if value in named else next((name for name in _UNDECLARED if name == value), None)
    # One column is not read as two things: an outcome may be named like the moment in the history of another.
    declared_at, declared_known, declared_id = (
        None if name == value else name for name in (declared_at, declared_known, declared_id)
    )
    return Columns(
        value=value,
        outcome=wished.outcome or (value if value in named else None),
        kind=kind,
        at=found(wished.at, "at", declared_at, "at"),
        available_at=found(wished.available_at, "available-at", declared_known, "available_at"),
        id=found(wished.id, "id", declared_id, "id"),
    )


def _arriving(declared: ApplicationSpec, row: dict[str, Any], columns: Columns) -> OutcomeSubmission:
    from antiphon.learning.outcomes.submission import OutcomeSubmission, outcome_named, truth_text

    prediction = row.get("prediction")
    of_moment = prediction in (None, "")
    missing = [key for key in declared.entity_keys if row.get(key) in (None, "")] if of_moment else []
    if missing:
        raise InvalidInputError(
            f"The row names neither a prediction nor {', '.join(missing)}.",
            where="prediction",
            next_step="Fill the row.",
        )
    known = row.get(columns.available_at) if columns.available_at else None
    identity = row.get(columns.id) if columns.id else None
    value = row.get(columns.value)
    of_outcome = columns.outcome is None or any(one.name == columns.outcome for one in declared.shapes)
    if columns.kind is None and declared.outcome is not None and value is not None and of_outcome:
        text = truth_text(value, outcome_named(declared, columns.outcome)[0])
        value = value if text is None else text  # what is none is refused as it came
    return OutcomeSubmission(
        application=declared.name,
        value="" if value is None else str(value),
        outcome=columns.outcome,
        kind=columns.kind,
        prediction=None if of_moment else str(prediction),
        entity={key: str(row[key]) for key in declared.entity_keys} if of_moment else None,
        at=entities.moment_of_cell(row.get(columns.at), columns.at or "at") if of_moment else None,
        available_at=None if known in (None, "") else entities.moment_of_cell(known, columns.available_at),
        id=None if identity in (None, "") else str(identity),
    )


def _share(part: float | None) -> str:
    return "-" if part is None else f"{part:.0%}"


def _counted(values: dict[str, int]) -> str:
    return ", ".join(f"{number} {value}" for value, number in sorted(values.items()))


def _text(imported: ImportReport) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in sorted(imported.outcomes.items())) or "none"
    tried = " tried, nothing kept" if imported.dry_run else ""
    lines = [f"{imported.rows} rows{tried}: {counts}; {imported.refused} refused."]
    lines += [f"  row {refusal.row}: {refusal.message}" for refusal in imported.refusals]
    return "\n".join(lines)


def _drift_text(found: DriftReport) -> str:
    rows = [
        (each.name, each.verdict, each.index, each.noise, each.reference, each.recent, each.since) for each in found.all
    ]
    head = ("variable", "verdict", "index", "noise", "then", "now", "shifted since")
    return "\n".join([f"{moment(found.at)}: {found.comparison}", *found.problems, table(head, rows)])


def _performance(found: Performance) -> str:
    counts = [(kind, status, count) for kind, by in found.counts.items() for status, count in by.items()]
    from antiphon.learning.evaluation.metrics import metric_title

    made = {each.release: each for each in found.coverage}
    names = list(found.whole.metrics) if found.whole is not None else []
    rows = []
    for group in (*found.releases,):
        covered, scores = made.get(group.value), group.scores
        share = f"{covered.labelled / covered.predictions:.0%}" if covered is not None else "-"
        rows.append((group.value, scores.rows, share, *(scores.metrics.get(name) for name in names)))
    head = ("release", "scored", "covered", *map(metric_title, names))
    parts = [
        table(("kind", "status", "outcomes"), counts, "No outcome yet."),
        table(head, rows, f"No prediction is scored by {found.outcome!r} yet."),
    ]
    if found.slices:
        sliced = [
            (f"{one.key} {one.value}", one.scores.rows, *(one.scores.metrics.get(name) for name in names))
            for one in found.slices
        ]
        parts.append(table(("slice", "scored", *map(metric_title, names)), sliced))
    return "\n\n".join(parts)
