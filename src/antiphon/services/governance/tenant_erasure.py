"""Erases what a deleted tenant stored: in the catalog, in the lake, online, in the event log and in its files.

Invariants:
- What is needed to find or prove something goes while it can still be opened: the audit log's texts, whose commitments
  stay, and files of models. Then the data keys go, and with them everything that they sealed, wherever a copy of it is.
- Every step may be repeated and removes what is left, so an erasure that was killed anywhere goes on when it is run
  again. The tenant's row says ``erased`` last, and stays, as does the tree of its audit log.
- What was used stays in the ledger without a name, so that its rows still add up to what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import sqlalchemy as sa

from antiphon.catalog import schema
from antiphon.catalog.engine_instances import engine_leases
from antiphon.catalog.serving.precomputed_modes import mode_leases
from antiphon.core.disk import remove_folder
from antiphon.core.errors import AntiphonError, ConflictError
from antiphon.core.scope import ANY, Scope
from antiphon.features.streaming.nats_log import NatsEventLog
from antiphon.governance.identity.principal import Principal
from antiphon.services.batches import file_contents
from antiphon.services.learning.weights_files import SUFFIX
from antiphon.services.project.feature_stores import FeatureStores
from antiphon.services.project.store import Store

KEPT = frozenset({"audit_entries", "audit_heads", "audit_nodes", "tenants"})
"""Tables of which rows stay."""

_STAYING = KEPT | {"ledger_entries"}

_USAGE = "usage, its names"
"""Told of rows that stay in the ledger."""

_CHUNK = 2_000
"""Rows that are deleted in one transaction: the catalog has one writer."""

Tell = Callable[[str, int], None]
"""Told what is removed, and how many of it so far."""


class TenantErasure(msgspec.Struct, frozen=True):
    """An erasure, or with ``dry_run`` what one would remove: how many of what, without what there is none of."""

    tenant: str
    dry_run: bool
    removed: dict[str, int]


class TenantEraser:
    """Erases one tenant over the stores of a project."""

    def __init__(self, store: Store, tenant: str, tell: Tell = lambda what, done: None) -> None:
        self._store = store
        self._database = store.database
        self._tenant = tenant
        self._tell = tell

    def require_ended(self) -> None:
        """Refuse while a worker still has a run of the tenant: it would write again what is removed.

        Raises:
            ConflictError: there is one.
        """
        runs, now = schema.runs, self._database.clock.now()
        held = (runs.c.tenant == self._tenant) & (runs.c.status == "running") & (runs.c.lease_until > now)
        running = self._database.scalar(sa.select(sa.func.count()).select_from(runs).where(held))
        if running:
            raise ConflictError(
                f"{running} runs of {self._tenant!r} have not ended; they were told to.",
                where="tenant",
                next_step="Wait for the worker to let them go, and try again.",
            )

    def count(self) -> TenantErasure:
        """Count what an erasure would remove; nothing is changed."""
        found = {f"rows of {table.name}": self._rows(table) for table in self._tables()}
        found[_USAGE] = self._rows(schema.ledger_entries)
        found["audit texts"] = self._audit_texts()
        with closing(FeatureStores(self._store)) as stores, closing(file_contents(self._store)) as contents:
            for scope in stores.lake.scopes():
                if scope.tenant == self._tenant:
                    found["lake files"] = found.get("lake files", 0) + sum(1 for _ in stores.lake.files(scope))
            for scope in stores.online.scopes():
                if scope.tenant == self._tenant:
                    found["online snapshots"] = found.get("online snapshots", 0) + len(list(stores.online.files(scope)))
            for scope in contents.scopes():
                if scope.tenant == self._tenant:
                    found["files"] = found.get("files", 0) + sum(1 for _ in contents.files(scope))
        found["streams on the log's server"] = len(self._streams())
        return self._report(found, dry_run=True)

    def erase(self, *, by: Principal, reason: str) -> TenantErasure:
        """Remove everything, in the order that the invariants ask for; the tenant's state is the caller's to change."""
        found: dict[str, int] = {}

        def removed(what: str, count: int) -> None:
            found[what] = found.get(what, 0) + count
            self._tell(what, found[what])

        for scope in self._scopes():
            removed("audit texts", self._store.audit.erase_all(scope, principal=by.id, reason=reason))
        removed("model files", self._model_files())
        removed("rows of data_keys", self._delete(schema.data_keys))
        self._database.erase_free_space()
        removed("folders of runs", self._run_folders())
        removed("files of table jobs", self._table_files())
        with closing(FeatureStores(self._store)) as stores, closing(file_contents(self._store)) as contents:
            removed("online files", stores.online.erase(self._tenant))
            removed("lake files", stores.lake.erase(self._tenant))
            removed("files", contents.erase(self._tenant))
        log = self._store.events
        for scope, stream in self._streams():
            if isinstance(log, NatsEventLog):
                removed("streams on the log's server", int(log.erase(scope, stream)))
        while moved := self._store.ledger.anonymize_tenant(self._tenant, self._priced_models()):
            removed(_USAGE, moved)
        for table in self._tables():
            removed(f"rows of {table.name}", self._delete(table))
        self._database.erase_free_space()
        return self._report(found, dry_run=False)

    def _report(self, found: dict[str, int], *, dry_run: bool) -> TenantErasure:
        return TenantErasure(self._tenant, dry_run, {what: count for what, count in sorted(found.items()) if count})

    def _tables(self) -> Iterator[sa.Table]:
        """Tables whose rows go, those that name others first."""
        return (table for table in reversed(schema.metadata.sorted_tables) if table.name not in _STAYING)

    def _of_tenant(self, table: sa.Table) -> sa.ColumnElement[bool]:
        own = table.c.tenant == self._tenant
        if table is schema.leases:  # They are the installation's; these hold reasons that people of the tenant gave.
            named = (table.c.name.startswith(of(self._tenant), autoescape=True) for of in (engine_leases, mode_leases))
            return sa.or_(own, *named)
        return own | (table.c.grantee == self._tenant) if table is schema.grants else own

    def _rows(self, table: sa.Table) -> int:
        statement = sa.select(sa.func.count()).select_from(table).where(self._of_tenant(table))
        return int(self._database.scalar(statement) or 0)

    def _delete(self, table: sa.Table) -> int:
        keys, deleted = list(table.primary_key.columns), 0
        some = sa.select(*keys).where(self._of_tenant(table)).limit(_CHUNK)
        while True:
            with self._database.transaction() as connection:
                gone = connection.execute(sa.delete(table).where(sa.tuple_(*keys).in_(some))).rowcount
            deleted += gone
            if gone < _CHUNK:
                return deleted
            self._tell(f"rows of {table.name}", deleted)

    def _priced_models(self) -> frozenset[str]:
        """Models whose tokens have prices of their own in an environment: names of the installation."""
        model = schema.prices.c.model
        return frozenset(row.model for row in self._database.rows(sa.select(model).where(model != "").distinct()))

    def _scopes(self) -> list[Scope]:
        """The environments in which the tenant has an audit log."""
        heads = schema.audit_heads
        rows = self._database.rows(sa.select(heads.c.environment).where(heads.c.tenant == self._tenant))
        return [Scope(self._tenant, row.environment) for row in rows if row.environment != ANY]

    def _audit_texts(self) -> int:
        table = schema.audit_entries
        texts = [sa.func.count(table.c[name]) for name in ("principal", "originator", "subject", "detail")]
        row = self._database.first(sa.select(*texts).where(table.c.tenant == self._tenant))
        return 0 if row is None else sum(row)

    def _streams(self) -> list[tuple[Scope, str]]:
        """Streams whose events are on a server."""
        table = schema.streams
        elsewhere = (table.c.tenant == self._tenant) & table.c.log.is_not(None)
        rows = self._database.rows(sa.select(table.c.environment, table.c.stream).where(elsewhere))
        return [(Scope(self._tenant, row.environment), row.stream) for row in rows]

    def _model_files(self) -> int:
        """Weights and adapters in the project's folder, which the documents of model versions name. What another tenant
        trained from the same is the same file, and stays."""
        folder, count = self._store.paths.directory / "models", 0
        table = schema.model_versions
        of_others = sa.select(table.c.weights_sha256).where(table.c.tenant != self._tenant)
        own = sa.select(table.c.environment, table.c.weights_sha256).where(
            table.c.tenant == self._tenant, table.c.weights_sha256.not_in(of_others)
        )
        found = {row.weights_sha256: row.environment for row in self._database.rows(own)}
        for sha256 in found:
            count += _unlinked(folder / "fetched" / f"{sha256}{SUFFIX}")
        for environment in set(found.values()):
            try:
                versions = self._store.models.list(Scope(self._tenant, environment))
            except AntiphonError:  # Their keys went in an erasure before, after the files.
                continue
            for version in versions:
                if version.weights.sha256 in found:
                    count += sum(_unlinked(folder / file.path) for file in (version.weights, version.adapter))
        return count

    def _table_files(self) -> int:
        """Tables that its jobs read and wrote, in the folder that a tenant other than the project's own has."""
        folder = self._store.paths.root / "tenants" / self._tenant
        count = sum(file.is_file() for file in folder.rglob("*"))
        remove_folder(folder)
        return count

    def _run_folders(self) -> int:
        """Folders of trainings."""
        count = 0
        for row in self._database.rows(sa.select(schema.runs.c.id).where(schema.runs.c.tenant == self._tenant)):
            folder = self._store.paths.directory / "training" / row.id
            count += folder.exists()
            remove_folder(folder)
        return count


def _unlinked(file: Path) -> bool:
    existed = file.exists()
    file.unlink(missing_ok=True)
    return existed
