"""Moves of whole projects to servers and back, for tests and ``make bench-migrate``: the servers, the settings that
name them, and everything of a project that must stay as it is, as hashes.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tests.servers import NatsProcess, PostgresProcess, RedisProcess, S3Process

from antiphon.catalog import schema
from antiphon.catalog.features.events import StreamHomes
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.engine.api.port import GenerationEngine
from antiphon.features.online.overlay_records import view_prefix
from antiphon.governance.audit.log import AuditFilter
from antiphon.governance.audit.verification import verify
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.moving.catalog import digests
from antiphon.services.moving.log import digest
from antiphon.services.moving.project import MOVE
from antiphon.services.predictions import ProjectPredictions
from antiphon.services.project.store import Store, open_store

CREDENTIALS = """
[catalog]
password_variable = "MOVED_PASSWORD"

[features]
lake_access_key_variable = "MOVED_KEY"
lake_secret_key_variable = "MOVED_SECRET"

[batch]
files_access_key_variable = "MOVED_KEY"
files_secret_key_variable = "MOVED_SECRET"
"""
"""Sections of a project's settings that name the credentials of :class:`Servers`."""

STORES = ("catalog", "lake", "online", "log", "files")
PLACES = (schema.leases, schema.events, schema.streams)
"""Tables that say where things are, or hold what may be elsewhere."""

RECORDS = (schema.audit_entries, schema.audit_nodes, schema.audit_heads)
"""Tables to which each move adds its own record."""


class Servers:
    """PostgreSQL, S3, Redis and NATS, started, for one project after the other to grow into."""

    def __init__(self, *, durable: bool = False) -> None:
        self.postgres, self.redis = PostgresProcess(durable=durable), RedisProcess()
        self.nats, self.s3 = NatsProcess(), S3Process()
        self._all = (self.postgres, self.redis, self.nats, self.s3)
        for server in self._all:
            server.start()
        self.s3.make_bucket()
        self._projects = 0

    def fresh(self) -> dict[str, str]:
        """Store to the URL of a place where nothing is yet."""
        number = self._projects = self._projects + 1
        self.postgres.run(f"CREATE DATABASE project_{number}")
        self.nats.clear()
        bucket, options = f"s3://{self.s3.bucket}", f"?endpoint={self.s3.endpoint}"
        return {
            "catalog": self.postgres.url.replace("/postgres", f"/project_{number}"),
            "lake": f"{bucket}/lake-{number}{options}",
            "online": self.redis.url.replace("/0", f"/{number % 16}"),
            "log": self.nats.url,
            "files": f"{bucket}/files-{number}{options}",
        }

    @property
    def environment(self) -> dict[str, str]:
        """The variables that :data:`CREDENTIALS` name."""
        return {
            "MOVED_PASSWORD": self.postgres.password,
            "MOVED_KEY": self.s3.access_key,
            "MOVED_SECRET": self.s3.secret_key,
        }

    def remove(self) -> None:
        """End them and forget what they hold."""
        for server in self._all:
            server.remove()


def logical_hashes(root: Path) -> dict[str, Any]:
    """Tables, audit log, snapshots, publications, datasets, lake, event log and streamed events of a project, each as a
    hash; the records of moves are left out."""
    with open_store(root) as store, closing(FeaturePlatform(store)) as platform:
        scope, catalog = store.scope, platform.catalog
        streamed = [spec for spec in catalog.definitions.list(scope) if spec.source.kind == "stream"]
        prefixes = {view_prefix(spec.key): spec.key for spec in streamed}
        state = platform.overlay.read(prefixes)
        homes = StreamHomes(store.database).all()
        lake = {path: platform.lake.verify(path, path.split("/")[3].partition(".")[0]) for path in lake_files(platform)}
        return {
            **{f"table {one.table}": (one.rows, one.sha256) for one in digests(store.database, (*PLACES, *RECORDS))},
            "audit": {str(one): _audited(store, one) for one in store.audit.scopes()},
            "snapshots": content_hash(sorted((one.id, one.logical_hash) for one in catalog.snapshots.list(scope))),
            "publications": content_hash([one.snapshots for one in catalog.publications.list(scope, 1_000)]),
            "datasets": content_hash(sorted((one.id, one.logical_hash) for one in store.datasets.list(scope))),
            "lake": content_hash(sorted(lake)),
            "streams": {
                f"{one}/{stream}": (home.end, digest(store.events.read, one, stream, home.end))
                for one, stream, home in homes
            },
            "streamed": {
                key: (
                    state.offsets[prefix],
                    state.pruned[prefix],
                    content_hash(sorted(repr(one) for one in platform.overlay.events(prefix)
                                        if one.event.offset > state.pruned[prefix])),
                    repr(state.progress[prefix]),
                )
                for prefix, key in prefixes.items()
            },
        }  # fmt: skip


def _audited(store: Store, scope: Scope) -> tuple[str, bool]:
    """The hash of a scope's records but for those of moves, and whether the whole log holds."""
    table = schema.audit_entries
    statement = sa.select(table.c.sequence, table.c.leaf).where(schema.owned(table, scope), table.c.action != MOVE)
    rows = store.database.rows(statement.order_by(table.c.sequence))
    return content_hash([(row.sequence, row.leaf.hex()) for row in rows]), verify(store.audit, scope).sound


def moves_on_record(store: Store) -> list[dict[str, Any]]:
    """What the audit log says of moves, latest first."""
    found = store.audit.query(store.scope, AuditFilter(action=MOVE))
    return [one.detail or {} for one in found]


def lake_files(platform: FeaturePlatform) -> Iterable[str]:
    """Every file of the lake, of every scope."""
    return [path for scope in platform.lake.scopes() for path in platform.lake.files(scope)]


async def replayed(root: Path, engine: GenerationEngine, predictions: Iterable[str]) -> dict[str, bool]:
    """Prediction to whether its text was made again byte for byte."""
    with open_store(root) as store:
        replays = ProjectPredictions(store)
        return {one: bool((await replays.replay(engine, store.scope, one)).get("identical")) for one in predictions}
