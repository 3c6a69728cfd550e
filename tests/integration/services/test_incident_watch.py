"""Incidents of a project's own records: what could not be written while it lasted is told afterwards."""

from __future__ import annotations

import errno
import resource
import socket
import sqlite3
import tempfile
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from tests.harness.gated_project import MODEL_NAME, SETTINGS

from antiphon.app.wiring import ProcessServices
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.catalog.releases.releases import Activation
from antiphon.catalog.write_delays import WriteDelay
from antiphon.core import disk, settings
from antiphon.core.errors import SetupError, StorageFullError, UnavailableError
from antiphon.core.process_metrics import announced, served_metrics
from antiphon.features.publication.healing import Damage
from antiphon.operations.processes import ProcessIdentity, ProcessRecord, descriptors, write_record
from antiphon.operations.settings_changes import note_settings
from antiphon.services.features.health import snapshot_health
from antiphon.services.incidents.gateway_probe import GatewayProbe
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


def facts(store: Store) -> set[tuple[str, str]]:
    found, _ = records_of(store).read(store.database.clock.now(), store.applied.project(store.scope), "engine/engine")
    return {(one.signal, one.component) for one in found}


def test_a_folder_that_takes_no_files_is_a_fact_that_is_told_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ("disk_read_only", "host") not in facts(store)
    watch = watch_of(store)

    def away(*_: Any, **__: Any) -> None:
        raise UnavailableError("The catalog cannot be used.", where="catalog", next_step="Try again.")

    def read_only(**_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as broken:
        broken.setattr(tempfile, "TemporaryFile", read_only)
        assert ("disk_read_only", "host") in facts(store)
        broken.setattr(store.measurements, "read", away)
        with pytest.raises(UnavailableError):
            watch.assess()
    assert watch.assess() == 1
    (told,) = store.incidents.list(store.scope)
    assert [root.component for root in told.roots] == ["host"]
    assert "takes no new file" in told.title
    store.close()


def test_settings_with_which_a_gateway_cannot_start_are_told_with_what_is_wrong(store: Store) -> None:
    store.paths.run.mkdir(exist_ok=True)
    write_record(store.paths.run, ProcessRecord("gateway", 1 << 22, 5, store.database.clock.now()))
    assert ("settings_broken", "gateway") not in facts(store)
    settings_file = store.paths.root / "antiphon.toml"
    settings_file.write_text(settings_file.read_text() + "\n[gateway.")
    assert {("settings_broken", "gateway"), ("away", "gateway")} <= facts(store)
    store.close()


def test_keys_that_were_revoked_are_a_change_of_access(store: Store) -> None:
    for action in ("key.create", "key.revoke", "release.activate"):
        store.audit.append(store.scope, "ann", action, "key_1")
    (change,) = records_of(store).access_changes(store.database.clock.now())
    assert (change.signal, change.component) == ("governed", "access")
    assert change.sentence.startswith("key.revoke of key_1")
    store.close()


def test_a_table_that_is_gone_is_counted_and_a_row_that_is_there_already_is_not(store: Store) -> None:
    def refused() -> float:
        return float(store.database.refused._value.get())

    with store.database.transaction() as connection:
        connection.exec_driver_sql("CREATE TABLE once (id TEXT PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO once VALUES ('a')")
    with pytest.raises(sa.exc.IntegrityError), store.database.transaction() as connection:
        connection.exec_driver_sql("INSERT INTO once VALUES ('a')")
    assert refused() == 0.0
    with pytest.raises(SetupError), store.database.transaction() as connection:
        connection.exec_driver_sql("INSERT INTO gone VALUES ('a')")
    assert refused() == 1.0
    assert b"antiphon_catalog_errors_total 1.0" in generate_latest(store.answer_metrics.registry)
    store.close()


def test_a_gateway_that_takes_connections_and_hangs_is_told_and_one_that_answers_is_not(tmp_path: Path) -> None:
    probe = GatewayProbe(tmp_path)
    assert probe.look() is None
    with served_metrics(CollectorRegistry(), tmp_path, "gateway"):
        assert [probe.look() for _ in range(3)] == [None, None, None]
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        port = hanging.getsockname()[1]
        with announced(tmp_path, "gateway", f"127.0.0.1:{port}"):
            first, second = probe.look(), probe.look()
    assert first is None
    assert second is not None
    assert "answered 2 of 6" in second
