"""Webhooks: each release that goes live is told once, signed, and again until the receiver takes it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.gated_project import GatedProject
from tests.integration.services.test_gate_runs import COMPETITOR, UNGATED, obeys, replies

from antiphon.core.errors import NotFoundError, SetupError, UnavailableError
from antiphon.durable.claims import ServedRuns
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.learning.outcomes.drift import Drift
from antiphon.learning.outcomes.drift_report import DriftReport
from antiphon.releases.feed import atom
from antiphon.services.changes import release_notes
from antiphon.services.webhooks import Webhooks, signature
from antiphon.services.workflows import DRIFT, POLICIES, WEBHOOK

SECRET = "whsec_" + base64.b64encode(b"a secret of this test").decode()


class Receiver:
    """A server that takes deliveries; ``refuse`` of them are answered 500 first."""

    def __init__(self) -> None:
        self.refuse = 0
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.seen: list[str] = []
        receiver = self

        class Deliveries(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.seen.append(headers["webhook-id"])
                receiver.refuse -= 1
                if receiver.refuse >= 0:
                    self.send_response(500)
                else:
                    receiver.taken.append((headers, body))
                    self.send_response(204)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Deliveries)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
async def project(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatedProject]:
    monkeypatch.setenv("TEAM_SECRET", SECRET)
    settings = (
        f'[webhooks.team]\nurl = "{receiver.url}"\nsecret_variable = "TEAM_SECRET"\n'
        f'[webhooks.crowd]\nurl = "{receiver.url}"\nsecret_variable = "TEAM_SECRET"\nform = "public"\n'
        f'[webhooks.other]\nurl = "{receiver.url}"\nsecret_variable = "TEAM_SECRET"\napplications = ["other"]\n'
    )
    made = GatedProject(tmp_path, obeys, settings=settings)
    yield made
    await made.close()


async def deliver(project: GatedProject, webhooks: Webhooks) -> list[Run]:
    """Work until every delivery has ended."""
    registry = WorkflowRegistry()
    registry.add(WEBHOOK, webhooks.deliver, POLICIES[WEBHOOK])
    executor = Executor(
        project.store.database, registry, "worker", project.scope, poll=0.05,
        backoff=timedelta(milliseconds=1),
    )  # fmt: skip
    stop = asyncio.Event()
    working = asyncio.create_task(executor.run_until(stop))
    try:
        async with asyncio.timeout(30):
            while any(run.status not in ENDED for run in project.store.runs.list(project.scope, workflow=WEBHOOK)):
                await asyncio.sleep(0.02)
    finally:
        stop.set()
        await working
    return list(project.store.runs.list(project.scope, workflow=WEBHOOK))


async def test_a_release_is_told_once_signed_and_again_until_it_is_taken(
    project: GatedProject, receiver: Receiver
) -> None:
    webhooks = Webhooks(project.store)
    assert webhooks.order_due() == 0
    project.apply(replies(more=UNGATED))
    project.apply(replies(COMPETITOR, UNGATED))
    assert webhooks.order_due() == 4, "two notes for each of two webhooks"
    assert Webhooks(project.store).order_due() == 0, "another worker orders nothing twice"
    receiver.refuse = 3
    runs = await deliver(project, webhooks)
    assert [run.status for run in runs] == ["succeeded"] * 4
    assert (len(receiver.seen), len(receiver.taken), len(set(receiver.seen))) == (7, 4, 4)
    for headers, body in receiver.taken:
        said = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = hmac.new(b"a secret of this test", said, hashlib.sha256).digest()
        assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    told = {headers["webhook-id"]: json.loads(body) for headers, body in receiver.taken}
    assert COMPETITOR in json.dumps(told["team:replies/2"])
    assert told["crowd:replies/2"]["data"]["sentence"] == "The instructions of replies changed."
    outside = json.dumps([one for id, one in told.items() if id.startswith("crowd")])
    assert [text for text in (COMPETITOR, "rel_", "ann", "simulated", "ungated") if text in outside] == []


async def test_a_receiver_that_stays_away_leaves_a_failed_run_with_the_reason(
    project: GatedProject, receiver: Receiver
) -> None:
    project.apply(replies(more=UNGATED))
    webhooks = Webhooks(project.store)
    webhooks.order_due()
    receiver.refuse = 1_000
    runs = await deliver(project, webhooks)
    assert {run.status for run in runs} == {"failed"}
    assert all("answered 500" in (run.error or "") for run in runs)
    assert len(receiver.seen) == 24


async def test_drift_that_begins_is_told_once_and_not_to_outsiders(project: GatedProject, receiver: Receiver) -> None:
    project.apply(replies(more=UNGATED))
    store, scope = project.store, project.scope
    webhooks, now = Webhooks(store), store.database.clock.now()
    webhooks.order_due()
    await deliver(project, webhooks)
    receiver.taken.clear()

    def report(*names: str) -> None:
        texts = tuple(Drift(name, 0.8, 0.55, 200, 200, "shifted", now) for name in names)
        store.runs.submit(scope, DRIFT, {})
        claimed = store.runs.claim("worker", ServedRuns(scope.environment, (DRIFT,)), timedelta(minutes=1))
        assert claimed is not None
        store.runs.end(claimed, {"reports": {"replies": msgspec.to_builtins(DriftReport("replies", now, texts=texts))}})

    report("what is asked")
    assert webhooks.order_due() == 1
    assert Webhooks(store).order_due() == 0
    await deliver(project, webhooks)
    ((headers, body),) = receiver.taken
    event = json.loads(body)
    assert headers["webhook-id"].startswith("team:drift:replies:")
    assert (event["type"], event["data"]["variables"]) == ("drift", ["what is asked"])
    report("what is asked")
    assert webhooks.order_due() == 0, "a later report that says the same"
    report()
    assert webhooks.order_due() == 0


def test_a_test_event_says_what_the_receiver_answered(
    project: GatedProject, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks = Webhooks(project.store)
    assert webhooks.test("team") == 204
    assert json.loads(receiver.taken[0][1])["type"] == "test"
    with pytest.raises(NotFoundError, match="no webhook 'teem'"):
        webhooks.test("teem")
    receiver.refuse = 1
    with pytest.raises(UnavailableError, match="answered 500"):
        webhooks.test("team")
    monkeypatch.delenv("TEAM_SECRET")
    with pytest.raises(SetupError, match="TEAM_SECRET"):
        webhooks.test("team")


def test_a_signature_is_that_of_the_specification() -> None:
    # The example of https://github.com/standard-webhooks/standard-webhooks, libraries/python/tests.
    secret, id, timestamp = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330"
    assert signature(secret, id, timestamp, b'{"test": 2432232314}') == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_notes_of_what_was_never_live_are_an_empty_feed(project: GatedProject) -> None:
    notes = release_notes(project.store).of(project.scope, "replies")
    assert notes == []
    assert b"Changes of replies" in atom(notes, project.scope, "replies", "http://here/")
