"""Incidents of a project's own records: what could not be written while it lasted is told afterwards."""

from __future__ import annotations

import resource
import sqlite3
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.harness.gated_project import MODEL_NAME, SETTINGS

from antiphon.app.wiring import ProcessServices
from antiphon.catalog.releases.releases import Activation
from antiphon.catalog.write_delays import WriteDelay
from antiphon.core import disk
from antiphon.core.errors import StorageFullError
from antiphon.features.publication.healing import Damage
from antiphon.operations.processes import ProcessIdentity, ProcessRecord, descriptors, write_record
from antiphon.services.features.health import snapshot_health
from antiphon.services.incidents.records import OperationRecords
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
