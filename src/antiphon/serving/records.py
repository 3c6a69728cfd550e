"""Who may read the record of an answer: its receipt and texts, the rows of a batch, its files, the rows behind a value.

Invariant: a record discloses what the answer disclosed, so its reader is asked about as the answer's asker is. Policy
decides ``read`` of the record, with the features that the record holds and the keys of its entity; and whatever
``forbid`` keeps the answer from the reader keeps the record too (``governance.prohibitions``). Source rows are a right
of their own, ``read_source_rows``. A record of many entities that are not looked at one by one is read by those who
may read every entity, or by the principal that it was made for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from antiphon.catalog.batches import Batches
from antiphon.catalog.blobs import Blobs
from antiphon.catalog.definitions import AppliedProjects
from antiphon.catalog.files import StoredFile
from antiphon.catalog.jobs import BatchJob, JobRow
from antiphon.catalog.outcomes import Outcome
from antiphon.catalog.receipts import Receipt, Receipts
from antiphon.catalog.releases import Release, Releases
from antiphon.core.errors import Forbidden, NotFound
from antiphon.core.scope import Scope
from antiphon.governance.policy import Decider, Decision, Resource
from antiphon.governance.policy_request import Column, application_resource
from antiphon.governance.principal import Principal
from antiphon.governance.prohibitions import Prohibitions

SOURCE_ROWS = "read_source_rows"
_VERBS = {"read": "read", "answer": "ask again about", SOURCE_ROWS: "read source rows of"}
_MASKED = "masked"
_KEPT_DECIDERS = 64


class Records:
    """Decides about readers of records.

    Args:
        decider: the policies in force in a tenant.
    """

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
        self._releases = releases
        self._batches = batches
        self._applied = applied
        self._prohibitions: dict[str, Prohibitions] = {}

    def require_prediction(self, scope: Scope, who: Principal, prediction: str) -> Receipt:
        """The receipt of a prediction, and of the one that it was first made as, for somebody who may read both.

        Raises:
            NotFound: there is none of this id here.
            Forbidden: policy keeps it from this principal.
        """
        receipt = self._receipts.get(scope, prediction)
        self._require(who, f"prediction/{prediction}", self._of_receipt(scope, who, receipt))
        if receipt.cache.prediction not in (None, prediction):
            self.require_prediction(scope, who, str(receipt.cache.prediction))
        return receipt

    def require_replay(self, scope: Scope, who: Principal, prediction: str) -> Receipt:
        """The receipt of a prediction, for somebody who may read it and ask for the same answer again.

        Raises:
            NotFound: there is none of this id here.
            Forbidden: policy keeps it from this principal.
        """
        receipt = self.require_prediction(scope, who, prediction)
        resource = self._disclosed(scope, receipt, self._release(scope, receipt.release))
        context = {**self._context_of(scope, receipt), "keys": self._keys(receipt) or {}}
        said = self._decider(who.tenant).decide(who, "answer", resource, context)
        self._require(who, str(resource), said, "answer")
        return receipt

    def may_read_source_rows(self, scope: Scope, who: Principal, receipt: Receipt) -> bool:
        """Whether somebody may see the source rows behind a prediction that they may read."""
        return self._source_rows_of(scope, who, receipt).allowed

    def require_source_rows(self, scope: Scope, who: Principal, receipt: Receipt) -> None:
        """Let policy decide about the source rows behind a prediction.

        Raises:
            Forbidden: it denies.
        """
        self._require(who, f"prediction/{receipt.prediction}", self._source_rows_of(scope, who, receipt), SOURCE_ROWS)

    def require_view(self, scope: Scope, who: Principal, view: str, keys: Mapping[str, str] | None = None) -> None:
        """Let policy decide about source rows of a view: of one entity, or without ``keys`` of any.

        Raises:
            Forbidden: it denies.
        """
        resource = view_resource(self._applied, scope, view)
        said = self._decider(who.tenant).decide(who, SOURCE_ROWS, resource, self._context(scope, keys=keys))
        if said.allowed:
            said = self._of_view(scope, who, resource, keys)
        self._require(who, f"view/{view}", said, SOURCE_ROWS)

    def may_read_view(self, scope: Scope, who: Principal, view: str) -> bool:
        """Whether somebody may see values of any entity of a view, and statistics of all of them."""
        resource = view_resource(self._applied, scope, view)
        said = self._decider(who.tenant).decide(who, "read", resource, self._context(scope))
        return said.allowed and self._of_view(scope, who, resource, None).allowed

    def require_application(self, scope: Scope, who: Principal, application: str) -> None:
        """Let policy decide about values of all entities of an application together.

        Raises:
            Forbidden: it denies.
        """
        release = self._releases.live(scope, application)
        resource = _resource(application, release)
        context = self._context(scope, purpose=_purpose(release))
        self._require(who, str(resource), self._readable_together(who, resource, resource, context, own=False))

    def readable_rows(self, scope: Scope, who: Principal, job: BatchJob, rows: Sequence[JobRow]) -> list[JobRow]:
        """The rows of a batch whose entities somebody may read answers about.

        Raises:
            Forbidden: policy keeps every one of them from this principal.
        """
        release = self._release(scope, job.release, job.application)
        resource, own = _resource(job.application, release), job.principal == who.id
        record = Resource("job", job.id, scope.tenant, resource.columns, author=job.principal)
        keys = () if release is None else release.bundle.application.entity_keys
        context = self._context(scope, purpose=_purpose(release), path="batch")
        if not keys or not all(key in row.payload for row in rows for key in keys):
            # Rows of requests name their entities in their own way: they are read together or not at all.
            self._require(who, str(record), self._readable_together(who, record, resource, context, own))
            return list(rows)
        known: dict[tuple[str, ...], Decision] = {}
        found = []
        for row in rows:
            entity = {key: str(row.payload[key]) for key in keys if row.payload.get(key) is not None}
            named = tuple(entity.values())
            if named not in known:
                known[named] = self._readable(who, record, resource, {**context, "keys": entity}, own=own)
            if known[named].allowed:
                found.append(row)
        denied = [said for said in known.values() if not said.allowed]
        if denied and not found:
            self._require(who, str(record), denied[0])
        return found

    def readable_outcomes(
        self, scope: Scope, who: Principal, application: str, outcomes: Iterable[Outcome]
    ) -> list[Outcome]:
        """Outcomes of predictions about entities that somebody may read answers about."""
        release = self._releases.live(scope, application)
        resource = _resource(application, release)
        context = self._context(scope, purpose=_purpose(release))
        return [
            one for one in outcomes
            if self._readable(who, resource, resource, {**context, "keys": one.entity}).allowed
        ]  # fmt: skip

    def require_file(self, scope: Scope, who: Principal, file: StoredFile) -> None:
        """Let policy decide about the content of a file, which may speak of many entities.

        Raises:
            Forbidden: it denies.
        """
        made = self._batches.maker(scope, file.id)
        release = None if made is None else self._release(scope, made.job.release, made.job.application)
        resource = _resource("" if made is None else made.job.application, release)
        record = Resource("file", file.id, scope.tenant, resource.columns, author=file.principal)
        context = self._context(scope, purpose=_purpose(release), path="batch")
        own = file.principal == who.id
        said = self._readable_together(who, record, resource, context, own)
        self._require(who, str(record), said)

    def _of_receipt(self, scope: Scope, who: Principal, receipt: Receipt) -> Decision:
        release = self._release(scope, receipt.release)
        resource = self._disclosed(scope, receipt, release)
        record = Resource("prediction", receipt.prediction, scope.tenant, resource.columns, author=receipt.principal)
        context = self._context_of(scope, receipt)
        keys = self._keys(receipt)
        if keys is None:
            return self._readable_together(who, record, resource, context, own=False)
        return self._readable(who, record, resource, {**context, "keys": keys})

    def _source_rows_of(self, scope: Scope, who: Principal, receipt: Receipt) -> Decision:
        resource = self._disclosed(scope, receipt, self._release(scope, receipt.release))
        record = Resource("prediction", receipt.prediction, scope.tenant, resource.columns, author=receipt.principal)
        context = {**self._context_of(scope, receipt), "keys": self._keys(receipt) or {}}
        return self._decider(who.tenant).decide(who, SOURCE_ROWS, record, context)

    def _readable(
        self, who: Principal, record: Resource, answered: Resource, context: Mapping[str, Any], *, own: bool = False
    ) -> Decision:
        """``read`` of the record, and nothing that forbids the answer."""
        said = self._decider(who.tenant).decide(who, "read", record, context)
        if not said.allowed:
            return said
        return self._forbidding(who).decide(who, "answer", answered, context, own=own)

    def _readable_together(
        self, who: Principal, record: Resource, answered: Resource, context: Mapping[str, Any], own: bool
    ) -> Decision:
        """The same about a record of many entities."""
        said = self._decider(who.tenant).decide(who, "read", record, context)
        return self._over_entities(who, answered, context, own) if said.allowed else said

    def _over_entities(
        self, who: Principal, answered: Resource, context: Mapping[str, Any], own: bool = False
    ) -> Decision:
        decider = self._decider(who.tenant)
        if decider.parts.any_key and not own:
            return Decision(False, (), decider.digest, ("a policy reads keys that only an entity's question names",))
        return self._forbidding(who).over_entities(who, "answer", answered, decider.parts.keys, context, own=own)

    def _of_view(self, scope: Scope, who: Principal, view: Resource, keys: Mapping[str, str] | None) -> Decision:
        """What forbids an answer that is made from all of a view, for any purpose."""
        unlimited = msgspec.structs.replace(
            view, columns=tuple(msgspec.structs.replace(one, purposes=None) for one in view.columns)
        )
        if keys is None:
            return self._over_entities(who, unlimited, self._context(scope))
        return self._forbidding(who).decide(who, "answer", unlimited, self._context(scope, keys=keys))

    def _forbidding(self, who: Principal) -> Prohibitions:
        decider = self._decider(who.tenant)
        found = self._prohibitions.get(decider.digest)
        if found is None:
            if len(self._prohibitions) >= _KEPT_DECIDERS:
                self._prohibitions.clear()
            found = self._prohibitions[decider.digest] = Prohibitions(decider)
        return found

    def _disclosed(self, scope: Scope, receipt: Receipt, release: Release | None) -> Resource:
        """The application with those of its features that this receipt holds: what was masked then is not in it."""
        hidden = {one.name for one in receipt.features if one.contract == _MASKED}
        if release is None:
            columns = [self._column(scope, one.name) for one in receipt.features if one.name not in hidden]
            return Resource("application", receipt.application, scope.tenant, tuple(columns))
        resource = _resource(receipt.application, release)
        columns = [column for column in resource.columns if not _all_hidden(column.name, receipt, hidden)]
        return msgspec.structs.replace(resource, columns=tuple(columns))

    def _column(self, scope: Scope, feature: str) -> Column:
        """A feature as the applied definitions tag it, where no release says so."""
        view, _, name = feature.partition(".")
        applied = self._applied.current(scope)
        declared = None if applied is None else applied.project.views.get(view)
        tags = None if declared is None else declared.tags.get(name)
        return Column(feature) if tags is None else Column(feature, tags.sensitivity, tags.purposes)

    def _release(self, scope: Scope, release: str | None, application: str = "") -> Release | None:
        """A release that is kept; a plain model has none."""
        if release is None:
            return self._releases.live(scope, application) if application else None
        try:
            return self._releases.get(scope, release)
        except NotFound:
            return None

    def _keys(self, receipt: Receipt) -> dict[str, str] | None:
        """The keys of a receipt's entity; ``None`` once they are erased."""
        try:
            return msgspec.json.decode(self._blobs.get(receipt.scope, receipt.entity_blob), type=dict[str, str])
        except NotFound:
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
            raise Forbidden(
                f"Policy does not let {who.id} ({who.role}) {_VERBS[action]} {record}: {said.reason}.",
                where="policy",
                next_step=f"`antiphon policy explain {who.id} {action} {record}` says what would have to hold.",
            )


def view_resource(applied: AppliedProjects, scope: Scope, view: str) -> Resource:
    """A view with every feature that it is declared with."""
    current = applied.current(scope)
    declared = None if current is None else current.project.views.get(view)
    tags = {} if declared is None else declared.tags
    columns = [Column(f"{view}.{name}", tag.sensitivity, tag.purposes) for name, tag in sorted(tags.items())]
    return Resource("view", view, scope.tenant, tuple(columns or [Column(f"{view}.*")]))


def _resource(application: str, release: Release | None) -> Resource:
    if release is None:
        return Resource("application", application)
    bundle = release.bundle
    trained_for = None if release.number == 0 else bundle.model.purposes
    return application_resource(bundle.application, trained_for=trained_for)


def _purpose(release: Release | None) -> str:
    return "" if release is None else release.bundle.application.purpose


def _all_hidden(column: str, receipt: Receipt, hidden: set[str]) -> bool:
    """Whether every feature of a column that the receipt names was masked."""
    view, _, name = column.partition(".")
    named = [
        one.name for one in receipt.features
        if one.name == column or (name == "*" and one.name.partition(".")[0] == view)
    ]  # fmt: skip
    return bool(named) and hidden.issuperset(named)
