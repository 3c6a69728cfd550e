"""A small world of real parts for the feature tests: catalog, log, lake, online store and overlay in one folder."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from antiphon.catalog.database import Database
from antiphon.catalog.features.events import Event, EventLog
from antiphon.catalog.features.publications import Publication
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.clock import ManualClock
from antiphon.core.codec import Codec
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.lake.local import LocalLake
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.offline.refresh import Refresher
from antiphon.features.online.lmdb.overlay import LmdbOverlay
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.publication.publish import Publisher
from antiphon.features.streaming.consumer import StreamConsumer
from antiphon.features.values import FeatureVector

NOON = datetime(2013, 4, 10, 12, tzinfo=UTC)


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


class World:
    """Everything a features test needs, on real SQLite, DuckDB, Parquet and LMDB, or on the stores that are given."""

    def __init__(
        self,
        folder: Path,
        *specs: FeatureViewSpec,
        scope: Scope | None = None,
        codec: Codec | None = None,
        lake: Any = None,
        online: Any = None,
        overlay: Any = None,
        log: Callable[[Database], Any] = EventLog,
    ) -> None:
        self.folder = folder
        self.scope = scope or Scope()
        self.clock = ManualClock(NOON)
        self.database = Database.open(f"sqlite:///{folder}/catalog.db", clock=self.clock, codec=codec)
        self.database.migrate()
        self.log = log(self.database)
        self.lake = lake or LocalLake(folder / "lake", codec)
        self.catalog = FeatureCatalog(self.database, self.scope, self.lake, notice=0)
        self.snapshots, self.publications = self.catalog.snapshots, self.catalog.publications
        self.definitions, self.verdicts = self.catalog.definitions, self.catalog.verdicts
        self.staged = self.catalog.staged
        self.functions: dict[str, Any] = {}
        self.specs = {spec.name: spec for spec in specs}
        for spec in specs:
            self.definitions.put(self.scope, spec)
        self.online = online or LmdbStore(folder / "online", b"k" * 32, codec)
        self.overlay = overlay or self.new_overlay(codec)
        self.consumer = StreamConsumer(
            self.scope, log=self.log, overlay=self.overlay, online=self.online, views=list(specs)
        )
        self.publisher = Publisher(
            self.catalog,
            online=self.online,
            overlay=self.overlay,
            consumer=self.consumer,
            also_named=self.verdicts.files,
        )
        self.refresher = Refresher(
            self.catalog,
            publisher=self.publisher,
            log=self.log,
            functions=lambda view: self.functions,
            keyed_hash=self.online.entity_hash,
        )
        self.reader = self.new_reader()

    def new_overlay(self, codec: Codec | None = None) -> LmdbOverlay:
        published = self.publications.current
        return LmdbOverlay(
            self.folder / "online", self.scope, codec, published=lambda: published(self.scope) is not None
        )

    def new_reader(self) -> FeatureReader:
        return FeatureReader(
            self.scope,
            publications=self.publications,
            online=self.online,
            clock=self.clock,
            overlay=self.overlay,
            lease=0.0,
        )

    def materialize(self, view: str, as_of: datetime) -> SnapshotManifest:
        return materialize(
            Materialization(scope=self.scope, spec=self.specs[view], as_of=as_of),
            lake=self.lake,
            log=self.log,
            clock=self.clock,
        )

    def publish(self, as_of: datetime, *views: str) -> Publication:
        made = [(self.materialize(view, as_of), self.specs[view]) for view in (views or self.specs)]
        publication = self.publisher.publish(made, reason="test", principal="tester")
        assert publication is not None
        return publication

    def append(self, stream: str, *events: Event) -> int:
        return self.log.append(self.scope, stream, events)

    def consume(self, limit: int = 1_000) -> None:
        while self.consumer.poll(limit):
            pass

    def read(self, as_of: datetime, view: str | None = None, **keys: Any) -> FeatureVector:
        names = [view] if view else list(self.specs)
        return self.reader.read({name: self.specs[name].definition_version for name in names}, keys, as_of)

    def close(self) -> None:
        self.overlay.close()
        self.online.close()
        self.database.close()


def event(identity: str, at: datetime, available: datetime | None = None, **payload: Any) -> Event:
    return Event(identity, at, available or at, payload)
