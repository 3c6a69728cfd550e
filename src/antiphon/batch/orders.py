"""Orders table jobs: everything that can be refused is refused before a row is answered."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import datetime, timedelta
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import msgspec

from antiphon.batch import document_rows, tables
from antiphon.batch.estimates import Estimate, Estimates, require_in_time
from antiphon.batch.table_files import InputFiles, OutputFiles, require_objects, rows_of
from antiphon.batch.table_objects import Table, TableObject, TableObjects, object_of
from antiphon.catalog.batch.batch_work import Sizes
from antiphon.catalog.batch.jobs import DOCUMENTS, BatchJob, Jobs
from antiphon.catalog.database import Database
from antiphon.catalog.releases.releases import Release, Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.clock import Clock, parse_duration, utc
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.core.ids import canonical, content_hash
from antiphon.core.paths import require_nameable
from antiphon.core.scope import Scope
from antiphon.core.suggestions import nearest
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.objects import is_objects
from antiphon.definitions.on_demand import defaults_of
from antiphon.durable.runs import Runs
from antiphon.governance.identity.principal import Principal
from antiphon.governance.identity.tenants import Tenants
from antiphon.serving.answering import prompts
from antiphon.serving.features.on_demand import input_types

WORKFLOW = "table_job"


LONGEST_WINDOW = timedelta(days=30)

BYTES_PER_TOKEN = 4
"""Of English text in the vocabularies of today's models; other languages have fewer bytes a token."""

TOKENS_PER_TURN = 4
"""Marks that a chat template puts around a turn."""

_FEATURE = re.compile(r"\bfeatures\.(\w+\.\w+)")
_FIGURE = "00"
_CHUNK = "word " * 160
"""As long as a retrieved chunk of the default size."""
"""Stands for a printed figure, which is not read to estimate a length."""

SAMPLED_ROWS = 32
"""Rows whose prompts are written to estimate the length of all."""


class TableOrder(msgspec.Struct, frozen=True):
    """Answer every row of a table.

    Attributes:
        input: a JSON lines, CSV or Parquet file, or an object ``s3://BUCKET/KEY``, whose rows hold the entity's key
            columns, and ``as_of`` (ISO 8601 with offset) or ``question`` if wished, or of an application that sees
            earlier turns ``messages`` or ``conversation``; or a folder of documents, each a row whose question is its
            text; or ``None`` with ``rows`` in the order itself.
        output: file or object where the answers are written, one row out per row in; ``None`` keeps them in the
            catalog only.
        as_of: event time of rows that bring none; ``None`` is the time of answering.
        within: how soon it should have ended, a duration; it goes before other batch work as that comes near, and is
            refused when it cannot be kept, unless ``accept_late``.
        precompute: store the answers for the online path, and make only those anew whose figures have changed.
        key: orders with the same key are one job.
        max_failed_rows: the job ends as failed once more rows have failed; ``None`` lets it come to its end.
    """

    application: str
    input: str | None = None
    output: str | None = None
    rows: tuple[dict[str, Any], ...] = ()
    as_of: datetime | None = None
    release: str | None = None
    precompute: bool = False
    key: str | None = None
    within: str | None = None
    accept_late: bool = False
    max_failed_rows: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Outlook(msgspec.Struct, frozen=True):
    """Forecast of an order: how many rows, until when, and what is estimated of them where enough is known.

    Attributes:
        prompt_tokens: by the length of the prompts alone, which needs no measurement.
        output_limit: tokens that may be written at most.
        unreadable: documents of a folder that are seen to be unreadable already, a sentence each.
    """

    rows: int
    deadline: datetime | None
    estimate: Estimate | None
    prompt_tokens: int = 0
    output_limit: int = 0
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableOrders:
    """Takes orders of table jobs.

    Attributes:
        root: where relative paths start.
        confined: refuse paths outside ``root``, as for orders over HTTP. Tenants other than ``owner`` have their files
            in ``tenants/TENANT`` and see no others; hidden files and ``private`` folders are refused.
        sources: patterns of files that the project reads, by what reads them; no order writes over these.
        inputs: checks of the files that are read; an order that is not confined could read them anyway.
        objects: reads tables in object stores; orders that are confined name only those below ``shared``.
    """

    jobs: Jobs
    releases: Releases
    blobs: Blobs
    runs: Runs
    database: Database
    root: Path
    estimates: Estimates
    clock: Clock
    _: KW_ONLY
    confined: bool = False
    owner: Scope | None = None
    private: Sequence[Path] = ()
    sources: Callable[[], Mapping[str, Sequence[str]]] = dict
    inputs: InputFiles | None = None
    objects: TableObjects | None = None
    shared: TableObject | None = None

    def outlook(self, scope: Scope, principal: Principal, order: TableOrder) -> Outlook:
        """Previews an order; nothing is recorded. Raises as :meth:`place`."""
        *_, outlook = self._checked(scope, principal, order)
        return outlook

    def _checked(
        self, scope: Scope, principal: Principal, order: TableOrder
    ) -> tuple[Release, Table | None, Table | None, list[str], Outlook]:
        """The order's release, input, output and documents, once everything that can be refused was not."""
        deadline = None if order.within is None else self.clock.now() + _window(order.within)
        release = (
            self.releases.get(scope, order.release)
            if order.release is not None
            else self.releases.live(scope, order.application)
        )
        if release is None or release.bundle.application.name != order.application:
            raise NotFoundError(
                f"There is no live release of an application named {order.application!r}.",
                where="application",
                next_step=nearest(
                    order.application,
                    self.releases.applications(scope),
                    "`antiphon releases list` shows what there is; `antiphon apply` makes one.",
                ),
            )
        if (order.input is None) == (not order.rows):
            raise InvalidInputError("Give either an input file or rows.", where="input")
        output = self._table(scope, order.output) if order.output else None
        source = self._table(scope, order.input) if order.input else None
        if output is not None:
            tables.check_format(output)
            outputs = OutputFiles(self.jobs, self.sources, self.objects)
            outputs.require_own(scope, order.application, principal.id, output, source)
        documents = self._documents(source)
        if source is not None and self.inputs is not None and self.confined:
            self.inputs.require_readable(scope, principal, source)
        application = release.bundle.application
        defaults = defaults_of(application.on_demand)
        inputs = [name for name in input_types(application.on_demand, application.entity_keys) if name not in defaults]
        total = 0
        sampled: list[float] = []
        unreadable: list[str] = []
        for line, row in enumerate(self._rows(order, source, documents, unreadable)):
            missing = [key for key in application.entity_keys if row.get(key) in (None, "")]
            missing += [name for name in inputs if name not in row]
            if missing:
                needed = f"Every row needs {', '.join((*application.entity_keys, *inputs))}"
                folders = "; a document has those of the folders KEY=VALUE that it lies in" if documents else ""
                raise InvalidInputError(
                    f"Row {line} lacks {', '.join(missing)}.", where=str(source or "rows"),
                    next_step=f"{needed}{folders}.",
                )  # fmt: skip
            total += 1
            if len(sampled) < SAMPLED_ROWS:
                sampled.append(prompt_tokens(application, row))
        if total == 0:
            raise InvalidInputError("There is no row to answer.", where=str(source or "rows"))
        estimate = self.estimates.of_new(scope.tenant, _alike(order, documents), Sizes(total), deadline)
        limit = total * application.decoding.max_tokens
        outlook = Outlook(total, deadline, estimate, scaled(sampled, total), limit, tuple(unreadable))
        return release, source, output, documents, outlook

    def _documents(self, source: Table | None) -> list[str]:
        """The documents of an input that is a folder."""
        if not isinstance(source, Path) or not source.is_dir():
            return []
        if self.confined:
            raise InvalidInputError(
                "A folder of documents is no input of an order over HTTP.",
                where="input",
                next_step="Order it with `antiphon batch run`, or send the texts as rows.",
            )
        return document_rows.documents_in(source)

    def _rows(
        self, order: TableOrder, source: Table | None, documents: list[str], unreadable: list[str]
    ) -> Iterator[tables.Row]:
        if source is None:
            return iter(order.rows)
        if isinstance(source, Path) and documents:
            return document_rows.previewed(source, documents, SAMPLED_ROWS, unreadable)
        return rows_of(source, self.objects)

    def place(self, scope: Scope, principal: Principal, order: TableOrder) -> BatchJob:
        """Record the job and its run together; a worker takes it from there.

        Raises:
            NotFoundError: no such application, release or input file, or no document in the folder.
            InvalidInputError: no rows, two inputs, a row without a key column (its line is named), it cannot have ended
                ``within`` what is asked for, or its output is a file that is not its own.
            ConflictError: the key was used for another order.
            ForbiddenError: policy keeps what the input file holds from this principal.
            OverloadedError: the tenant has as many as its quota allows.
        """
        release, source, output, documents, outlook = self._checked(scope, principal, order)
        deadline = outlook.deadline
        as_of = utc(order.as_of).isoformat() if order.as_of is not None else None
        job_id = f"job_{content_hash([str(scope), order.key])[:26]}" if order.key else None
        known = job_id is not None and self.jobs.known(scope, job_id)
        if not known:
            require_in_time(outlook.estimate, "within", order.accept_late)
        with self.database.transaction() as connection:
            if not known:
                Tenants(self.database).require_room(scope.tenant, within=connection)
            inline = self.blobs.put(scope, canonical(order.rows), within=connection) if order.rows else None
            place = f"blob:{inline}" if inline else str(source)
            listed = self.blobs.put(scope, canonical(documents), within=connection) if documents else None
            job = self.jobs.create(
                scope,
                application=order.application,
                release=release.id,
                input=place,
                output=str(output or ""),
                principal=principal.id,
                kind="precompute" if order.precompute else "table",
                total=outlook.rows,
                settings={
                    "as_of": as_of,
                    "deadline": None if deadline is None else deadline.isoformat(),
                    "max_failed_rows": order.max_failed_rows,
                    "principal": msgspec.to_builtins(principal),
                    # What the rows disclose besides the answers, for those who read them later.
                    "sources": [] if source is None or self.inputs is None else self.inputs.readers(source),
                    **({} if listed is None else {DOCUMENTS: listed}),
                },
                job=job_id,
                within=connection,
            )
            ordered = (order.application, place, str(output or ""))
            if (job.application, job.input, job.output) != ordered or job.settings.get("as_of") != as_of:
                raise ConflictError(
                    f"The key {order.key!r} was used for another order ({job.id}).",
                    where="key",
                    next_step="Use another key.",
                )
            if not known:
                self.estimates.measurements.declare(
                    scope, job.id, _alike(order, documents), Sizes(outlook.rows), deadline, within=connection
                )
            self.runs.submit(
                scope,
                WORKFLOW,
                {"job": job.id},
                key=f"{WORKFLOW}:{job.id}",
                within=connection,
            )
        return job

    def _table(self, scope: Scope, place: str) -> Table:
        return self._object(scope, place) if is_objects(place) else self._absolute(scope, place)

    def _object(self, scope: Scope, url: str) -> TableObject:
        place = object_of(url)
        require_objects(self.objects, place)
        if not self.confined:
            return place
        shared, owned = self.shared, scope == self.owner or self.owner is None
        if shared is not None and place.endpoint is None and place.region is None:
            place = msgspec.structs.replace(place, endpoint=shared.endpoint, region=shared.region)
        base = "" if shared is None else f"{shared.key}/" + ("" if owned else f"tenants/{scope.tenant}/")
        within = place.key.removeprefix(base)
        hidden = any(part.startswith(".") for part in within.split("/"))
        others = owned and self.owner is not None and within.startswith("tenants/")
        if (
            shared is None
            or (place.bucket, place.endpoint, place.region) != (shared.bucket, shared.endpoint, shared.region)
            or not place.key.startswith(base)
            or hidden
            or others
        ):
            raise InvalidInputError(
                "The object lies where no table of an order over HTTP may lie.",
                where=str(place),
                next_step="Put it below the URL in [batch] tables, or send the rows themselves.",
            )
        return place

    def _absolute(self, scope: Scope, path: str) -> Path:
        wrong = "a NUL character" if "\0" in path else ""
        if path.encode(errors="replace").decode() != path:
            wrong = "half a character"
        if wrong:
            raise InvalidInputError(
                f"The path of the input or output holds {wrong}.", where="input or output", next_step="Name a file."
            )
        require_nameable(self.root / path, "input or output")
        if not self.confined:
            return (self.root / path).resolve()
        root = self.root.resolve()
        base = root if scope == self.owner or self.owner is None else root / "tenants" / scope.tenant
        absolute = (base / path).resolve()
        within = absolute.relative_to(base).parts if absolute.is_relative_to(base) else None
        hidden = within is not None and any(part.startswith(".") for part in within)
        others = base == root and within is not None and within[:1] == ("tenants",) and self.owner is not None
        if within is None or hidden or others or any(absolute.is_relative_to(path.resolve()) for path in self.private):
            raise InvalidInputError(
                f"The path {path!r} lies {'outside the project' if within is None else 'where no table may lie'}.",
                where=path,
                next_step="Put the file into the project and name it by a relative path, or send the rows themselves.",
            )
        return absolute


def _window(within: str) -> timedelta:
    try:
        window = parse_duration(within)
    except InvalidInputError as error:
        raise InvalidInputError(error.what, where="within", next_step=error.next_step) from None
    if window > LONGEST_WINDOW:
        raise InvalidInputError(
            f"{within!r} is longer than {LONGEST_WINDOW.days} days.",
            where="within",
            next_step="Name a shorter one, or none.",
        )
    return window


def _alike(order: TableOrder, documents: list[str]) -> str:
    """Names the jobs whose rows take about what this one's rows take."""
    kind = "documents" if documents else "precompute" if order.precompute else "table"
    return f"{kind}/{order.application}"


def prompt_tokens(application: ApplicationSpec, row: dict[str, Any]) -> float:
    """Estimates the tokens of a row's prompt: system, examples and the template with the row's keys and question."""
    entity = {key: str(row.get(key) or "") for key in application.entity_keys}
    prints = dict.fromkeys(_FEATURE.findall(application.prompt.template), _FIGURE)
    question = str(row.get("question") or "")
    try:
        chunk = {"number": 1, "id": "", "document": "", "title": "", "text": _CHUNK}
        retrieved = {one.name: [chunk] * one.k for one in application.retrievals or ()}
        names = prompts.variables(application, prints, entity, question, retrieved)
        user = prompts.render(application.prompt.template, names, "prompt")
    except InvalidInputError:  # it computes with a figure: then its own text is the nearest length that is known
        user = application.prompt.template + question
    turns = prompts.turns(application, user)
    given = row.get("messages") if application.conversation else None
    before = len(str(given).encode()) if given else 0
    return (before + sum(len(turn.content.encode()) for turn in turns)) / BYTES_PER_TOKEN + TOKENS_PER_TURN * (
        len(turns) + 1
    )


def scaled(sampled: list[float], rows: int) -> int:
    """Tokens of so many rows of which some were sampled."""
    return ceil(sum(sampled) / len(sampled) * rows) if sampled else 0
