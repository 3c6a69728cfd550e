"""Incidents of a project's own records: what could not be written while it lasted is told afterwards."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.harness.gated_project import MODEL_NAME, SETTINGS

from antiphon.app.wiring import ProcessServices
from antiphon.catalog.releases.releases import Activation
from antiphon.core import disk
from antiphon.core.errors import StorageFullError
from antiphon.services.incidents.records import OperationRecords
from antiphon.services.incidents.watch import IncidentWatch
from antiphon.services.project.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "antiphon.toml").write_text(SETTINGS.format(environment="dev", model=MODEL_NAME, own=""))
    (tmp_path / "definitions.py").write_text("")
    return Store.open(tmp_path)


def full(*_: Any, **__: Any) -> None:
    raise StorageFullError("The disk is full.", where="catalog", next_step="Free disk space.")


def test_a_disk_that_was_full_is_an_incident_once_it_can_be_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = IncidentWatch(store, ProcessServices(store, "test").features)
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
    records = OperationRecords(store, ProcessServices(store, "test").features)
    found, changes = records.read(now, store.applied.project(store.scope), "engine/engine")
    assert [one.record for one in found if one.signal == "released"] == ["release/rel_bad"]
    assert changes == {"release/desk": 1.0}
    store.close()
