"""Policies over HTTP and on their page: proposed, looked at, approved by somebody else, explained."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.harness import fakes
from tests.harness.gateway_client import sign_in
from tests.integration.gateway.conftest import Running, serve

from antiphon.governance.policy.document import default_document
from antiphon.governance.policy.live import LivePolicies
from antiphon.services.governance.identity import ProjectIdentity
from antiphon.services.governance.policy_versions import PolicyService
from antiphon.services.project.store import Store

SETTINGS = (
    '[project]\nenvironment = "prod"\n[engine]\nkind = "simulated"\nmodels = ["base"]\n[encryption]\n'
    'mode = "plaintext"\n'
)
RULE = '\n@id("closed") forbid (principal in Role::"service", action == Action::"answer", resource);'
CASE = {
    "name": "the desk is closed", "principal": {"role": "service"}, "action": "answer",
    "resource": {"kind": "application", "name": "desk"}, "expect": "deny", "by": ["closed"],
}  # fmt: skip


@dataclass
class World:
    running: Running
    keys: dict[str, str]

    def client(self, who: str) -> httpx2.AsyncClient:
        headers = {"authorization": f"Bearer {self.keys[who]}"}
        return httpx2.AsyncClient(base_url=self.running.url, headers=headers, timeout=10)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "antiphon.toml").write_text(SETTINGS)
    store = Store.open(tmp_path)
    live = LivePolicies(store.policy_sets, store.database.clock, store.scope)
    store.__dict__["decider"] = live
    services = fakes.gateway_services(
        store.database,
        environment="prod",
        authorize=live.require,
        policies=PolicyService(store),
        identity=ProjectIdentity(store),
    )
    issued = store.keys
    roles = {"ann": "admin", "bob": "admin", "eve": "engineer", "vic": "viewer", "app": "service"}
    keys = {name: issued.create("default", name, role)[0] for name, role in roles.items()}
    async with serve(services) as running:
        yield World(running, keys)
    store.close()


async def propose(world: World, who: str = "ann", **changes: Any) -> httpx2.Response:
    body = {"cedar": default_document().cedar + RULE, "reason": "night", "cases": [CASE], **changes}
    async with world.client(who) as client:
        return await client.post("/admin/policies", json=body)


async def test_policies_are_proposed_by_one_and_approved_by_another(world: World) -> None:
    proposed = await propose(world, "eve")
    assert (proposed.status_code, proposed.json()["state"], proposed.json()["number"]) == (201, "proposed", 1)
    async with world.client("bob") as bob, world.client("eve") as eve, world.client("app") as app:
        assert (await eve.post("/admin/policies/1/approve", json={"reason": "mine"})).status_code == 403
        assert (await app.get("/admin/policies")).status_code == 403
        changed = (await bob.get("/admin/policies/1/diff")).json()
        assert [one["origin"] for one in changed["changed"]].count("case") == len(changed["changed"]) > 0
        assert "the desk is closed: allowed (service-asks) → denied (closed)" in [
            one["sentence"] for one in changed["changed"]
        ]
        approved = await bob.post("/admin/policies/1/approve", json={"reason": "agreed"})
        assert (approved.status_code, approved.json()["state"], approved.json()["decided_by"]) == (
            200, "in_force", "bob"
        )  # fmt: skip
        listed = (await bob.get("/admin/policies")).json()["versions"]
        assert [(one["number"], one["state"]) for one in listed] == [(1, "in_force"), (0, "superseded")]
        assert RULE.strip() in (await bob.get("/admin/policies/1")).json()["cedar"]
        told = (await bob.post("/admin/policies/explain", json={
            "principal": {"role": "service", "id": "app", "tenant": "other"}, "action": "answer",
            "resource": "application/desk",
        })).json()  # fmt: skip
        assert (told["allowed"], told["otherwise"]) == (
            False, "Without closed it would have been allowed by service-asks."
        )  # fmt: skip


async def test_an_author_does_not_approve_their_own(world: World) -> None:
    await propose(world, "ann")
    async with world.client("ann") as ann:
        answer = await ann.post("/admin/policies/1/approve", json={"reason": "mine"})
        assert answer.status_code == 403
        assert "approval-by-another" in answer.json()["error"]["message"]
        assert (await ann.post("/admin/policies/1/reject", json={"reason": "withdrawn"})).json()["state"] == "rejected"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cedar": "permit ("}, "unexpected"),
        ({"cedar": '@id("a") permit (principal in Role::"viewer", action, resource);', "cases": []}, "administrator"),
        ({"cedar": default_document().cedar}, "expected deny, was allow"),
        ({"cases": [{**CASE, "expect": "perhaps"}]}, "expect"),
        ({"reason": ""}, "reason"),
    ],
)
async def test_what_may_not_act_is_refused_with_the_reason(world: World, changes: dict[str, Any], said: str) -> None:
    answer = await propose(world, **changes)
    assert (answer.status_code, said in answer.text) == (400, True), answer.text


async def test_malformed_versions_are_refused(world: World) -> None:
    async with world.client("ann") as ann:
        assert (await ann.get("/admin/policies/x1")).status_code == 400
        assert (await ann.get("/admin/policies/99")).status_code == 404
        body = {"principal": {"role": "admin"}, "action": "fly", "resource": "a/b"}
        assert "not an action" in (await ann.post("/admin/policies/explain", json=body)).text


async def test_the_page_shows_what_a_proposal_changes_and_approves_it(world: World) -> None:
    await propose(world, "ann", reason="<script>alert(1)</script>")
    async with httpx2.AsyncClient(base_url=world.running.url, timeout=10) as browser:
        await sign_in(browser, world.keys["vic"])
        assert (await browser.get("/policy")).status_code == 403
    async with httpx2.AsyncClient(base_url=world.running.url, timeout=10) as browser:
        await sign_in(browser, world.keys["bob"])
        page = (await browser.get("/policy")).text
        assert "the default policies" in page
        assert "Changes in version 1" in page
        assert "denied (closed)" in page
        assert "<script>alert" not in page
        hidden = dict(re.findall(r'name="(\w+)" value="([^"]*)"', page))
        form = {"csrf": hidden["csrf"], "number": "1", "act": "approve", "reason": ""}
        assert "There is no reason." in (await browser.post("/policy", data=form)).text
        done = await browser.post("/policy", data={**form, "reason": "agreed"})
        assert (done.status_code, done.headers["location"]) == (303, "/policy")
        assert "by bob: agreed" in (await browser.get("/policy")).text
