"""Rights to the record of an answer: its receipt and texts, the rows of a batch, its files, the rows behind a value.

Invariant: a record discloses what the answer disclosed, so its reader is asked about as the answer's asker is. Policy
decides ``read`` of the record, with the features that the record holds and the keys of its entity; and whatever
``forbid`` keeps the answer from the reader keeps the record too (``governance.prohibitions``). Source rows are a right
of their own, ``read_source_rows``. A record of many entities that are not looked at one by one is read by those who
may read every entity, or by the principal that it was made for.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from antiphon.catalog.batch.batches import KIND as BATCH
from antiphon.catalog.batch.batches import Batches
from antiphon.catalog.batch.files import StoredFile
from antiphon.catalog.batch.jobs import ANSWER_COLUMNS, BatchJob, JobRow
from antiphon.catalog.features.definitions import AppliedProjects
from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipt import Receipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.errors import ForbiddenError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.engine import Decider, Decision, Resource
from antiphon.governance.policy.prohibitions import Prohibitions
from antiphon.serving.disclosures import Disclosures, ReleaseDisclosure, view_resource

SOURCE_ROWS = "read_source_rows"
_VERBS = {"read": "read", "answer": "ask again about", SOURCE_ROWS: "read source rows of"}
_KEPT_DECIDERS = 64
_NONE: Mapping[str, bytes] = {}


class Records:
    """Decides about readers of records. ``decider``: the policies in force in a tenant."""

    def __init__(
        self,
        decider: Callable[[str], Decider],
        receipts: Receipts,
        blobs: Blobs,
        releases: Releases,
        batches: Batches,
        applied: AppliedProjects,
    ) -> None:
        self._decider = decider
        self._receipts = receipts
        self._blobs = blobs
        self._disclosures = Disclosures(releases, applied)
        self._batches = batches
        self._applied = applied
        self._prohibitions: dict[str, Prohibitions] = {}

    def require_prediction(self, scope: Scope, who: Principal, prediction: str) -> Receipt:
        """The receipt of a prediction, and of the one that it was first made as, for somebody who may read both.

        Raises:
            NotFoundError: there is none of this id here.
            ForbiddenError: policy keeps it from this principal.
        """
        receipt = self._receipts.get(scope, prediction)
        for one in self._generations(scope, receipt):
            self._require(who, f"prediction/{one.prediction}", self._of_receipt(scope, who, one))
        return receipt

    def may_read_prediction(self, scope: Scope, who: Principal, receipt: Receipt, texts: Mapping[str, bytes]) -> bool:
        """Tells whether somebody may read a receipt, and the ones that its answer was taken from.

        Args:
            texts: blobs that were read already, by their hashes.
        """
        return all(self._of_receipt(scope, who, one, texts).allowed for one in self._generations(scope, receipt))

    def require_replay(self, scope: Scope, who: Principal, prediction: str) -> Receipt:
        """The receipt of a prediction, for somebody who may read it and ask for it, as it was first made, again.

        Raises:
            The errors of :meth:`require_prediction`.
        """
        receipt = self.require_prediction(scope, who, prediction)
        for one in self._generations(scope, receipt):
            resource = self._disclosures.of_receipt(scope, one)
            context = {**self._context_of(scope, one), "keys": self._keys(one) or {}}
            said = self._decider(who.tenant).decide(who, "answer", resource, context)
            self._require(who, str(resource), said, "answer")
        return receipt

    def may_read_source_rows(self, scope: Scope, who: Principal, receipt: Receipt) -> bool:
        """Tells whether somebody may see the source rows behind a prediction that they may read."""
        return self._source_rows_of(scope, who, receipt).allowed

    def require_source_rows(self, scope: Scope, who: Principal, receipt: Receipt) -> None:
        """Let policy decide about the source rows behind a prediction; ``ForbiddenError`` if it denies."""
        self._require(who, f"prediction/{receipt.prediction}", self._source_rows_of(scope, who, receipt), SOURCE_ROWS)

    def require_source(self, scope: Scope, who: Principal, reader: str, keys: Mapping[str, str] | None = None) -> None:
        """Let policy decide about source rows of ``view/NAME``, or of the outcomes of ``application/NAME``: of one
        entity, or without ``keys`` of any; ``ForbiddenError`` if it denies."""
        kind, _, name = reader.partition("/")
        if kind == "view":
            resource = view_resource(self._applied, scope, name)
        else:
            resource = self._disclosures.of_application(scope, name, None).resource
        said = self._decider(who.tenant).decide(who, SOURCE_ROWS, resource, self._context(scope, keys=keys))
        if said.allowed:
            said = self._of_source(scope, who, resource, keys)
        self._require(who, reader, said, SOURCE_ROWS)

    def may_read_view(self, scope: Scope, who: Principal, view: str) -> bool:
        """Tells whether somebody may see values of any entity of a view, and statistics of all of them."""
        resource = view_resource(self._applied, scope, view)
        said = self._decider(who.tenant).decide(who, "read", resource, self._context(scope))
        return said.allowed and self._of_source(scope, who, resource, None).allowed

    def require_application(self, scope: Scope, who: Principal, application: str) -> None:
        """Let policy decide about values of all entities of an application together; ``ForbiddenError`` if it
        denies."""
        about = self._disclosures.of_application(scope, application, None)
        context = self._context(scope, purpose=about.purpose)
        said = self._readable(who, about.resource, about.resource, context)
        self._require(who, str(about.resource), said)

    def may_read_application(self, scope: Scope, who: Principal, application: str) -> bool:
        """Tells whether somebody may see values of all entities of an application together."""
        try:
            self.require_application(scope, who, application)
        except ForbiddenError:
            return False
        return True

    def require_rows(self, scope: Scope, who: Principal, job: BatchJob) -> None:
        """Let policy decide about all rows of a batch together; ``ForbiddenError`` if it denies."""
        self._require_together(scope, who, job, "job", job.id, job.principal)

    def readable_rows(self, scope: Scope, who: Principal, job: BatchJob, rows: Sequence[JobRow]) -> list[JobRow]:
        """The rows of a batch whose entities somebody may read answers about, without columns of source rows for those
        who may not read these. ``ForbiddenError`` if policy keeps all of it from them, whichever entities it is about.
        """
        about = self._answered(scope, job)[0]
        shown = None if self._may_read_sources(scope, who, job) else {*about.keys, *ANSWER_COLUMNS}
        if job.kind == BATCH or not about.keys or not all(key in row.payload for row in rows for key in about.keys):
            # Rows of requests name their entities in their own way: they are read together or not at all.
            self.require_rows(scope, who, job)
            return [_shown(row, shown) for row in rows]
        own = job.principal == who.id
        record = Resource("job", job.id, scope.tenant, about.resource.columns, author=job.principal)
        context = self._context(scope, purpose=about.purpose, path="batch")
        known: dict[tuple[Any, ...], Decision] = {}
        found = []
        for row in rows:
            entity = {key: str(row.payload[key]) for key in about.keys if row.payload.get(key) is not None}
            moment = _seconds(_moment(job, row))
            named = (*entity.items(), moment)
            if named not in known:
                values = {**context, "keys": entity, "as_of": moment}
                known[named] = self._readable(who, record, about.resource, values, own=own)
            if known[named].allowed:
                found.append(_shown(row, shown))
        if not found and not all(said.allowed for said in known.values()):
            # A page may hold rows of others alone; a reader who may read no row at all is told so.
            forbidding, keys = self._forbidding(who), self._decider(who.tenant).parts.keys
            for action, resource in (("read", record), ("answer", about.resource)):
                whole = forbidding.over_entities(who, action, resource, keys, context, own=True)
                self._require(who, str(record), whole)
        return found

    def readable_outcomes(
        self, scope: Scope, who: Principal, application: str, outcomes: Iterable[OutcomeRecord]
    ) -> list[OutcomeRecord]:
        """Outcomes of predictions about entities that somebody may read answers about."""
        by_originator = "originator" in self._decider(who.tenant).parts.context
        known: dict[str | None, ReleaseDisclosure] = {}
        found = []
        for one in outcomes:
            if one.release not in known:
                known[one.release] = self._disclosures.of_application(scope, application, one.release)
            about = known[one.release]
            context = self._context(scope, purpose=about.purpose, keys=one.entity)
            values = {**context, "as_of": _seconds(one.as_of or one.at or one.available_at)}
            if by_originator and one.prediction is not None:
                values["originator"] = self._originator(scope, one.prediction)
            if self._readable(who, about.resource, about.resource, values).allowed:
                found.append(one)
        return found

    def require_file(self, scope: Scope, who: Principal, file: StoredFile) -> None:
        """Let policy decide about a file's content, which may speak of many entities; ``ForbiddenError`` if it
        denies."""
        made = self._batches.maker(scope, file.id)
        self._require_together(scope, who, None if made is None else made.job, "file", file.id, file.principal)

    def _may_read_sources(self, scope: Scope, who: Principal, job: BatchJob) -> bool:
        try:
            for reader in job.sources:
                self.require_source(scope, who, reader)
        except ForbiddenError:
            return False
        return True

    def _require_together(
        self, scope: Scope, who: Principal, job: BatchJob | None, kind: str, name: str, owner: str
    ) -> None:
        """Policy about what holds answers of every release that a batch was answered by."""
        for about in self._answered(scope, job):
            record = Resource(kind, name, scope.tenant, about.resource.columns, author=owner)
            context = self._context(scope, purpose=about.purpose, path="batch")
            if job is not None:
                context["as_of"] = _seconds(job.created_at)
            said = self._readable(who, record, about.resource, context, own=owner == who.id)
            self._require(who, str(record), said)

    def _answered(self, scope: Scope, job: BatchJob | None) -> tuple[ReleaseDisclosure, ...]:
        """Each release that a job's rows were answered by; of a job without any row the one that is live."""
        if job is None:
            return (ReleaseDisclosure(Resource("application", "")),)
        return tuple(
            self._disclosures.of_application(scope, job.application, release) for release in job.releases or (None,)
        )

    def _generations(self, scope: Scope, receipt: Receipt) -> Iterator[Receipt]:
        """A receipt, and those of the answers that it was taken from."""
        seen: set[str] = set()
        while receipt.prediction not in seen:
            seen.add(receipt.prediction)
            yield receipt
            if receipt.cache.prediction is not None:
                receipt = self._receipts.get(scope, receipt.cache.prediction)

    def _of_receipt(
        self, scope: Scope, who: Principal, receipt: Receipt, texts: Mapping[str, bytes] = _NONE
    ) -> Decision:
        resource = self._disclosures.of_receipt(scope, receipt)
        record = Resource("prediction", receipt.prediction, scope.tenant, resource.columns, author=receipt.principal)
        context, keys = self._context_of(scope, receipt), self._keys(receipt, texts)
        return self._readable(who, record, resource, context if keys is None else {**context, "keys": keys})

    def _source_rows_of(self, scope: Scope, who: Principal, receipt: Receipt) -> Decision:
        resource = self._disclosures.of_receipt(scope, receipt)
        record = Resource("prediction", receipt.prediction, scope.tenant, resource.columns, author=receipt.principal)
        context = {**self._context_of(scope, receipt), "keys": self._keys(receipt) or {}}
        return self._decider(who.tenant).decide(who, SOURCE_ROWS, record, context)

    def _readable(
        self, who: Principal, record: Resource, answered: Resource, context: Mapping[str, Any], *, own: bool = False
    ) -> Decision:
        """``read`` of the record, and nothing that forbids the answer."""
        said = self._decider(who.tenant).decide(who, "read", record, context)
        return self._not_forbidden(who, answered, context, own) if said.allowed else said

    def _not_forbidden(
        self, who: Principal, answered: Resource, context: Mapping[str, Any], own: bool = False
    ) -> Decision:
        """Asks whether a policy forbids the answer: about the entity that ``keys`` names, or without them about any."""
        if "keys" in context:
            return self._forbidding(who).decide(who, "answer", answered, context, own=own)
        decider = self._decider(who.tenant)
        if decider.parts.any_key and not own:
            return Decision(False, (), decider.digest, ("a policy reads keys that only an entity's question names",))
        return self._forbidding(who).over_entities(who, "answer", answered, decider.parts.keys, context, own=own)

    def _of_source(self, scope: Scope, who: Principal, source: Resource, keys: Mapping[str, str] | None) -> Decision:
        """Prohibitions of an answer that is made from all of a view or an application's outcomes, for any purpose."""
        columns = tuple(msgspec.structs.replace(one, purposes=None) for one in source.columns)
        unlimited = msgspec.structs.replace(source, columns=columns, trained_for=None)
        return self._not_forbidden(who, unlimited, self._context(scope, keys=keys))

    def _forbidding(self, who: Principal) -> Prohibitions:
        decider = self._decider(who.tenant)
        found = self._prohibitions.get(decider.digest)
        if found is None:
            if len(self._prohibitions) >= _KEPT_DECIDERS:
                self._prohibitions.clear()
            found = self._prohibitions[decider.digest] = Prohibitions(decider)
        return found

    def _keys(self, receipt: Receipt, texts: Mapping[str, bytes] = _NONE) -> dict[str, str] | None:
        """The keys of a receipt's entity; ``None`` once they are erased."""
        try:
            kept = texts.get(receipt.entity_blob) or self._blobs.get(receipt.scope, receipt.entity_blob)
        except NotFoundError:
            return None
        return msgspec.json.decode(kept, type=dict[str, str])

    def _originator(self, scope: Scope, prediction: str) -> str | None:
        try:
            return self._receipts.get(scope, prediction).originating_user
        except NotFoundError:
            return None

    def _context_of(self, scope: Scope, receipt: Receipt) -> dict[str, Any]:
        known = self._context(scope, purpose=receipt.purpose, path=receipt.path)
        return {**known, "originator": receipt.originating_user, "as_of": int(receipt.as_of.timestamp())}

    def _context(
        self, scope: Scope, *, purpose: str = "", path: str = "", keys: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        known = {"tenant": scope.tenant, "environment": scope.environment, "purpose": purpose, "path": path}
        return known if keys is None else {**known, "keys": keys}

    def _require(self, who: Principal, record: str, said: Decision, action: str = "read") -> None:
        if not said.allowed:
            raise ForbiddenError(
                f"Policy does not let {who.id} ({who.role}) {_VERBS[action]} {record}: {said.reason}.",
                where="policy",
                next_step=f"`antiphon policy explain {who.id} {action} {record}` says what would have to hold.",
            )


def _moment(job: BatchJob, row: JobRow) -> datetime:
    """The moment that a row was answered as of; the order's own stands for the time of answering."""
    try:
        return job.moment_of(row.payload) or job.created_at
    except ValueError:
        return job.created_at


def _shown(row: JobRow, columns: Container[str] | None) -> JobRow:
    if columns is None:
        return row
    return msgspec.structs.replace(row, payload={name: said for name, said in row.payload.items() if name in columns})


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
