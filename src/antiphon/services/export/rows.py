"""Rows that exports write: values of a view, predictions of a day, a training set, stored answers.

Invariant: a source is read from a position on and gives the position behind each batch, so that rows of a file that was
written are not read again. Policy decides about the whole under the action ``export``, and about each row by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.batch.orders import WORKFLOW as TABLE_JOB
from antiphon.catalog.batch.jobs import ANSWER_COLUMNS, BatchJob, JobRow
from antiphon.catalog.serving.receipt import Receipt
from antiphon.core.errors import NotFoundError
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.exports import ExportWork
from antiphon.features.exports.exported import BATCH, batches_from, entities_of
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import PolicyRow, Resource, application_resource
from antiphon.governance.policy.residual import RowPolicy
from antiphon.services.export.export import published, require_export
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.governance.policy_versions import records
from antiphon.services.project.store import Store

if TYPE_CHECKING:
    import pyarrow

Position = Any
"""A number of rows, or ``[microseconds, prediction]``, as JSON has it, behind which reading goes on; ``None``: the
beginning."""

LATE = timedelta(minutes=5)
"""A day of predictions is complete so long after its end: receipts that were under way have been written."""

_PAGE = 500


class ExportVersion(msgspec.Struct, frozen=True):
    """A version of what is exported: a day of predictions, a snapshot, a dataset, or a job of stored answers.

    Attributes:
        day: of the rows, ISO 8601, in UTC.
        total: rows, where they are counted.
    """

    id: str
    day: str
    total: int | None = None


class ExportBatch(msgspec.Struct, frozen=True):
    """Some rows, the position behind them, and how many policy kept back among them."""

    rows: pyarrow.RecordBatch
    position: Position
    withheld: int = 0


class RowSource(msgspec.Struct, frozen=True):
    """The rows of a version from a position on, to be read once."""

    schema: pyarrow.Schema
    properties: Mapping[str, str]
    batches: Iterator[ExportBatch]


class ExportedSources:
    """Finds and reads what the exports of one project write."""

    def __init__(self, store: Store, features: FeaturePlatform) -> None:
        self._store = store
        self._features = features

    def versions(self, work: ExportWork) -> list[ExportVersion]:
        """The versions that there are to export, the oldest first: every complete day of predictions, or else the
        latest one.

        Raises:
            NotFoundError: there is none yet.
        """
        store, scope = self._store, self._store.scope
        match work.kind:
            case "view":
                spec = store.applied.project(scope).views.get(work.name)
                snapshot = None if spec is None else store.publications.snapshots(scope).get(spec.key)
                if snapshot is None:
                    raise _nothing(work, f"`antiphon features refresh {work.name}` publishes one.")
                manifest = store.snapshots.get(scope, snapshot)
                return [ExportVersion(snapshot, _day(manifest.as_of), manifest.rows_out)]
            case "dataset":
                built = store.datasets.list(scope, work.name, limit=20)
                dataset = next((one for one in built if one.spec.kind == "training"), None)
                if dataset is None:
                    raise _nothing(work, f"`antiphon datasets build {work.name}` builds one.")
                return [ExportVersion(dataset.id, _day(dataset.created_at), dataset.rows)]
            case "answers":
                job = self._job(work)
                return [ExportVersion(job.id, _day(job.created_at), job.rows_done)]
            case "predictions":
                return list(self._days(work))

    def open(self, work: ExportWork, version: ExportVersion, by: Principal, position: Position) -> RowSource:
        """The rows of a version from a position on.

        Raises:
            ForbiddenError: policy does not let this principal export it.
            NotFoundError: the version is gone meanwhile. CorruptionError: its file is not what it was.
        """
        match work.kind:
            case "view":
                return self._view(work, version, by, position or 0)
            case "dataset":
                return self._dataset(work, version, by, position or 0)
            case "answers":
                return self._answers(work, version, by, -1 if position is None else position)
            case "predictions":
                return self._predictions(work, version, by, position)

    def nothing_new(self, work: ExportWork) -> str:
        """The sentence that says why there is nothing left to export."""
        if work.kind != "predictions":
            return "the latest version is exported already"
        now = self._store.database.clock.now()
        today = datetime.combine(now.astimezone(UTC).date(), time(), UTC)
        following = today + LATE if now < today + LATE else today + timedelta(days=1) + LATE
        return f"every complete day is exported; the next is complete at {following:%Y-%m-%d %H:%M}Z"

    def require(self, work: ExportWork, by: Principal) -> None:
        """Raises ``ForbiddenError`` when policy does not let a principal export this, ``NotFoundError`` when it is not
        applied."""
        self._context(work, by)

    def _context(self, work: ExportWork, by: Principal) -> dict[str, Any]:
        """Let policy decide; the context it was asked in."""
        store, project = self._store, self._store.applied.project(self._store.scope)
        if work.kind == "view":
            if work.name not in project.views:
                raise _nothing(work, "`antiphon apply` applies it.")
            return require_export(store, by, project.views[work.name], work.purpose)
        application = self._application(work)
        resource = application_resource(application, tenant=store.scope.tenant)
        context = {
            "purpose": work.purpose or application.purpose, "environment": store.scope.environment,
            "tenant": store.scope.tenant, "path": "batch",
        }  # fmt: skip
        store.decider.require(by, "export", resource, context)
        return context

    def _application(self, work: ExportWork) -> ApplicationSpec:
        name = work.name.partition("/")[0]
        found = self._store.applied.project(self._store.scope).applications.get(name)
        if found is None:
            raise _nothing(work, "`antiphon apply` applies its application.")
        return found

    def _view(self, work: ExportWork, version: ExportVersion, by: Principal, start: int) -> RowSource:
        about, rows = published(
            self._store,
            self._features,
            work.name,
            by,
            snapshot=version.id,
            purpose=work.purpose,
            start=start,
            most=most_rows(work),
        )
        reader = rows.reader()

        def batches() -> Iterator[ExportBatch]:
            kept_back = 0
            for batch in reader:
                yield ExportBatch(batch, rows.position, rows.withheld - kept_back)
                kept_back = rows.withheld

        return RowSource(reader.schema, about.properties, batches())

    def _dataset(self, work: ExportWork, version: ExportVersion, by: Principal, start: int) -> RowSource:
        import pyarrow.parquet

        store, lake = self._store, self._features.lake
        context, application = self._context(work, by), self._application(work)
        dataset = store.datasets.get(store.scope, version.id)
        lake.verify(dataset.path, dataset.sha256)
        resource = Resource("application", application.name, store.scope.tenant)
        policy = RowPolicy(
            store.decider.decider(store.scope.tenant), by, "export", resource, application.entity_keys, context
        )
        stream = lake.open(dataset.path)
        file = pyarrow.parquet.ParquetFile(stream)

        def batches() -> Iterator[ExportBatch]:
            seen = start
            with closing(stream):
                for batch in batches_from(file, start, most_rows(work)):
                    seen += batch.num_rows
                    moments = batch.column("moment").to_pylist()
                    entities = entities_of(batch, application.entity_keys)
                    rows = [PolicyRow(*one) for one in zip(entities, map(_seconds, moments), strict=True)]
                    allowed = [said.allowed for said in policy.decide(rows)]
                    kept = batch.filter(pyarrow.array(allowed, pyarrow.bool_()))
                    yield ExportBatch(kept, seen, len(allowed) - sum(allowed))

        properties = self._properties(work, version, logical_hash=dataset.logical_hash)
        return RowSource(file.schema_arrow, properties, batches())

    def _predictions(self, work: ExportWork, version: ExportVersion, by: Principal, position: Position) -> RowSource:
        self._context(work, by)
        store, scope, application = self._store, self._store.scope, self._application(work)
        begin = datetime.combine(date.fromisoformat(version.id), time(), UTC)
        readable, schema, most = records(store), _prediction_schema(application), min(_PAGE, most_rows(work))

        def batches() -> Iterator[ExportBatch]:
            at = position
            while page := store.receipts.page(
                scope, application.name, begin, begin + timedelta(days=1), None if at is None else tuple(at), most
            ):
                blobs = (blob for one in page for blob in (one.entity_blob, one.question_blob, one.text_blob) if blob)
                texts = store.blobs.get_many(scope, blobs)
                may = [readable.may_read_prediction(scope, by, one, texts) for one in page]
                rows = [_prediction(texts, application, one) for one, ok in zip(page, may, strict=True) if ok]
                at = list(store.receipts.place(page[-1]))
                yield ExportBatch(_batch(rows, schema), at, len(page) - len(rows))

        return RowSource(schema, self._properties(work, version), batches())

    def _answers(self, work: ExportWork, version: ExportVersion, by: Principal, after: int) -> RowSource:
        self._context(work, by)
        store, scope = self._store, self._store.scope
        job, readable, most = store.jobs.get(scope, version.id), records(store), min(_PAGE, most_rows(work))

        def shown(last: int) -> tuple[list[JobRow], list[JobRow]]:
            page = store.jobs.page(scope, job.id, last, most)
            return page, readable.readable_rows(scope, by, job, page) if page else []

        _, first = shown(-1)
        columns = {name for row in first for name in row.payload}
        schema = _answers_schema(job.id, columns, (row.payload for row in store.jobs.rows(scope, job.id)))

        def batches() -> Iterator[ExportBatch]:
            last = after
            while True:
                page, rows = shown(last)
                if not page:
                    return
                last = page[-1].line
                yield ExportBatch(_batch([row.payload for row in rows], schema), last, len(page) - len(rows))

        return RowSource(schema, self._properties(work, version, release=job.release or ""), batches())

    def _days(self, work: ExportWork) -> Iterator[ExportVersion]:
        scope, now = self._store.scope, self._store.database.clock.now()
        began = self._store.receipts.began(scope, work.name)
        first = date.fromisoformat(work.since) if work.since is not None else None if began is None else began.date()
        end = date.fromisoformat(latest_day(now))
        while first is not None and first <= end:
            yield ExportVersion(first.isoformat(), first.isoformat())
            first += timedelta(days=1)

    def _job(self, work: ExportWork) -> BatchJob:
        application, _, named = work.name.partition("/")
        schedule = named or f"precompute-{application}"
        found = (
            run
            for status in ("succeeded", "succeeded_with_failures")
            for run in self._store.runs.list(self._store.scope, 1, workflow=TABLE_JOB, status=status, schedule=schedule)
        )
        latest = max(found, key=lambda run: run.created_at, default=None)
        if latest is None:
            raise _nothing(work, f"`antiphon schedules run {schedule} --reason …` stores answers.")
        return self._store.jobs.get(self._store.scope, str(latest.arguments["job"]))

    def _properties(self, work: ExportWork, version: ExportVersion, **more: str) -> dict[str, str]:
        scope = self._store.scope
        found = {"asset": work.asset, "version": version.id, "tenant": scope.tenant, "environment": scope.environment}
        return {f"antiphon.{name}": value for name, value in {**found, **more}.items()}


def most_rows(work: ExportWork) -> int:
    """Rows of a batch, at most."""
    return min(BATCH, work.rows_per_file)


def latest_day(now: datetime) -> str:
    """The last day, in UTC, whose predictions are complete."""
    return ((now - LATE).astimezone(UTC).date() - timedelta(days=1)).isoformat()


def _prediction_schema(application: ApplicationSpec) -> pyarrow.Schema:
    import pyarrow

    instant, text, number = pyarrow.timestamp("us", "UTC"), pyarrow.string(), pyarrow.int64()
    columns = {
        "prediction": text, "request": text, "application": text, "release": text, "publication": number,
        "created_at": instant, "as_of": instant, "path": text, "role": text, "principal": text, "user": text,
        "purpose": text, **{f"entity_{key}": text for key in application.entity_keys}, "question": text,
        "answer": text, "finish_reason": text, "classes": text, "guards": text, "origin": text,
        "origin_prediction": text, "prompt_tokens": number, "completion_tokens": number,
    }  # fmt: skip
    return pyarrow.schema(list(columns.items()))


def _prediction(texts: Mapping[str, bytes], application: ApplicationSpec, receipt: Receipt) -> dict[str, Any]:
    """A receipt as a row; texts that were erased are null."""

    def text(blob: str | None) -> str | None:
        return None if blob is None or blob not in texts else texts[blob].decode()

    entity: dict[str, str] = msgspec.json.decode(text(receipt.entity_blob) or "{}")
    guards = [f"{one.guard} {one.action}" for one in receipt.guards]
    return {
        "prediction": receipt.prediction,
        "request": receipt.request,
        "application": receipt.application,
        "release": receipt.release,
        "publication": receipt.publication,
        "created_at": receipt.created_at,
        "as_of": receipt.as_of,
        "path": receipt.path,
        "role": receipt.role,
        "principal": receipt.principal,
        "user": receipt.originating_user,
        "purpose": receipt.purpose,
        **{f"entity_{key}": entity.get(key) for key in application.entity_keys},
        "question": text(receipt.question_blob),
        "answer": text(receipt.text_blob),
        "finish_reason": receipt.finish_reason,
        "classes": _json(receipt.classes) if receipt.classes else None,
        "guards": _json(guards) if guards else None,
        "origin": receipt.cache.origin,
        "origin_prediction": receipt.cache.prediction,
        "prompt_tokens": receipt.usage.prompt_tokens,
        "completion_tokens": receipt.usage.completion_tokens,
    }


_ANSWER_TYPES = {"answer_publication": "int64", "answer_completion_tokens": "int64"}


def _answers_schema(job: str, columns: set[str], rows: Iterator[Mapping[str, Any]]) -> pyarrow.Schema:
    """Columns of stored answers: those of answers have types of their own, the input's those of all their values."""
    import pyarrow

    kinds: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None and name in columns and name not in ANSWER_COLUMNS:
                kinds.setdefault(name, set()).add(type(value))
    own = [(name, _type_of(found)) for name, found in kinds.items()]
    own += [(name, pyarrow.string()) for name in sorted(columns - {*kinds, *ANSWER_COLUMNS})]
    answers = [(name, getattr(pyarrow, _ANSWER_TYPES.get(name, "string"))()) for name in ANSWER_COLUMNS]
    return pyarrow.schema([("job", pyarrow.string()), *own, *answers], {"job": job})


def _type_of(kinds: set[type]) -> Any:
    import pyarrow

    if kinds == {bool}:
        return pyarrow.bool_()
    if kinds == {int}:
        return pyarrow.int64()
    return pyarrow.float64() if kinds <= {int, float} else pyarrow.string()


def _batch(rows: list[dict[str, Any]], schema: pyarrow.Schema) -> pyarrow.RecordBatch:
    """Rows as a batch; what is no text in a column of texts is written as JSON."""
    import pyarrow

    job = (schema.metadata or {}).get(b"job", b"").decode()
    arrays = []
    for field in schema:
        values = [job if job and field.name == "job" else row.get(field.name) for row in rows]
        if pyarrow.types.is_string(field.type):
            values = [one if one is None or isinstance(one, str) else _json(one) for one in values]
        arrays.append(pyarrow.array(values, field.type))
    return pyarrow.RecordBatch.from_arrays(arrays, schema=schema)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).date().isoformat()


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _nothing(work: ExportWork, next_step: str) -> NotFoundError:
    return NotFoundError(f"There is nothing of {work.asset} to export.", where=work.asset, next_step=next_step)
