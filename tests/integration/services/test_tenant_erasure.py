"""Erasing a deleted tenant: nothing that it stored is found afterwards, and its log still proves what it proved."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import sqlalchemy as sa
from tests.catalogs import catalog_url
from tests.integration.services.watched_project import DEFINITIONS, Project

from antiphon.catalog import schema
from antiphon.catalog.engine_instances import drain_lease
from antiphon.catalog.ledger import ERASED, MeteredUsage
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.catalog.serving.precomputed_modes import PrecomputedMode, PrecomputedModes
from antiphon.core.errors import ConflictError, ForbiddenError, NotFoundError, UnauthenticatedError
from antiphon.core.ids import new_id
from antiphon.core.scope import Scope
from antiphon.governance.encryption import keyring
from antiphon.governance.identity.principal import Principal
from antiphon.services.batches import file_contents, file_store
from antiphon.services.cost.costs import ProjectCosts
from antiphon.services.governance.tenants import ProjectTenants
from antiphon.services.project.store import Store

WORD = "plantedword"
DAY = timedelta(days=1)
OWNER, RIVAL = Scope("default", "dev"), Scope("rival", "dev")
ADMIN = Principal("ann", "default", "admin", "person", "restricted")


class TwoTenants:
    """A tenant that stores something in every store, and the one that runs the installation, in the same folder."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder = folder
        text = f'[project]\nname = "shop"\n[engine]\nkind = "simulated"\n{more}'
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ANTIPHON_PROJECT__TENANT", RIVAL.tenant)
            write = Path.write_text
            patch.setattr(
                Path, "write_text",
                lambda path, said, *rest, **others: write(
                    path, text if path.name == "antiphon.toml" else said, *rest, **others
                ),
            )  # fmt: skip
            self.rival = Project(folder, DEFINITIONS)
        self.store = Store.open(folder)
        self.rival_key, _ = self.store.keys.create("rival", new_id(WORD), "admin")
        self.key, _ = self.store.keys.create("default", new_id("ann"), "admin")
        self.tenants = ProjectTenants(self.store)

    def fill(self) -> None:
        """Leave the word in every store."""
        rival, store = self.rival, self.rival.store
        rows = [f"{n},{WORD}{n},2026-01-01T10:{n:02}:00Z,{n}.5" for n in range(40)]
        rival.write(*rows)
        asyncio.run(rival.refresh())
        rival.visit(f"{WORD}-event", f"{WORD}1")
        rival.consume()
        rival.predicted(f"{WORD}1", minutes=5.0)
        store.audit.append(RIVAL, f"{WORD}-person", "key.create", f"{WORD}-key", {"reason": f"{WORD} told so"})
        store.audit.append(RIVAL, "ann", "answer", "pred_1", {"application": "desk"}, originator=f"{WORD}-user")
        store.evaluations.keep_answer(RIVAL, "eval_1", "q", {"text": WORD})
        mode = PrecomputedMode("desk", f"{WORD}-person", f"{WORD} is slow", store.database.clock.now() + DAY)
        with store.database.transaction() as connection:
            PrecomputedModes(store.database).put(RIVAL, mode, within=connection)
        leases = ProcessLeases(store.database, RIVAL.environment)
        assert leases.acquire(drain_lease("rival/one@host"), f"{WORD}-person", 60, detail=f"{WORD} hangs")
        names = {"application": WORD, "release": WORD, "principal": f"{WORD}-person", "work": WORD}
        with store.database.transaction() as connection:
            store.ledger.add_with_commit(RIVAL, [
                MeteredUsage("engine", 7_000_001, engine="main", **names),
                MeteredUsage("completion_token", 12, model=WORD, **names), MeteredUsage("worker", 5, **names),
            ])  # fmt: skip
            store.ledger.add_shared_with_commit("dev", [MeteredUsage("engine_measured", 9_000_000, engine="main")])
        with closing(file_contents(store)) as contents:
            upload = file_store(store, contents).begin(RIVAL, "ann")
            upload.write(WORD.encode())
            upload.keep("batch", f"{WORD}.jsonl")

    def delete(self) -> None:
        self.tenants.delete("rival", reason="gone", by=ADMIN, force=True)
        self.rival.close()

    def erase(self, **more: Any) -> dict[str, int]:
        return dict(self.tenants.erase("rival", reason="asked to", by=ADMIN, **more).removed)

    def found(self) -> list[str]:
        """Files below the project's own folder that hold the planted word, sources aside."""
        return [
            str(file.relative_to(self.folder))
            for file in self.folder.rglob("*")
            if file.is_file() and file.name != "orders.csv" and WORD.encode() in file.read_bytes()
        ]

    def rows(self) -> dict[str, int]:
        counts = {}
        for table in schema.metadata.sorted_tables:
            statement = sa.select(sa.func.count()).select_from(table).where(table.c.tenant == "rival")
            counts[str(table.name)] = int(self.store.database.scalar(statement) or 0)
        return {name: count for name, count in counts.items() if count}

    def close(self) -> None:
        self.store.close()


def used(two: TwoTenants) -> dict[str, int]:
    """Resource to what all charges of all tenants add up to."""
    sums: dict[str, int] = {}
    for scope in (OWNER, RIVAL):
        for one in ProjectCosts(two.store, scope).charges():
            sums[one.entry.resource] = sums.get(one.entry.resource, 0) + one.entry.quantity
    return sums


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = TwoTenants(tmp_path_factory.mktemp("written"))
    made.fill()
    made.rival.close()
    made.close()
    return made.folder


@pytest.fixture
def two(written: Path, tmp_path: Path) -> Iterator[TwoTenants]:
    shutil.copytree(written, tmp_path / "shop")
    made = TwoTenants(tmp_path / "shop")
    yield made
    made.close()


def test_nothing_of_it_is_found_and_its_log_still_holds(two: TwoTenants) -> None:
    assert len(two.found()) >= 3, "it was planted in the catalog, the lake and in a file"
    stored = [two.store.paths.online / "rival", two.store.paths.lake / "rival", two.store.paths.files / "rival"]
    (two.folder / "tenants" / "rival").mkdir(parents=True)
    (two.folder / "tenants" / "rival" / "answers.jsonl").write_text(WORD)
    assert all(any(file.is_file() for file in folder.rglob("*")) for folder in stored)
    before = two.store.trail.checkpointing.sign(RIVAL)
    measured = used(two)
    assert measured["engine"] == 9_000_000, "the whole time of the engine, by what it was measured"
    two.delete()
    planned = two.erase(dry_run=True)
    assert two.found(), "a dry run removes nothing"
    assert planned["lake files"] > 0
    assert planned["rows of receipts"] == 1
    removed = two.erase()
    assert {name: count for name, count in removed.items() if name.startswith("rows of ")} == {
        name: count for name, count in planned.items() if name.startswith("rows of ")
    }
    assert removed["lake files"] == planned["lake files"]
    assert removed["audit texts"] > 0
    assert two.found() == []
    assert not any(folder.exists() for folder in stored)
    assert set(two.rows()) == {"audit_entries", "audit_heads", "audit_nodes", "tenants"} & set(two.rows())
    assert [one.state for one in two.tenants.list(by=ADMIN) if one.id == "rival"] == ["erased"]
    assert removed["usage, its names"] == planned["usage, its names"] > 0
    assert used(two) == measured, "what was used stays"
    assert before is not None
    checked = two.store.trail.verify(RIVAL, kept=[before])
    assert checked.sound, checked.problems
    assert checked.erased == removed["audit texts"]
    assert two.erase() == {}, "nothing is left"


def test_the_other_tenant_keeps_everything(two: TwoTenants) -> None:
    database = two.store.database

    def others() -> list[Any]:
        return [
            row
            for table in schema.metadata.sorted_tables
            if not table.name.startswith(("audit_", "leases"))
            for row in database.rows(sa.select(table).where(table.c.tenant.not_in(("rival", ERASED))))
        ]

    before = others()
    two.delete()
    two.erase()
    assert others() == before
    assert two.store.keys.authenticate(two.key).tenant == "default"


def test_one_that_was_killed_anywhere_goes_on(two: TwoTenants) -> None:
    """Killed after each step in turn, as often as there are steps."""
    two.delete()

    class KilledError(BaseException):
        pass

    for step in range(200):
        told = 0

        def tell(what: str, done: int, until: int = step) -> None:
            nonlocal told
            told += 1
            if told > until:
                raise KilledError

        try:
            two.erase(tell=tell)
        except KilledError:
            states = [one.state for one in two.tenants.list(by=ADMIN) if one.id == "rival"]
            assert states == ["deleted"], "it is not said to be erased before it is"
            continue
        break
    assert step > 10
    assert two.found() == []
    assert two.store.trail.verify(RIVAL).sound


def test_only_a_deleted_tenant_is_erased_and_none_whose_run_goes_on(two: TwoTenants) -> None:
    for tenant, error in (("rival", ConflictError), ("default", ConflictError), ("nobody", NotFoundError)):
        with pytest.raises(error):
            two.tenants.erase(tenant, reason="-", by=ADMIN)
    with pytest.raises(ForbiddenError, match="administered by the tenant that runs"):
        two.tenants.erase("rival", reason="-", by=Principal("rita", "rival", "admin"))
    two.delete()
    now = two.store.database.clock.now()
    run = two.store.runs.submit(RIVAL, "refresh", {})
    held = {"status": "running", "lease_until": now.replace(year=now.year + 1)}
    with two.store.database.transaction() as connection:
        connection.execute(sa.update(schema.runs).where(schema.runs.c.id == run).values(held))
    with pytest.raises(ConflictError, match="1 runs of 'rival' have not ended"):
        two.erase()
    with two.store.database.transaction() as connection:
        connection.execute(sa.update(schema.runs).where(schema.runs.c.id == run).values(lease_until=now))
    assert two.erase()["rows of runs"] >= 1, "one whose worker is gone keeps nothing up"


def test_who_comes_afterwards_is_told_clearly(two: TwoTenants) -> None:
    two.store.keys.authenticate(two.rival_key)
    two.delete()
    two.store.keys.forget()
    with pytest.raises(ForbiddenError, match="'rival' is deleted"):
        two.store.keys.authenticate(two.rival_key)
    two.erase()
    with pytest.raises(UnauthenticatedError):
        two.store.keys.authenticate(two.rival_key)
    with pytest.raises(ConflictError, match="which is erased"):
        two.tenants.create("rival", by=ADMIN)


async def test_one_that_is_erased_while_it_is_served_crashes_nothing(two: TwoTenants) -> None:
    """A gateway and what its worker does go on, and say what is so."""
    async with two.rival.http("service") as stranger:
        stranger.headers["authorization"] = f"Bearer {two.rival_key}"
        body = {"features": ["today"], "entities": [{"shop": f"{WORD}1"}]}
        assert (await stranger.post("/v1/features/lookup", json=body)).status_code == 200
        two.tenants.delete("rival", reason="gone", by=ADMIN, force=True)
        two.erase()
        refused = 200
        async with asyncio.timeout(5):
            while refused == 200:
                refused = (await stranger.post("/v1/features/lookup", json=body)).status_code
                await asyncio.sleep(0)
        assert refused in (401, 403, 404), "its key is believed for a second, its views are gone at once"
        async with asyncio.timeout(5):
            while (await stranger.get("/admin/features")).status_code != 401:
                await asyncio.sleep(0)
        assert (await stranger.get("/healthz")).status_code == 200
    two.rival.platform.consume(1_000)
    two.rival.platform.prune()
    assert two.rival.platform.views() == {}
    with pytest.raises(ConflictError, match="which is erased"):
        two.tenants.create("rival", by=ADMIN)
    two.rival.close()


def test_rows_on_a_server_go_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop").mkdir()
    url = urlsplit(catalog_url(tmp_path, "postgresql"))
    monkeypatch.setenv("SHOP_DATABASE", unquote(url.password or ""))
    place = f"{url.scheme}://{url.username}@{url.hostname}:{url.port}{url.path}"
    more = f'[catalog]\nurl = "{place}"\npassword_variable = "SHOP_DATABASE"\n'
    two = TwoTenants(tmp_path / "shop", more)
    two.fill()
    two.delete()
    measured = used(two)
    planned = two.erase(dry_run=True)
    removed = two.erase()
    assert used(two) == measured
    assert WORD not in repr(two.store.database.rows(schema.ledger_entries.select()))
    assert {name: count for name, count in removed.items() if name.startswith("rows of ")} == {
        name: count for name, count in planned.items() if name.startswith("rows of ")
    }
    assert set(two.rows()) <= {"audit_entries", "audit_heads", "audit_nodes", "tenants"}
    assert two.store.trail.verify(RIVAL).sound
    two.close()


def test_keys_go_before_what_they_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "N", 2**10)
    monkeypatch.setenv("ANTIPHON_PASSPHRASE", "four random words here")
    keyring.create(tmp_path / "ring.json", "four random words here")
    (tmp_path / "shop").mkdir()
    two = TwoTenants(tmp_path / "shop", f'[encryption]\nmode = "encrypted"\nkeyring = "{tmp_path}/ring.json"\n')
    two.fill()
    order: list[str] = []
    two.delete()
    two.erase(tell=lambda what, done: order.append(what))
    assert order.index("rows of data_keys") < order.index("online files") < order.index("lake files")
    assert order.index("audit texts") < order.index("rows of data_keys"), "what must be opened to be erased"
    assert "data_keys" not in two.rows()
    assert two.found() == []
    assert two.store.trail.verify(RIVAL).sound
    two.close()
