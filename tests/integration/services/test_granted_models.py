"""Models granted to another tenant in one installation: asked online and in batch, decided by both tenants, revoked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from tests.harness.gateway_client import sign_in
from tests.integration.services.granting_tenants import (
    ADMIN,
    MODEL,
    OWN,
    OWNER,
    RITA,
    RIVAL,
    Installation,
    copied,
    published,
    put_in_force,
)
from tests.integration.services.test_served_models import model_version
from tests.integration.services.watched_project import told

from antiphon.app.wiring import ProcessServices
from antiphon.catalog.releases.releases import Bundle, ModelPin
from antiphon.core.errors import ForbiddenError, InvalidDefinitionsError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.engine.api.messages import ChatTurn
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.governance.policy.document import PolicyDocument, default_document
from antiphon.services.governance.grants import ProjectGrants
from antiphon.services.governance.tenants import ProjectTenants
from antiphon.services.learning.served_models import ServedModels
from antiphon.services.project.store import Store
from antiphon.serving.request import AnswerRequest

GRANTED = "default/desk.v1"
CHAT, TEXTS = "/v1/chat/completions", "/v1/completions"
ASKED = (
    OWN
    + f"""
Application("helper", ungated="a test asks at once",
    features=[], entities=[shop], model="{GRANTED}", purpose="tests", prompt=Prompt(template="Help."))
"""
)
TRIAGE = ASKED.replace(
    "prompt=",
    'output={"type": "object", "properties": {"queue": {"type": "string", "enum": ["billing", "shipping"]}}, '
    '"required": ["queue"], "additionalProperties": False}, prompt=',
)


def register(store: Store, application: str = "desk", *, scope: Scope | None = None, weights: str = "ab") -> str:
    """Register a version of a live application's model as a training does, with a draft release that pins it."""
    scope = scope or store.scope
    live = store.releases.live(scope, application)
    assert live is not None
    number = len(store.models.list(scope, application)) + 1
    version = model_version(f"{application}.v{number}", application, number)
    files = msgspec.structs.replace(version.weights, sha256=weights * 32)
    version = store.models.add(
        msgspec.structs.replace(version, scope=scope, weights=files, identity=f"{scope} {version.id}")
    )
    spec = msgspec.structs.replace(live.bundle.application, model=version.id)
    pin = ModelPin(version.id, version.weights.sha256, version.id, (spec.purpose,))
    store.releases.add(Bundle(spec, pin, live.bundle.policy_digest), scope, "me", "trained")
    return version.id


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The owner's folder with features published and a model registered."""
    with published(tmp_path_factory.mktemp("written")) as made:
        assert register(made.owner.store) == "desk.v1"
        return made.owner.folder


@pytest.fixture
def shops(written: Path, tmp_path: Path) -> Iterator[Installation]:
    with copied(written, tmp_path) as made:
        yield made


@asynccontextmanager
async def asking(shops: Installation) -> AsyncIterator[tuple[ProcessServices, httpx2.AsyncClient]]:
    """The rival's services and its client, at an engine that serves what the catalog says."""
    async with shops.answering() as wired, shops.http(shops.folder) as rival:
        await ServedModels.of(shops.owner.store, wired.engine).reconcile()
        yield wired, rival


def chat(model: str = GRANTED, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 6, **more}


async def names(rival: httpx2.AsyncClient) -> list[str]:
    return [one["id"] for one in told(await rival.get("/v1/models"))["data"]]


async def test_a_model_of_another_tenant_is_not_there_without_a_grant(shops: Installation) -> None:
    async with asking(shops) as (wired, rival):
        assert {model.name for model in (await wired.engine.describe()).models} == {MODEL, GRANTED}
        assert GRANTED not in await names(rival)
        for path, body in ((CHAT, chat), (TEXTS, lambda model: {"model": model, "prompt": "Hello"})):
            real, unreal = [await rival.post(path, json=body(name)) for name in (GRANTED, "default/desk.v9")]
            assert (real.status_code, unreal.status_code) == (404, 404), real.text
            assert _told(real, "desk.v1") == _told(unreal, "desk.v9")
        assert (await rival.get(f"/v1/models/{GRANTED}")).status_code == 404
        status = told(await rival.get("/admin/status"))
        assert [model["name"] for model in status["engine"]["models"]] == [MODEL], "names of models are tenants' names"
    with pytest.raises(InvalidInputError, match="granted to this tenant"):
        shops.apply(ASKED)


def _told(answer: httpx2.Response, name: str) -> str:
    return answer.text.replace(name, "…").replace(answer.headers["x-request-id"], "…")


async def test_a_granted_model_is_asked_by_its_name_and_the_use_is_the_grantees(shops: Installation) -> None:
    shops.grant("desk.v1", "model")
    async with asking(shops) as (wired, rival):
        assert (await names(rival))[-1] == GRANTED
        answered = told(await rival.post(CHAT, json=chat(seed=1)))
        plain = told(await rival.post(CHAT, json=chat(MODEL, seed=1)))
        assert answered["choices"][0]["message"]["content"] != plain["choices"][0]["message"]["content"]
        assert told(await rival.post(TEXTS, json={"model": GRANTED, "prompt": "Hello"}))["choices"]
        async with rival.stream("POST", CHAT, json=chat(stream=True)) as streamed:
            assert streamed.status_code == 200
            assert "[DONE]" in "".join([piece async for piece in streamed.aiter_text()])
        receipt = wired.store.receipts.get(RIVAL, answered["antiphon"]["prediction"])
        (attempt,) = receipt.attempts
        version = shops.owner.store.models.get(OWNER, "desk.v1")
        assert (receipt.scope, receipt.application, receipt.purpose) == (RIVAL, GRANTED, "tests")
        assert attempt.model == GRANTED == version.served_name
        assert attempt.fingerprint == _fingerprint(version.weights.sha256)
        assert shops.owner.store.receipts.list(OWNER) == [], "the owner is not shown what was asked"
        replayed = told(await rival.post(f"/admin/predictions/{receipt.prediction}/replay"))
        assert replayed["identical"]
        # The engine meets it as the grantee's: its share, its cached prefixes.
        sent: list[str] = []
        generate = wired.gated.generate
        wired.gated.generate = lambda request: sent.append(request.tenant) or generate(request)  # type: ignore[func-returns-value,method-assign]
        await wired.answerer.answer(AnswerRequest(RIVAL, RITA, GRANTED, {}, messages=(ChatTurn("user", "Hello"),)))
        assert sent == ["rival"]
        # The owner asks its own through its application alone.
        async with shops.http(key=shops.owner.store.keys.create("default", "ann", "admin")[0]) as owner:
            assert (await owner.post(CHAT, json=chat())).status_code == 404


def _fingerprint(weights: str) -> str:
    return SimulatedRuntime("any", words=2, weights=weights).description.fingerprint


@pytest.mark.parametrize("definitions", [ASKED, TRIAGE], ids=["text", "triage"])
async def test_an_application_of_the_grantee_answers_with_it_online_and_in_batch_until_it_is_revoked(
    shops: Installation, definitions: str
) -> None:
    shops.grant("desk.v1", "model")
    shops.apply(definitions)
    async with asking(shops) as (wired, rival):
        live = wired.live.live(RIVAL, "helper")
        assert live is not None
        assert live.bundle.model == ModelPin(GRANTED, "ab" * 32, None, ("tests",))
        requests = [
            AnswerRequest(RIVAL, RITA, "helper", {"shop": "tea"}, question="How?", path=path)  # type: ignore[arg-type]
            for path in ("online", "batch")
        ]
        receipts = [(await wired.answerer.answer(request)).receipt for request in requests]
        assert {attempt.model for receipt in receipts for attempt in receipt.attempts} == {GRANTED}
        assert receipts[0].classes.keys() == ({"queue"} if definitions is TRIAGE else set())
        shops.revoke("desk.v1", "model")
        wired.store.granted.forget()
        for request in requests:
            with pytest.raises(ForbiddenError, match="not-granted"):
                await wired.answerer.answer(request)
        told(await rival.get(f"/admin/predictions/{receipts[0].prediction}/explain"))
        refused = await rival.post(f"/admin/predictions/{receipts[0].prediction}/replay")
        assert (refused.status_code, "not granted any more" in refused.text) == (403, True)


async def test_a_granted_model_that_is_not_loaded_yet_is_told_so(shops: Installation) -> None:
    shops.grant("desk.v1", "model")
    shops.apply(ASKED)
    async with shops.answering(), shops.http(shops.folder) as rival:
        for body in (chat(), chat("helper", entity={"shop": "tea"}) | {"max_tokens": None}):
            answer = await rival.post(CHAT, json=body)
            assert (answer.status_code, "the worker has it loaded" in answer.text) == (503, True), answer.text


@pytest.mark.parametrize("process", ["same", "another"])
async def test_a_revoked_model_is_refused_within_a_second(shops: Installation, process: str) -> None:
    shops.grant("desk.v1", "model")
    async with asking(shops) as (_, rival):
        told(await rival.post(CHAT, json=chat()))
        if process == "same":
            shops.revoke("desk.v1", "model")
        else:
            done = shops.terminal("grants", "revoke", "model/desk.v1", "--to", "rival", "--reason", "over")
            assert done.code == 0, done.err
        since = time.monotonic()
        async with asyncio.timeout(5):
            while (refused := await rival.post(CHAT, json=chat())).status_code == 200:
                await asyncio.sleep(0.01)
        assert time.monotonic() - since < 1.0
        assert refused.status_code == 404
        assert GRANTED not in await names(rival)


async def test_lines_of_a_batch_after_the_revocation_fail_and_those_before_stay(shops: Installation) -> None:
    """The batch runs on: each line is decided when it is answered."""
    from antiphon.app.wiring import batch_executor
    from antiphon.services.batches import batch_context

    shops.grant("desk.v1", "model")
    async with asking(shops) as (wired, rival):
        store = wired.store
        lines = [
            {"custom_id": f"r{number}", "method": "POST", "url": CHAT, "body": chat(user=f"u{number}")}
            for number in range(6)
        ]
        content = b"\n".join(map(msgspec.json.encode, lines))
        uploaded = told(await rival.post("/v1/files", files={"file": ("r.jsonl", content)}, data={"purpose": "batch"}))
        order = {"input_file_id": uploaded["id"], "endpoint": CHAT, "completion_window": "24h"}
        batch = told(await rival.post("/v1/batches", json=order))["id"]
        answered: list[str] = []

        async def answer(request: Any) -> Any:
            if len(answered) == 2:
                shops.revoke("desk.v1", "model")
                store.granted.forget()
            answered.append(request.request_id)
            return await wired.answer_line(request)

        context, stop = batch_context(store, "worker"), asyncio.Event()
        one_at_a_time = msgspec.structs.replace(context, queue=type(context.queue)(1, time.time, store.tenants.share))
        executor = batch_executor(store, wired.files, answer, "worker", one_at_a_time)
        running = asyncio.create_task(executor.run_until(stop))
        try:
            async with asyncio.timeout(30):
                while (ended := told(await rival.get(f"/v1/batches/{batch}")))["status"] != "completed":
                    await asyncio.sleep(0.02)
        finally:
            stop.set()
            await running
        assert ended["request_counts"] == {"total": 6, "completed": 2, "failed": 4}
        errors = (await rival.get(f"/v1/files/{ended['error_file_id']}/content")).text
        assert errors.count('"not_found"') == 4, errors


async def test_both_tenants_policies_decide_and_the_owners_hold_for_what_it_was_trained_on(
    shops: Installation,
) -> None:
    shops.grant("desk.v1", "model", clearance="public")
    store = shops.owner.store
    everything = PolicyDocument('@id("all") permit (principal, action, resource);')
    put_in_force(store, RIVAL, everything)
    async with asking(shops) as (wired, rival):

        async def becomes(status: int, by: str = "") -> None:
            """As every process sees it within a second."""
            async with asyncio.timeout(2):
                while True:
                    answer = await rival.post(CHAT, json=chat())
                    if answer.status_code == status and by in answer.text:
                        return
                    await asyncio.sleep(0.02)

        # It was trained on features that are internal, and may repeat them.
        await becomes(403, "not-granted")
        shops.revoke("desk.v1", "model")
        shops.grant("desk.v1", "model")
        await becomes(200)
        # An application for another purpose than the model's is refused by the owner, whatever its own policies say.
        noted = _apply(shops, ASKED.replace('purpose="tests"', 'purpose="selling"'))
        assert "was trained for 'tests'" in noted
        with pytest.raises(ForbiddenError, match="not-granted"):
            await wired.answerer.answer(AnswerRequest(RIVAL, RITA, "helper", {"shop": "tea"}, question="How?"))
        # A column that the asker may not see is masked in a view, and cannot be taken out of weights.
        unseen = '@id("unseen") @mask("null") forbid (principal, action == Action::"see", resource) '
        unseen += 'when { resource.grantedTo != "" };'
        put_in_force(store, OWNER, PolicyDocument(default_document().cedar + unseen))
        await becomes(403, "not-granted")
        put_in_force(store, OWNER, default_document())
        await becomes(200)
        no_model = '@id("no-desk") forbid (principal, action, resource) when { resource.kind == "model" };'
        put_in_force(store, OWNER, PolicyDocument(default_document().cedar + no_model))
        await becomes(403, "not-granted")
        own = '@id("none-of-theirs") forbid (principal, action, resource) when { resource.name == "default/desk.v1" };'
        put_in_force(store, RIVAL, PolicyDocument(everything.cedar + own))
        await becomes(403, "none-of-theirs")
    entries = [one for one in store.trail.query(OWNER) if one.action == "grant.read"]
    assert {(one.principal, one.subject, one.outcome) for one in entries} == {
        ("rival/rita", "model/desk.v1", "done"),
        ("rival/rita", "model/desk.v1", "denied"),
    }


def _apply(shops: Installation, definitions: str) -> str:
    """Apply the rival's definitions; its notes."""
    from antiphon.services.apply.apply import apply

    (shops.folder / "definitions.py").write_text(definitions)
    store = Store.open(shops.folder)
    try:
        return " ".join(apply(store, principal="rita").notes)
    finally:
        store.close()


async def test_the_features_that_a_model_was_trained_on_count_as_their_owner_tags_them_now(shops: Installation) -> None:
    shops.grant("desk.v1", "model")
    granted = shops.owner.store.granted.model(RIVAL, GRANTED)
    assert granted is not None
    assert {column.name for column in granted.resource.columns} == {"today.*", "crowd.*", "wait.*"}
    file = shops.owner.folder / "definitions.py"
    tagged = '@feature_view(entity=shop, source=orders, refresh="15m", sensitivity={"paid": "restricted"})'
    file.write_text(file.read_text().replace('@feature_view(entity=shop, source=orders, refresh="15m")', tagged))
    from antiphon.services.apply.apply import apply

    apply(shops.owner.store, principal="me")
    await shops.owner.refresh()
    shops.owner.store.granted.forget()
    now = shops.owner.store.granted.model(RIVAL, GRANTED)
    assert now is not None
    assert ("today.paid", "restricted") in {(column.name, column.sensitivity) for column in now.resource.columns}


async def test_a_granted_model_is_asked_and_nothing_else(shops: Installation) -> None:
    shops.grant("desk.v1", "model")
    async with shops.http() as rival:
        for method, path, body in (
            ("GET", "/admin/models/default%2Fdesk.v1", None),
            ("GET", "/admin/models/desk.v1", None),
            ("GET", "/admin/models/desk.v1/card", None),
            ("GET", f"/admin/models/compare?a={GRANTED}&b={GRANTED}", None),
            ("POST", "/admin/train", {"application": GRANTED}),
            ("POST", "/admin/train", {"application": "desk"}),
            ("POST", "/admin/rollouts", {"release": GRANTED}),
            ("POST", "/admin/grants", {"kind": "model", "name": GRANTED, "grantee": "third", "reason": "-"}),
            ("POST", "/admin/grants", {"kind": "model", "name": "desk.v1", "grantee": "third", "reason": "-"}),
            ("POST", "/admin/grants/revoke", {"kind": "model", "name": "desk.v1", "grantee": "rival", "reason": "-"}),
            ("GET", "/admin/datasets/ds_1", None),
            ("POST", "/tokenize", {"model": GRANTED, "prompt": "x"}),
        ):
            answered = await rival.request(method, path, **({} if body is None else {"json": body}))
            assert answered.status_code in (404, 405, 503), (path, answered.text)
        assert told(await rival.get("/admin/models"))["versions"] == []
    for arguments in (("models", "card", GRANTED), ("models", "alias", "desk.v1", "champion", "--reason", "-")):
        done = await asyncio.to_thread(shops.terminal, *arguments, root=shops.folder)
        assert done.code == NotFoundError.exit_code, done
    tuned = OWN + (
        'from antiphon import FineTune, Outcome\nApplication("helper", features=[Mine], purpose="tests",\n'
        f'    model=FineTune(base="{GRANTED}"), outcome=Outcome("x", positive="a"), prompt=Prompt(template="Help."))\n'
    )
    with pytest.raises(InvalidDefinitionsError, match="its weights are its owner's"):
        shops.apply(tuned)


async def test_a_model_that_is_not_granted_does_not_stand_in_for_another(shops: Installation) -> None:
    """Neither an application's own fallback nor a name that a release kept from before reaches it."""
    shops.apply(ASKED.replace(f'model="{GRANTED}"', f'model="{MODEL}", fallback=["main/{GRANTED}"]'))
    request = AnswerRequest(RIVAL, RITA, "helper", {"shop": "tea"}, question="How?")
    async with asking(shops) as (wired, _):
        with pytest.raises(ForbiddenError, match="not-granted"):
            await wired.answerer.answer(request)
        shops.grant("desk.v1", "model")
        wired.store.granted.forget()
        assert (await wired.answerer.answer(request)).receipt.attempts[0].model == MODEL


async def test_two_tenants_versions_of_one_name_answer_with_their_own_weights(shops: Installation) -> None:
    """Before engines named versions with their tenant, one tenant's release was answered by the other's weights."""
    shops.apply(ASKED.replace(f'model="{GRANTED}"', f'model="{MODEL}"').replace('"helper"', '"desk"'))
    store = shops.owner.store
    register(store, scope=RIVAL, weights="cd")
    for scope in (OWNER, RIVAL):
        (release,) = (one for one in store.releases.list(scope, "desk") if one.bundle.model.version == "desk.v1")
        store.releases.activate(scope, "desk", release.id, "me", "trained")
    for tenant in ("rival", "default"):
        weights = store.paths.models / store.models.get(Scope(tenant, "dev"), "desk.v1").weights.path
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(b"GGUF")
    async with asking(shops) as (wired, _):
        assert {one.name for one in (await wired.engine.describe()).models} == {MODEL, GRANTED, "rival/desk.v1"}
        answer = await wired.answerer.answer(AnswerRequest(RIVAL, RITA, "desk", {"shop": "tea"}, question="How?"))
        (attempt,) = answer.receipt.attempts
        assert (attempt.model, attempt.fingerprint) == ("rival/desk.v1", _fingerprint("cd" * 32))


async def test_what_is_left_of_a_grant_when_either_tenant_is_erased(shops: Installation) -> None:
    shops.grant("desk.v1", "model")
    store, tenants = shops.owner.store, ProjectTenants(shops.owner.store)
    with store.database.transaction() as connection:
        store.keys.principals.tenants.create("third", by="ann", within=connection)
    store.keys.create("default", "ann", "admin")
    shops.grants.create("model", "desk.v1", "third", reason="shared", by=ADMIN)
    tenants.delete("third", reason="-", by=ADMIN, force=True)
    tenants.erase("third", reason="-", by=ADMIN)
    assert [one.grantee for one in shops.grants.list(by=ADMIN).given] == ["rival"]
    assert store.models.get(OWNER, "desk.v1"), "what was granted stays its owner's"
    async with asking(shops) as (wired, rival):
        prediction = told(await rival.post(CHAT, json=chat()))["antiphon"]["prediction"]
        # The owner ends: what it trained is gone, what the grantee was answered is the grantee's.
        weights = store.paths.models / store.models.get(OWNER, "desk.v1").weights.path
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(b"GGUF")
        theirs = ProjectTenants(wired.store)
        theirs.delete("default", reason="-", by=RITA, force=True)
        async with asyncio.timeout(2):
            while (await rival.post(CHAT, json=chat())).status_code != 404:
                await asyncio.sleep(0.02)
        erased = await asyncio.to_thread(theirs.erase, "default", reason="-", by=RITA)
        assert (erased.removed["model files"], erased.removed["rows of grants"], weights.exists()) == (1, 1, False)
        assert told(await rival.get(f"/admin/predictions/{prediction}"))
        refused = await rival.post(f"/admin/predictions/{prediction}/replay")
        assert refused.status_code == 403


async def test_a_grant_of_a_model_is_on_record_with_both_and_listed(shops: Installation) -> None:
    made = shops.terminal("grants", "create", "model/desk.v1", "--to", "rival", "--reason", "shared")
    assert (made.code, made.out.strip()) == (0, f"rival may ask model/{GRANTED}."), made.err
    assert f"model/{GRANTED}" in shops.terminal("grants", "list", root=shops.folder).out
    async with shops.http() as rival:
        (received,) = told(await rival.get("/admin/grants"))["received"]
        assert (received["kind"], received["granted_name"]) == ("model", GRANTED)
    shops.revoke("desk.v1", "model")
    for scope in (OWNER, RIVAL):
        entries = [one for one in shops.owner.store.trail.query(scope) if one.action.startswith("grant.")]
        assert [(one.action, one.subject) for one in entries] == [
            ("grant.revoke", f"model/{GRANTED}"),
            ("grant.create", f"model/{GRANTED}"),
        ]
    with pytest.raises(NotFoundError):
        ProjectGrants(shops.owner.store).revoke("view", "desk.v1", "rival", reason="-", by=ADMIN)


async def test_the_page_of_tenants_shows_shares_use_and_grants_and_to_another_tenant_its_own(
    shops: Installation,
) -> None:
    shops.grant("desk.v1", "model")
    shops.terminal("tenants", "change", "rival", "--share", "2", "--quota", "batches=3", "--reason", "agreed")
    own = shops.owner.store.keys.create("default", "ann", "admin")[0]
    with shops.owner.store.database.transaction() as connection:
        shops.owner.store.keys.principals.tenants.create("third", by="ann", within=connection)
    for key, shown, hidden in ((own, ("third", "rival", "of 3"), ()), (shops.key, ("rival", "of 3"), ("third",))):
        async with shops.http() as browser:
            del browser.headers["authorization"]
            assert (await sign_in(browser, key)).status_code in (200, 303)
            page = await browser.get("/tenants")
            assert page.status_code == 200
            assert f"model/{GRANTED}" in page.text
            for text in shown:
                assert text in page.text
            for text in hidden:
                assert text not in page.text
