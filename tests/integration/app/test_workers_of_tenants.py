"""Workers of two tenants on one catalog and environment, on one host and of one name, as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep

import pytest
from tests.catalogs import KINDS, catalog_url, drop, postgres

from antiphon.catalog.database import Database
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.scope import Scope
from antiphon.durable.claims import WORKERS
from antiphon.governance.identity.tenants import TenantState
from antiphon.services.apply.apply import apply
from antiphon.services.project.store import Store, open_store

TENANTS = ("default", "rival")
DEFINITIONS = """
from antiphon import Entity, Source, count, feature_view

shop = Entity("shop", keys=["shop"])
orders = Source.table("orders", path="orders.csv", event_time="ordered", event_id="id")


@feature_view(entity=shop, source=orders, refresh="5s")
class NAME:
    orders = count(window=None)
"""


class Workers:
    """A project of each tenant, with a worker process of its own."""

    def __init__(self, folder: Path, catalog: str) -> None:
        self.folders = {tenant: folder / tenant for tenant in TENANTS}
        self._folder = folder
        for tenant, root in self.folders.items():
            root.mkdir()
            (root / "antiphon.toml").write_text(
                f'[project]\nname = "{tenant}"\ntenant = "{tenant}"\ndirectory = "{folder / "shared"}"\n'
                f'[engine]\nkind = "simulated"\n{catalog}'
            )
            (root / "definitions.py").write_text(DEFINITIONS.replace("NAME", f"{tenant.title()}Orders"))
            (root / "orders.csv").write_text("id,shop,ordered\n1,tea,2026-01-01T10:00:00Z\n")
            with open_store(root) as store:
                apply(store, principal="me")

    def start(self, tenant: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{tenant}.log").open("ab") as log:
            command = [sys.executable, "-m", "antiphon.app.worker", "--project", str(self.folders[tenant])]
            return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)

    def log(self, tenant: str) -> str:
        return (self._folder / f"{tenant}.log").read_text()


@pytest.fixture(params=KINDS)
def workers(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    catalog = ""
    if request.param == "postgresql":
        monkeypatch.setenv("TENANTS_DATABASE", postgres().password)
        place = postgres().url.rpartition("/")[0] + "/" + catalog_url(tmp_path, request.param).rpartition("/")[2]
        catalog = f'[catalog]\nurl = "{place}"\npassword_variable = "TENANTS_DATABASE"\n'
    yield Workers(tmp_path, catalog)
    if request.param == "postgresql":
        drop(Database.open(catalog_url(tmp_path)))


def until(condition: Callable[[], bool], seconds: float = 240.0) -> None:
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end
        sleep(0.1)


def publication(store: Store, tenant: str) -> int:
    found = store.publications.current(Scope(tenant))
    return 0 if found is None else found.number


def set_state(store: Store, tenant: str, state: TenantState) -> None:
    with store.database.transaction() as connection:
        store.keys.principals.tenants.change(tenant, state, reason="r", by="me", within=connection)


def test_each_refreshes_its_features_and_a_suspended_tenants_worker_pauses(workers: Workers) -> None:
    with ExitStack() as ending, open_store(workers.folders["default"]) as store:
        store.keys.create("rival", "rita", "admin")
        running = {tenant: workers.start(tenant) for tenant in TENANTS}
        for process in running.values():
            ending.callback(end, process)
        until(lambda: all(publication(store, tenant) for tenant in TENANTS))
        leases = ProcessLeases(store.database, "dev")
        for tenant, process in running.items():
            held = {
                int(lease.holder.split("/")[-2])
                for prefix in (f"{WORKERS}{tenant}/worker@", f"duties/{tenant}")
                for lease in leases.living(prefix)
            }
            assert held == {process.pid}
        assert leases.find("duties") is not None, "one of both has what is the installation's"

        set_state(store, "rival", "suspended")
        until(lambda: workers.log("rival").count("The tenant rival is suspended") == 2)
        orders = []
        for _ in range(2):
            seen = publication(store, "default")
            until(lambda seen=seen: publication(store, "default") > seen)  # type: ignore[misc]
            orders.append(len(store.runs.list(Scope("rival"), 1_000)))
        assert orders[0] == orders[1]
        assert "The tenant default" not in workers.log("default")

        set_state(store, "rival", "active")
        before = publication(store, "rival")
        until(lambda: publication(store, "rival") > before)
        ended = [run for tenant in TENANTS for run in store.runs.list(Scope(tenant), 1_000)]
        assert {run.status for run in ended} <= {"succeeded", "running", "queued"}


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
