"""Health of a project's online snapshots: told by `/readyz` and `doctor`, and restored by the worker."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from antiphon.catalog.doorbell import ring_name
from antiphon.core.clock import parse_duration
from antiphon.core.errors import CorruptionError
from antiphon.features.online.lmdb.overlay import LmdbOverlay
from antiphon.features.ports import StreamedOverlay
from antiphon.features.publication.healing import Damage, Healer, SnapshotHealth
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store, open_store

_REPLAYING = "The overlay of streamed events was damaged or lost, and is being read again from the log."


def snapshot_health(platform: FeaturePlatform, believed: float = 0.0) -> SnapshotHealth:
    """Of the project's own scope."""
    return SnapshotHealth(platform.catalog, online=platform.online, believed=believed)


def healer(store: Store, platform: FeaturePlatform) -> Healer:
    """For the worker; it hears of publications."""
    health = snapshot_health(platform, parse_duration(store.settings.worker.poll).total_seconds())
    store.database.doorbell.listen(health.changed, [ring_name("features", store.scope.environment)])

    def rebuild(one: Damage, key: str) -> None:
        if one.key in platform.views():
            platform.refresh(store.scope, views=[one.key], reason="healing", key=key, whole=True)
        else:  # A definition version of before that no release in use pins: publications keep it until then.
            platform.publisher.withdraw(one.key, one.snapshot, reason="It cannot be read.", principal="worker")

    return Healer(
        platform.catalog,
        health,
        publisher=platform.publisher,
        lock=store.paths.run / "healing.lock",
        rebuild=rebuild,
        reads=not platform.far,
        overlay=platform.overlay if isinstance(platform.overlay, LmdbOverlay) else None,
    )


def notices(health: SnapshotHealth, overlay: StreamedOverlay) -> dict[str, str]:
    """For ``/readyz``: what serves only in part, and since when; raises ``UnavailableError``."""
    found: dict[str, str] = {}
    if damaged := health.damaged():
        # Read without a key: names of views and snapshots are for doctor and the logs.
        found["features"] = f"degraded: {len(damaged)} online snapshots. The worker builds them again from the lake."
    if overlay.read(()).replaying:
        found["streams"] = f"degraded: {_REPLAYING}"
    return found


def require_whole(root: Path) -> str:
    """For ``antiphon doctor``: how many online snapshots are whole; every byte is read. Raises ``CorruptionError``."""
    with open_store(root) as store, closing(FeaturePlatform(store)) as platform:
        current = store.publications.current(store.scope)
        if current is None:
            return "nothing published yet"
        if damaged := snapshot_health(platform).unreadable():
            said = (f"{one.view} ({one.snapshot}, seen {one.since:%Y-%m-%d %H:%M:%SZ})" for one in damaged)
            raise CorruptionError(
                f"{len(damaged)} online snapshot(s) cannot be read: {', '.join(said)}.",
                where=str(store.paths.online) if not platform.far else store.settings.features.online,
                next_step="`antiphon up` builds them again from the lake within seconds; while it runs, see its "
                "worker.log. If the lake is damaged too, it refreshes the view.",
            )
        if platform.overlay.read(()).replaying:
            raise CorruptionError(_REPLAYING, where="overlay", next_step="`antiphon up` does it; see its worker.log.")
        return f"{len(current.snapshots)} online snapshots are whole"
