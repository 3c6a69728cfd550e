"""The online store in Redis or Valkey: builds snapshots from the lake, opens them, and forgets old ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import msgspec

from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.codec import Codec, unpack
from antiphon.core.errors import CorruptionError, WriteConflictError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.lake.content import Lake
from antiphon.features.online.redis.layout import DROP, TOUCH, BuildSeal, SnapshotKeys, builds_key, decode_seal
from antiphon.features.online.redis.server import RedisServer
from antiphon.features.online.redis.snapshot import RedisSnapshot
from antiphon.features.online.redis.writer import RedisWriter
from antiphon.features.online.snapshots.building import copy_records, fill
from antiphon.features.online.snapshots.encoding import FORMAT, SnapshotMeta
from antiphon.features.online.snapshots.store import SnapshotStore

_SCAN = 1_000
_ANY_TIME = 1e18
"""Seconds since 1970 that every seal is older than."""


class RedisStore(SnapshotStore[RedisSnapshot]):
    """Sealed snapshots on one server. Layout and invariants: module ``layout``."""

    def __init__(self, server: RedisServer, key: bytes, codec: Codec | None = None) -> None:
        super().__init__(key, codec)
        self._server = server

    def sealed(self, scope: Scope, view: str, snapshot: str) -> bool:
        """Tell whether the snapshot can be read online."""
        with self._server.answering():
            return bool(self._server.client.exists(SnapshotKeys(scope, view, snapshot).seal))

    def build(self, manifest: SnapshotManifest, spec: FeatureViewSpec, lake: Lake) -> bool:
        """Build a snapshot from its lake files, unless it is there; whether it was built now. Raises ``SetupError``
        when the server may evict what it is given."""
        self._server.require_keeping()
        place = SnapshotKeys(manifest.scope, manifest.view, manifest.id)
        known, other = self._known(place), b""
        if known is not None and known[1].format != FORMAT:
            other = known[0]
        elif known is not None and self._touched(place, *known):
            return False

        def begin(meta: SnapshotMeta) -> RedisWriter:
            return RedisWriter(self._server, place, meta, self._codec)

        return fill(manifest, spec, lake, begin=begin, entity_hashes=self.entity_hashes).seal(instead_of=other)

    def _known(self, place: SnapshotKeys) -> tuple[bytes, BuildSeal] | None:
        """The seal that is there, as stored and as read."""
        with self._server.answering():
            stored = self._server.client.get(place.seal)
        if stored is None:
            return None
        try:
            return stored, decode_seal(stored)
        except msgspec.DecodeError as error:
            raise CorruptionError(
                f"The seal of {place.snapshot} does not decode.",
                where=f"online store {self._server.name}",
                next_step=f"Delete the key {place.seal}, and publish the view again.",
            ) from error

    def _touched(self, place: SnapshotKeys, stored: bytes, seal: BuildSeal) -> bool:
        """Tell whether it is still there; if so it counts as written now, for it is about to be published."""
        keys = (place.seal, builds_key(place.scope))
        with self._server.answering():
            return bool(self._server.client.eval(TOUCH, 2, *keys, stored, place.field(seal.build)))

    def open(self, scope: Scope, view: str, snapshot: str) -> RedisSnapshot:
        """The snapshot, opened once per process."""
        found = self._opened.get((scope, view, snapshot))
        if found is None:
            self._server.require_keeping()
            opened = self._opened_anew(scope, view, snapshot)
            with self._lock:
                found = self._opened.setdefault((scope, view, snapshot), opened)
        return found

    def condemn(self, scope: Scope, view: str, snapshot: str) -> bool:
        """Take a damaged snapshot out of use, so that it is built again; whether it is damaged."""
        place = SnapshotKeys(scope, view, snapshot)
        with self._server.answering():
            stored = self._server.client.get(place.seal)
        if self.whole(scope, view, snapshot):
            return False
        build = None if stored is None else _build_of(stored)
        if stored is not None and build is not None:
            self._dropped(place, build, stored, _ANY_TIME)
        elif stored is not None:
            with self._server.answering():
                self._server.client.delete(place.seal)
        with self._lock:
            self._opened.pop((scope, view, snapshot), None)
        return True

    def whole(self, scope: Scope, view: str, snapshot: str) -> bool:
        """Tell whether everything that the snapshot's seal names is there as it was; all of it is read."""
        try:
            for _ in self.values(scope, view, snapshot):
                continue
        except (CorruptionError, msgspec.DecodeError):
            return False
        return True

    def collect(self, scope: Scope, keep: Iterable[tuple[str, str]], older_than: float) -> list[str]:
        """Delete snapshots not among (view, snapshot) of ``keep`` that were sealed before ``older_than`` (seconds since
        1970), and builds that nobody goes on with. A seal goes first and in one step, so that what is half deleted does
        not exist; whatever a crash leaves, the next collection finds."""
        kept = set(keep)
        dead: dict[bytes, str] = {}
        for place, build, sealed, alive in self._builds(scope):
            if sealed is not None:
                if (place.view, place.snapshot) in kept or not self._dropped(place, build, sealed, older_than):
                    continue
            elif alive:
                continue
            dead[place.build(build).encode()] = place.field(build)
        if not dead:
            return []
        self._delete(scope, dead)
        with self._server.answering():
            self._server.bulk.hdel(builds_key(scope), *dead.values())
        return sorted(field.replace(":", "/") for field in dead.values())

    def _builds(self, scope: Scope) -> Iterator[tuple[SnapshotKeys, str, bytes | None, bool]]:
        """Every build: its place, its name, its seal if it is the snapshot, and whether somebody still builds it."""
        with self._server.answering():
            fields = [field.decode() for field in self._server.bulk.hkeys(builds_key(scope))]
        for field in fields:
            view, snapshot, build = field.split(":")
            place = SnapshotKeys(scope, view, snapshot)
            with self._server.answering():
                pipeline = self._server.bulk.pipeline(transaction=True)
                pipeline.get(place.seal)
                pipeline.exists(place.building(build))
                stored, alive = pipeline.execute()
            yield place, build, stored if stored is not None and _build_of(stored) == build else None, bool(alive)

    def _dropped(self, place: SnapshotKeys, build: str, sealed: bytes, older_than: float) -> bool:
        keys = (place.seal, builds_key(place.scope), place.rows(build))
        with self._server.answering():
            return bool(self._server.bulk.eval(DROP, 3, *keys, sealed, place.field(build), repr(older_than)))

    def _delete(self, scope: Scope, dead: dict[bytes, str]) -> None:
        """Every key of these builds, in one walk over the server's keys."""
        client = self._server.bulk
        for keys in self._server.walk(partial(client.scan, match=f"{scope.tenant}:{scope.environment}:*", count=_SCAN)):
            gone = [key for key in keys if key[: key.rfind(b":") + 1] in dead]
            if gone:
                with self._server.answering():
                    client.unlink(*gone)

    def erase(self, tenant: str) -> int:
        """Delete everything of a tenant, streamed events too, in all environments; how many keys there were."""
        client, count = self._server.bulk, 0
        for keys in self._server.walk(partial(client.scan, match=f"{tenant}:*", count=_SCAN)):
            if keys:
                with self._server.answering():
                    count += client.unlink(*keys)
        return count

    def scopes(self) -> list[Scope]:
        """Every scope that has anything here, found by a walk over the server's keys."""
        found: set[Scope] = set()
        for keys in self._server.walk(partial(self._server.bulk.scan, match="*:*:@*", count=_SCAN)):
            found |= {Scope(*key.decode().split(":", 2)[:2]) for key in keys}
        return sorted(found)

    def files(self, scope: Scope) -> Iterator[tuple[str, str]]:
        """Every sealed snapshot of a scope, as (view, snapshot)."""
        yield from sorted(
            (place.view, place.snapshot) for place, _, sealed, _ in self._builds(scope) if sealed is not None
        )

    def key_of(self, scope: Scope, view: str, snapshot: str) -> str | None:
        """Id of the data key that seals a snapshot's own key; ``None`` for one in plaintext. Raises ``CorruptionError``
        when it has no seal."""
        key = self._opened_anew(scope, view, snapshot).build.seal.key
        return None if key is None else unpack(key).key_id

    def values(self, scope: Scope, view: str, snapshot: str) -> Iterator[tuple[bytes, bytes]]:
        """Every key and clear value of a snapshot, to check it; raises ``CorruptionError`` when it is missing, or a
        value does not open, or something does not match its seal."""
        yield from self._opened_anew(scope, view, snapshot).values()

    def reseal(self, scope: Scope, view: str, snapshot: str) -> None:
        """Write a snapshot anew under a new key of its own and put it in the place of the old one in one step.

        Raises:
            CorruptionError: it is missing, or does not open.
            WriteConflictError: somebody else did the same.
        """
        before = self._opened_anew(scope, view, snapshot)
        place = SnapshotKeys(scope, view, snapshot)
        writer = RedisWriter(self._server, place, before.meta, self._codec)
        copy_records(before.values(), writer)
        if not writer.seal(instead_of=before.build.stored):
            raise WriteConflictError(f"{snapshot} was sealed anew by another process.", where="online store")

    def _opened_anew(self, scope: Scope, view: str, snapshot: str) -> RedisSnapshot:
        return RedisSnapshot(self._server, SnapshotKeys(scope, view, snapshot), self._codec)

    def close(self) -> None:
        """Let go of every opened snapshot; the server's connections are its owner's."""
        with self._lock:
            self._opened.clear()


def _build_of(stored: bytes) -> str | None:
    try:
        seal: BuildSeal = decode_seal(stored)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return seal.build
