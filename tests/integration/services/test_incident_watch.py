"""Incidents of a project's own records: what could not be written while it lasted is told afterwards."""

from __future__ import annotations

import resource
import sqlite3
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.gated_project import MODEL_NAME, SETTINGS

from antiphon.app.wiring import ProcessServices
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.catalog.releases.releases import Activation
from antiphon.catalog.write_delays import WriteDelay
from antiphon.core import disk, settings
from antiphon.core.errors import StorageFullError
from antiphon.features.publication.healing import Damage
from antiphon.operations.processes import ProcessIdentity, ProcessRecord, descriptors, write_record
from antiphon.operations.settings_changes import note_settings
from antiphon.services.features.health import snapshot_health
from antiphon.services.incidents.records import OperationRecords
from antiphon.services.incidents.stand_in import duties_of, stand_in_watch
from antiphon.services.incidents.watch import IncidentWatch
from antiphon.services.project.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "antiphon.toml").write_text(SETTINGS.format(environment="dev", model=MODEL_NAME, own=""))
    (tmp_path / "definitions.py").write_text("")
    return Store.open(tmp_path)


def watch_of(store: Store) -> IncidentWatch:
    features = ProcessServices(store, "test").features
    return IncidentWatch(store, features, snapshot_health(features))


def records_of(store: Store) -> OperationRecords:
    features = ProcessServices(store, "test").features
    return OperationRecords(store, features, snapshot_health(features))


def full(*_: Any, **__: Any) -> None:
    raise StorageFullError("The disk is full.", where="catalog", next_step="Free disk space.")


def test_a_disk_that_was_full_is_an_incident_once_it_can_be_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watch_of(store)
    assert watch.assess() == 0
    with monkeypatch.context() as broken:
        broken.setattr(disk, "shortage", lambda folder: "The disk is full: 0.0 MB are free.")
        broken.setattr(store.incidents, "put", full)
        for _ in range(2):
            with pytest.raises(StorageFullError):
                watch.assess()
    assert store.incidents.list(store.scope) == []
    assert watch.assess() == 1
    (told,) = store.incidents.list(store.scope)
    assert (told.class_, [root.component for root in told.roots]) == ("infrastructure", ["host"])
    assert watch.assess() == 1
    assert store.incidents.get(store.scope, told.id).state == "mitigated"
    assert watch.assess() == 0
    store.close()


def test_a_step_back_does_not_take_the_place_of_the_change_that_it_undoes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = store.database.clock.now()
    moves = [
        Activation("desk", 1, "rel_sound", "activate", "ann", "first", now - timedelta(hours=2)),
        Activation("desk", 2, "rel_bad", "activate", "ann", "urgent", now - timedelta(seconds=40)),
        Activation("desk", 3, "rel_sound", "rollback", "watch", "it fails", now - timedelta(seconds=5)),
    ]
    monkeypatch.setattr(store.releases, "applications", lambda scope: ["desk"])
    monkeypatch.setattr(store.releases, "history", lambda scope, application: moves)
    records = records_of(store)
    found, changes = records.read(now, store.applied.project(store.scope), "engine/engine")
    assert [one.record for one in found if one.signal == "released"] == ["release/rel_bad"]
    assert changes == {"release/desk": 1.0}
    store.close()


def test_a_catalog_that_took_no_writes_is_an_incident_and_a_moment_of_it_is_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, now = watch_of(store), store.database.clock.now()
    delays = store.database.write_delays
    monkeypatch.setattr(delays, "_last", WriteDelay(now - timedelta(seconds=3), now))
    assert watch.assess() == 0
    monkeypatch.setattr(delays, "_last", WriteDelay(now - timedelta(seconds=30), now + timedelta(seconds=1)))
    assert watch.assess() == 1
    (told,) = store.incidents.list(store.scope)
    assert (told.class_, [root.component for root in told.roots]) == ("infrastructure", ["catalog"])
    assert "took no writes" in told.title
    assert watch.assess() == 1
    assert (store.incidents.get(store.scope, told.id).state, watch.assess()) == ("mitigated", 0)
    store.close()


def test_a_write_lock_that_another_process_holds_is_a_delay(store: Store) -> None:
    other = sqlite3.connect(store.paths.catalog, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    freed = threading.Timer(1.3, lambda: other.execute("ROLLBACK"))
    freed.start()
    with store.database.transaction():
        pass
    freed.join()
    delay = store.database.write_delays.last
    assert delay is not None
    assert timedelta(seconds=1) < delay.lasted < timedelta(seconds=10)
    assert not delay.refused
    store.close()


def test_an_online_store_whose_files_are_gone_is_away_and_for_a_while_after_it_was_healed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, now = ProcessServices(store, "test").features, store.database.clock.now()
    health, project = snapshot_health(features), store.applied.project(store.scope)
    lost = [Damage("delays@v1", "snap_1", now - timedelta(seconds=3))]
    monkeypatch.setattr(health, "damaged", lambda: list(lost))
    records = OperationRecords(store, features, health)

    def said(at: datetime) -> list[tuple[str, str]]:
        found, _ = records.read(at, project, "engine/engine")
        return [(one.component, one.sentence) for one in found if one.signal == "store_away"]

    assert said(now) == [("online-store", "The online store has lost what is published of delays.")]
    lost.clear()
    health.healed["delays"] = now
    ((_, sentence),) = said(now + timedelta(seconds=5))
    assert "it was built again" in sentence
    assert said(now + timedelta(seconds=40)) == []
    store.close()


def test_a_process_without_descriptors_is_a_symptom(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    records = records_of(store)
    project, now = store.applied.project(store.scope), store.database.clock.now()
    own = ProcessIdentity.own()
    store.paths.run.mkdir(parents=True, exist_ok=True)
    write_record(store.paths.run, ProcessRecord("gateway", own.pid, own.started_ticks, now, boot=own.boot))
    assert not [one for one in records.read(now, project, "engine/engine")[0] if one.component == "gateway"]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = descriptors(own.pid)
    assert opened is not None
    assert 3 < opened[0] < opened[1] == before[0]
    monkeypatch.setattr("antiphon.services.incidents.records.descriptors", lambda pid: (1_020, 1_024))
    (full_one,) = [one for one in records.read(now, project, "engine/engine")[0] if one.component == "gateway"]
    assert (full_one.signal, "1020 of 1024" in full_one.sentence) == ("no_descriptors", True)
    store.close()


def test_a_gateway_looks_for_incidents_once_no_worker_has_for_a_while(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = ProcessServices(store, "test").features
    clock, leases = store.database.clock, ProcessLeases(store.database, store.scope.environment)
    look = stand_in_watch(store, features, snapshot_health(features)).look
    monkeypatch.setattr(disk, "shortage", lambda folder: "The disk is full: 0.0 MB are free.")
    leases.acquire(duties_of(store.scope.tenant), "a worker elsewhere", 60.0)
    at = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: at)
    for seconds in (0, 60):
        monkeypatch.setattr(clock, "monotonic", lambda seconds=seconds: at + seconds)
        assert look() == 0
    leases.release(duties_of(store.scope.tenant), "a worker elsewhere")
    told = []
    for seconds in (61, 70, 80):
        monkeypatch.setattr(clock, "monotonic", lambda seconds=seconds: at + seconds)
        told.append(look())
    assert told == [0, 0, 1]
    leases.acquire(duties_of(store.scope.tenant), "another worker", 60.0)
    assert look() == 0
    store.close()


def test_what_a_run_says_of_the_online_store_is_its_evidence(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = store.database.clock.now()
    run = store.runs.get(store.scope, store.runs.submit(store.scope, "refresh", {}))
    failed = msgspec.structs.replace(
        run, status="failed", ended_at=now,
        error="online store: The online file of snp_1 cannot be written: Operation not permitted.",
    )  # fmt: skip
    monkeypatch.setattr(store.runs, "list", lambda scope, limit, **more: [failed] if more["status"] == "failed" else [])
    found, _ = records_of(store).read(now, store.applied.project(store.scope), "engine/engine")
    assert {(one.signal, one.component) for one in found} >= {
        ("store_away", "online-store"), ("run_failed", "workflow/refresh"),
    }  # fmt: skip
    store.close()


def test_settings_with_which_a_gateway_was_started_are_a_change(store: Store) -> None:
    now = store.database.clock.now()
    store.paths.run.mkdir(exist_ok=True)
    for minutes, most in ((60, 48), (1, 1)):
        other = settings.parse(f"[gateway]\nmax_in_flight = {most}\n".encode(), Path("antiphon.toml"), {})
        note_settings(store.paths.run, "gateway-2", other, now - timedelta(minutes=minutes))
    found, changes = records_of(store).read(now, store.applied.project(store.scope), "engine/engine")
    (change,) = [one for one in found if one.signal == "reconfigured"]
    assert (change.component, change.since, changes) == ("gateway", now - timedelta(minutes=1), {"gateway": 1.0})
    assert "[gateway] max_in_flight 1 (before: 48)" in change.sentence
    store.close()
