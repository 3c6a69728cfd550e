"""Opens a project's lake and online store: embedded ones in its folder, or the servers its settings name."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from antiphon.core import settings
from antiphon.core.codec import Codec
from antiphon.core.scope import Scope
from antiphon.core.settings_sections import FeaturesSettings
from antiphon.definitions.objects import ObjectStore
from antiphon.features.lake.bucket import S3Place
from antiphon.features.lake.content import Lake
from antiphon.features.lake.local import LocalLake
from antiphon.features.lake.s3 import S3Lake
from antiphon.features.offline.compute import ComputeLimits
from antiphon.features.online.lmdb.overlay import FILE_NAME as OVERLAY
from antiphon.features.online.lmdb.overlay import LmdbOverlay
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.redis.overlay import RedisOverlay
from antiphon.features.online.redis.server import RedisServer
from antiphon.features.online.redis.store import RedisStore
from antiphon.features.ports import StreamedOverlay
from antiphon.services.project.credentials import online_tls, secret
from antiphon.services.project.store import Store


class FeatureStores:
    """The stores of one project, each opened when it is first asked for. Close it when done."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @cached_property
    def lake(self) -> Lake:
        paths, codec = self._store.paths, self._store.database.codec
        return LocalLake(paths.lake, codec) if self.bucket is None else self._s3(codec)

    @property
    def shared_lake(self) -> Lake | None:
        """The lake where other hosts reach it; ``None`` when it is in the project's folder."""
        return None if self.bucket is None else self.lake

    @cached_property
    def bucket(self) -> S3Place | None:
        """The bucket of the lake; ``None`` when it is in the project's folder."""
        features = self._store.settings.features.lake
        return None if features is None else S3Place.of(features)

    def _s3(self, codec: Codec | None = None) -> S3Lake:
        features = self._store.settings.features
        assert self.bucket is not None
        return S3Lake(
            self.bucket,
            scratch=self._store.paths.lake / ".scratch",
            access_key=secret(features.lake_access_key_variable, "lake_access_key_variable"),
            secret_key=secret(features.lake_secret_key_variable, "lake_secret_key_variable"),
            codec=codec,
        )

    @property
    def limits(self) -> ComputeLimits:
        """Limits of a computation beside the refreshes: the lake's scratch folder, unless the project is encrypted."""
        sealing = self._store.database.codec.sealing
        return ComputeLimits(scratch=None if sealing else str(self._store.paths.lake / ".scratch"))

    @cached_property
    def redis(self) -> RedisServer | None:
        """The server of the online store; ``None`` when that is embedded."""
        features = self._store.settings.features
        if features.online is None:
            return None
        return RedisServer(
            features.online,
            secret(features.online_password_variable, "online_password_variable"),
            tls=online_tls(features, self._store.paths.root),
        )

    @cached_property
    def online(self) -> LmdbStore | RedisStore:
        key, codec = self._store.secret("online"), self._store.database.codec
        if self.redis is None:
            return LmdbStore(self._store.paths.online, key, codec)
        return RedisStore(self.redis, key, codec)

    @property
    def far(self) -> bool:
        """True if a lookup waits for another machine."""
        return self.redis is not None

    def open_overlay(self, scope: Scope) -> StreamedOverlay:
        """The overlay of a scope; its owner closes it."""
        # Before anything lies in the online store: a secret that is not there beside it counts as lost.
        self._store.secret("online")
        if self.redis is None:
            return LmdbOverlay(
                self._store.paths.online,
                scope,
                self._store.database.codec,
                published=lambda: self._store.publications.current(scope) is not None,
            )
        return RedisOverlay(self.redis, scope, self._store.database.codec)

    def has_overlay(self, scope: Scope) -> bool:
        """Tells whether there can be streamed events of a scope."""
        if self.redis is not None:
            return True
        return (self._store.paths.online / scope.tenant / scope.environment / OVERLAY).exists()

    def scopes(self) -> list[Scope]:
        """Every scope that has something in these stores."""
        return sorted({*self.lake.scopes(), *self.online.scopes()})

    def describe(self) -> str:
        """Describes the stores that answer, in words.

        Raises:
            UnavailableError, SetupError: something does not.
        """
        online = "LMDB" if self.redis is None else self.redis.describe()
        nats = self._store.nats
        log = "in the catalog" if nats is None else nats.describe()
        if self.bucket is None:
            return f"online {online}, lake in the project's folder, event log {log}"
        lake = self._s3()
        try:
            return f"online {online}, lake {lake.describe()}, event log {log}"
        finally:
            lake.close()

    def close(self) -> None:
        """Close what was opened."""
        for part in ("lake", "online", "redis"):
            if (opened := self.__dict__.get(part)) is not None:
                opened.close()


def object_store(features: FeaturesSettings) -> ObjectStore:
    """The store of sources that name objects and no store: the lake's."""
    place = None if features.lake is None else S3Place.of(features.lake)
    return ObjectStore(
        None if place is None else place.endpoint,
        None if place is None else place.region,
        features.lake_access_key_variable,
        features.lake_secret_key_variable,
    )


def described(root: Path) -> str:
    """For ``antiphon doctor``: the stores of the project in ``root``, asked whether they answer. Nothing is made."""
    store = Store(*settings.load(root))
    stores = FeatureStores(store)
    try:
        return stores.describe()
    finally:
        stores.close()
        if store.nats is not None:
            store.nats.close()
