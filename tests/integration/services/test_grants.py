"""Views granted to another tenant in one installation: read online and in batch, decided by both tenants, revoked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.services.granting_tenants import (
    ADMIN,
    MODEL,
    OWN,
    OWNER,
    RITA,
    RIVAL,
    TEA,
    Installation,
    copied,
    published,
    put_in_force,
)
from tests.integration.services.watched_project import told
from typer.testing import CliRunner

from antiphon.cli.main import assemble
from antiphon.core.errors import ForbiddenError, InvalidDefinitionsError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.governance.encryption import keyring
from antiphon.governance.identity.grants import Grants
from antiphon.governance.policy.document import PolicyDocument, default_document
from antiphon.services.governance.granted import visitor
from antiphon.services.governance.tenants import ProjectTenants
from antiphon.services.project.store import Store
from antiphon.serving.request import AnswerRequest

LOOKUP = "/v1/features/lookup"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The owner's folder with its features published."""
    with published(tmp_path_factory.mktemp("written")) as made:
        return made.owner.folder


@pytest.fixture
def shops(written: Path, tmp_path: Path) -> Iterator[Installation]:
    with copied(written, tmp_path) as made:
        yield made


def asked(*features: str, purpose: str = "tests") -> dict[str, Any]:
    return {"features": list(features), "entities": [TEA], "purpose": purpose}


async def test_nothing_of_another_tenant_is_there_without_a_grant(shops: Installation) -> None:
    async with shops.http() as rival:
        real, unreal = [
            [await rival.post(LOOKUP, json=asked(f"{name}{rest}")) for rest in ("", ".orders")]
            for name in ("default/today", "default/nothing")
        ]
        for one, other in zip(real, unreal, strict=True):
            assert (one.status_code, other.status_code) == (404, 404)
            assert one.text.replace("today", "nothing") == other.text
        assert (await rival.post(LOOKUP, json=asked("nobody/today"))).status_code == 404
    with pytest.raises(InvalidDefinitionsError, match="no such view that is granted"):
        shops.apply()


async def test_a_granted_view_is_looked_up_as_its_owner_does(shops: Installation) -> None:
    shops.grant()
    shops.grant("crowd")
    shops.owner.visit("v1", "tea")
    shops.owner.consume()
    async with shops.owner.http("service") as owner:
        own = told(await owner.post(LOOKUP, json=asked("today", "crowd.visits")))
    for root in (shops.owner.folder, shops.folder):
        async with shops.http(root) as rival:
            found = told(await rival.post(LOOKUP, json=asked("default/today", "default/crowd.visits")))
            assert found["features"] == [f"default/{name}" for name in own["features"]]
            assert found["entities"][0]["values"] == own["entities"][0]["values"]
            assert found["entities"][0]["values"][-1] == 2, "what was streamed is in it"
            assert found["snapshots"]["default/today"]["snapshot"] == own["snapshots"]["today"]["snapshot"]
            assert found["publication"] == 0, "the reader has published nothing of its own"
            # A grant opens exactly what it says.
            for name in ("default/till", "default/wait", "default/today/orders", "default/today.secret"):
                assert (await rival.post(LOOKUP, json=asked(name))).status_code == 404, name
    get = ("features", "get", "default/today.orders", "-e", "shop=tea")
    listed = await asyncio.to_thread(shops.terminal, *get, root=shops.folder)
    assert "default/today.orders" in listed.out, listed.err


async def test_an_application_of_the_grantee_answers_from_it_online_and_in_batch(shops: Installation) -> None:
    shops.grant()
    shops.apply()
    current = shops.owner.store.publications.current(OWNER)
    assert current is not None
    async with shops.answering() as wired, shops.http(shops.folder) as rival:
        body = {"model": "board", "entity": TEA, "messages": [{"role": "user", "content": "How many?"}]}
        told(await rival.post("/v1/chat/completions", json=body))
        requests = [
            AnswerRequest(RIVAL, RITA, "board", TEA, question="How many?", path=path)  # type: ignore[arg-type]
            for path in ("online", "batch")
        ]
        for request in requests:
            receipt = (await wired.answerer.answer(request)).receipt
            (orders,) = (one for one in receipt.features if one.name == "default/today.orders")
            assert (orders.value, orders.printed, orders.contract) == (20, "20", "fresh")
            assert orders.snapshot in current.snapshots.values()
            assert (receipt.scope, receipt.publication) == (RIVAL, 0)
        explained = wired.gateway_services().predictions.explain(RIVAL, receipt.prediction, True)
        assert "default/today.orders" in str(explained)
        shops.revoke()
        wired.store.granted.forget()
        for request in requests:
            with pytest.raises(ForbiddenError, match="not-granted"):
                await wired.answerer.answer(request)
    assert len(wired.features._published) == 2, "one reader for each tenant"


async def test_a_release_of_the_grantee_keeps_the_owners_definition_version_refreshed(shops: Installation) -> None:
    shops.grant()
    shops.apply()
    before = dict(shops.owner.platform.views())
    file = shops.owner.folder / "definitions.py"
    file.write_text(
        file.read_text().replace("paid = last(col.paid)\n    takings", "most = last(col.paid)\n    takings")
    )
    (key,) = (key for key, view in before.items() if view.name == "today")
    assert any("the tenant rival" in said for said in shops.owner_plan().consequences)
    with shops.owner.store.database.transaction() as connection:
        tenants = shops.owner.store.keys.principals.tenants
        tenants.change("rival", "deleted", reason="-", by="ann", within=connection)
    assert not any("the tenant rival" in said for said in shops.owner_plan().consequences)
    assert key in before


@pytest.mark.parametrize("process", ["same", "another"])
async def test_a_revoked_grant_is_refused_within_a_second(shops: Installation, process: str) -> None:
    shops.grant()
    async with shops.http() as rival:
        told(await rival.post(LOOKUP, json=asked("default/today")))
        if process == "same":
            shops.revoke()
        else:
            done = shops.terminal("grants", "revoke", "view/today", "--to", "rival", "--reason", "over")
            assert done.code == 0, done.err
        since = time.monotonic()
        async with asyncio.timeout(5):
            while (refused := await rival.post(LOOKUP, json=asked("default/today"))).status_code == 200:
                await asyncio.sleep(0.01)
        assert time.monotonic() - since < 1.0
        # Policy may learn of it a moment before the reader does, for which there is no such view any more.
        assert refused.status_code in (403, 404), refused.text
        async with asyncio.timeout(5):
            while refused.status_code != 404:
                assert refused.status_code == 403, refused.text
                refused = await rival.post(LOOKUP, json=asked("default/today"))
        assert time.monotonic() - since < 1.0


async def test_a_grant_ends_and_is_not_served_while_its_owner_is_suspended(shops: Installation) -> None:
    store = Store.open(shops.folder)
    now = store.database.clock.now()
    shops.grant(until=now + timedelta(hours=1))
    assert store.granted.view(RIVAL, "default/today") is not None
    (grant,) = Grants(store.database).received(RIVAL)
    assert grant.holds(now)
    assert not grant.holds(now + timedelta(hours=1))
    assert store.granted.view(Scope("rival", "prod"), "default/today") is None
    assert store.granted.view(Scope("third", "dev"), "default/today") is None
    store.keys.create("default", "ann", "admin")
    with store.database.transaction() as connection:
        store.keys.principals.tenants.change("default", "suspended", reason="-", by="ann", within=connection)
    store.granted.forget()
    assert store.granted.view(RIVAL, "default/today") is None
    store.close()


async def test_the_owners_policies_see_the_grant_and_the_grantees_cannot_widen_it(shops: Installation) -> None:
    shops.grant()
    shops.grant("till", clearance="public")
    store = shops.owner.store
    everything = PolicyDocument('@id("all") permit (principal, action, resource);')
    put_in_force(store, RIVAL, everything)
    async with shops.http() as rival:
        told(await rival.post(LOOKUP, json=asked("default/today")))
        assert (await rival.post(LOOKUP, json=asked("default/crowd"))).status_code == 404
        # Of a clearance that the owner gave, for the purposes that the owner declared, whatever the reader's own says.
        told(await rival.post(LOOKUP, json=asked("default/till.open")))
        for features, purpose in ((("default/till.paid",), "tests"), (("default/till.open",), "other")):
            refused = await rival.post(LOOKUP, json=asked(*features, purpose=purpose))
            assert (refused.status_code, "not-granted" in refused.text) == (403, True)
    named = '@id("not-rita") forbid (principal, action, resource) when { principal.name == "rival/rita" };'
    put_in_force(store, OWNER, PolicyDocument(default_document().cedar + named))
    async with shops.http() as rival:
        assert (await rival.post(LOOKUP, json=asked("default/today"))).status_code == 403
    not_tea = '@id("tea") forbid (principal, action == Action::"answer", resource) when { resource.hasTag("shop") && '
    not_tea += 'resource.getTag("shop") == "tea" };'
    put_in_force(store, OWNER, PolicyDocument(default_document().cedar + not_tea))
    async with shops.http() as rival:
        cake = {**asked("default/today"), "entities": [{"shop": "cake"}]}
        told(await rival.post(LOOKUP, json=cake))
        both = {**asked("default/today"), "entities": [{"shop": "cake"}, TEA]}
        assert (await rival.post(LOOKUP, json=both)).status_code == 403, "each entity is decided"
    only_by_name = '@id("mine") permit (principal, action, resource) when { principal.tenant == resource.tenant };'
    put_in_force(store, OWNER, PolicyDocument(only_by_name))
    async with shops.http() as rival:
        assert (await rival.post(LOOKUP, json=asked("default/today"))).status_code == 403, "a grant alone is no permit"


async def test_what_is_granted_is_read_and_nothing_else(shops: Installation) -> None:
    shops.grant()
    async with shops.http() as rival:
        for method, path, body in (
            ("POST", "/admin/features/refresh", {"views": ["default/today"]}),
            ("POST", "/admin/features/default%2Ftoday/rollback", {"reason": "-"}),
            ("POST", "/admin/features/default%2Ftoday/hold", {"reason": "-"}),
            ("GET", "/admin/features/default%2Ftoday/history", None),
            ("POST", "/admin/features/default%2Ftoday/lineage", {"feature": "orders", "entity": TEA}),
            ("POST", "/admin/grants", {"name": "default/today", "grantee": "third", "reason": "-"}),
            ("POST", "/admin/grants/revoke", {"name": "today", "grantee": "rival", "reason": "-"}),
        ):
            answered = await rival.request(method, path, **({} if body is None else {"json": body}))
            assert answered.status_code in (404, 405), (path, answered.text)
    done = shops.terminal("features", "export", "default/today", "--output", "x.parquet", root=shops.folder)
    assert done.code != 0
    decision = shops.owner.store.granted.narrow(
        shops.owner.store.decider.decide(RITA, "export", "view/mine"), RITA, "export", _reading(), {}
    )
    assert not decision.allowed


def _reading() -> Any:
    from antiphon.governance.policy.request import PolicyColumn, Resource

    return Resource("features", "default/today", columns=(PolicyColumn("default/today.*"),))


async def test_each_change_and_the_reading_are_on_record_with_both(shops: Installation) -> None:
    made = shops.terminal(
        "grants", "create", "view/today", "--to", "rival", "--reason", "shared", "--until", "2100-01-01T00:00:00Z",
        "--json",
    )  # fmt: skip
    assert made.code == 0, made.err
    assert '"clearance": "internal"' in made.out
    async with shops.http() as rival:
        for _ in range(3):
            told(await rival.post(LOOKUP, json=asked("default/today")))
        listed = told(await rival.get("/admin/grants"))
        assert [one["granted_name"] for one in listed["received"]] == ["default/today"]
        assert listed["given"] == []
    assert "view/default/today" in shops.terminal("grants", "list", root=shops.folder).out
    shops.revoke()
    entries = {
        scope: [
            (one.action, one.principal, one.subject)
            for one in shops.owner.store.trail.query(scope)
            if one.action.startswith("grant.")
        ]
        for scope in (OWNER, RIVAL)
    }
    reading = ("grant.read", "rival/rita", "view/today")
    assert entries[OWNER].count(reading) == 1, "the first of a minute"
    assert [action for action, _, _ in entries[OWNER]] == ["grant.revoke", "grant.read", "grant.create"]
    assert [action for action, _, _ in entries[RIVAL]] == ["grant.revoke", "grant.create"]
    assert {who.partition("/")[0] for _, who, _ in entries[RIVAL] if who} == {"default"}


async def test_bad_grants_are_refused_and_tenants_are_not_told(shops: Installation) -> None:
    for arguments, said in (
        (("create", "view/nothing", "--to", "rival", "--reason", "-"), "No view named 'nothing'"),
        (("create", "today", "--to", "rival", "--reason", "-"), "is neither a view nor a model"),
        (("create", "model/desk.v9", "--to", "rival", "--reason", "-"), "no model version 'desk.v9'"),
        (("create", f"model/{MODEL}", "--to", "rival", "--reason", "-"), "every tenant may ask it"),
        (("create", "view/today", "--to", "default", "--reason", "-"), "reads its own"),
        (("create", "view/today", "--to", "nobody", "--reason", "-"), "no tenant 'nobody'"),
        (("create", "view/today", "--to", "rival", "--reason", "-", "--until", "2020-01-01T00:00Z"), "has passed"),
        (("create", "view/today", "--to", "rival", "--reason", "-", "--clearance", "all"), "no clearance"),
        (("revoke", "view/today", "--to", "rival", "--reason", "-"), "is not granted"),
    ):
        done = CliRunner().invoke(assemble(), ["grants", *arguments, "--project", str(shops.owner.folder)])
        assert said in str(done.exception), arguments
    shops.apply(OWN)
    async with shops.http() as rival:
        for grantee in ("nobody", "default"):
            told(await rival.post("/admin/grants", json={"name": "mine", "grantee": grantee, "reason": "-"}), 201)
    assert shops.owner.store.audit.query(Scope("nobody", "dev")) == [], "no log is begun for a tenant that there is not"


async def test_values_are_opened_with_the_owners_data_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "N", 2**10)
    monkeypatch.setenv("ANTIPHON_PASSPHRASE", "four random words here")
    keyring.create(tmp_path / "ring.json", "four random words here")
    more = f'[encryption]\nmode = "encrypted"\nkeyring = "{tmp_path}/ring.json"\n'
    shops = Installation(tmp_path, more)
    await shops.owner.refresh()
    shops.owner.consume()
    shops.grant()
    store = shops.owner.store
    async with shops.http(shops.folder) as rival:
        found = told(await rival.post(LOOKUP, json=asked("default/today.orders")))
        assert found["entities"][0]["values"] == [20]
    online = shops.owner.platform.online
    assert store.protection.keys is not None
    keys = {record.id: record.scope for record in store.protection.keys.list()}
    assert {keys[str(online.key_of(OWNER, view, one))] for view, one in online.files(OWNER)} == {OWNER}
    assert {record.scope for record in store.protection.keys.list()} >= {OWNER, RIVAL}, "each has keys of its own"
    shops.close()


def test_the_owner_meets_a_reader_as_nobody_of_its_own(tmp_path: Path) -> None:
    from antiphon.governance.identity.grants import TenantGrant

    grant = TenantGrant(OWNER, "view", "today", "rival", "internal", "-", "ann", datetime(2026, 1, 1, tzinfo=UTC))
    met = visitor(RITA, grant)
    assert (met.id, met.clearance, met.tenant) == ("rival/rita", "internal", "rival")


def test_a_missing_owner_or_a_wrong_name_is_not_there(tmp_path: Path) -> None:
    shops = Installation(tmp_path)
    for name in ("/today", "Default/today", "default/", "default//today", "*/today"):
        assert shops.owner.store.granted.view(RIVAL, name) is None
    with pytest.raises(NotFoundError):
        ProjectTenants(shops.owner.store).erase("nobody", reason="-", by=ADMIN)
    shops.close()
