"""Receivers of notifications: one over HTTP, one of mail, and what works off deliveries."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.harness.ports import free_port

from antiphon.catalog.notifications import Notification
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.policy import WorkflowPolicy
from antiphon.durable.run import ENDED, Run
from antiphon.services.notifications.delivery import NotificationSender
from antiphon.services.notifications.orders import NotificationOrders
from antiphon.services.project.store import Store
from antiphon.services.workflows import NOTIFY, POLICIES

SETTINGS = """
[project]
name = "shop"
[engine]
kind = "simulated"
[encryption]
mode = "plaintext"
"""


class HttpReceiver:
    """A server that takes deliveries; ``refuse`` of them are answered ``status`` first, and it may be away."""

    def __init__(self) -> None:
        self.refuse, self.status = 0, 500
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.seen: list[bytes] = []
        self.when_taken: Callable[[], object] = lambda: None
        self.port = free_port()
        self._server: ThreadingHTTPServer | None = None
        self.come()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/T000/a-secret-path"

    def come(self) -> None:
        """Listen, from now on."""
        receiver = self

        class Deliveries(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.seen.append(body)
                receiver.refuse -= 1
                if receiver.refuse < 0:
                    receiver.taken.append(({name.lower(): value for name, value in self.headers.items()}, body))
                    receiver.when_taken()
                self.send_response(receiver.status if receiver.refuse >= 0 else 204)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Deliveries)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def go_away(self) -> None:
        """Refuse connections until :meth:`come`."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    """A server that takes deliveries until the test is over."""
    made = HttpReceiver()
    yield made
    made.go_away()


class MailReceiver:
    """``aiosmtpd``, which keeps the mails that it takes.

    Args:
        options: of its ``SMTP``: ``tls_context``, ``require_starttls``, ``authenticator`` and others.
    """

    def __init__(self, **options: Any) -> None:
        from aiosmtpd.controller import Controller

        receiver = self
        self.mails: list[EmailMessage] = []
        self.envelopes: list[Any] = []
        self.answer = "250 taken"

        class Keeper:
            async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, extra: Any) -> str:
                if address.startswith("gone"):
                    return "550 no such mailbox: private reason"
                envelope.rcpt_tos.append(address)
                return "250 taken"

            async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
                if receiver.answer.startswith("250"):
                    receiver.envelopes.append(envelope)
                    parsed = BytesParser(policy=default).parsebytes(envelope.content)
                    assert isinstance(parsed, EmailMessage)
                    receiver.mails.append(parsed)
                return receiver.answer

        self.port = free_port()
        self._controller = Controller(Keeper(), hostname="127.0.0.1", port=self.port, **options)
        self._controller.start()

    def close(self) -> None:
        self._controller.stop()


def project(folder: Path, channels: str) -> Store:
    """A project with these channels, which have begun."""
    (folder / "antiphon.toml").write_text(SETTINGS + channels)
    store = Store.open(folder)
    NotificationOrders(store).begin()
    return store


def say(store: Store, id: str, **fields: Any) -> Notification:
    """Hand over that something burns."""
    values = {"kind": "objective.burn", "severity": "critical", "state": "firing", "title": f"{id} burns", **fields}
    said = Notification(id=id, started_at=store.database.clock.now(), **values)
    store.notifications.append(store.scope, said)
    return said


async def deliver(store: Store, until: Callable[[], bool] | None = None, attempts: int = 300) -> list[Run]:
    """Work as a worker does, looking for what is due now and then, until every delivery has ended or ``until``."""
    policy = WorkflowPolicy(
        POLICIES[NOTIFY].work, attempts=attempts, first_wait=timedelta(milliseconds=1),
        longest_wait=timedelta(milliseconds=20),
    )  # fmt: skip
    registry, orders = WorkflowRegistry(), NotificationOrders(store)
    registry.add(NOTIFY, NotificationSender(store).deliver, policy)
    executor = Executor(store.database, registry, "worker", store.scope, poll=0.02)
    stop = asyncio.Event()
    working = asyncio.create_task(executor.run_until(stop))

    def ended() -> bool:
        orders.order_due()
        if until is not None:
            return until()
        counts = store.notification_deliveries.counts(store.scope)
        runs = store.runs.list(store.scope, 1_000, workflow=NOTIFY)
        return not any(status in ("waiting", "ordered") for _, status in counts) and all(
            run.status in ENDED for run in runs
        )

    try:
        async with asyncio.timeout(30):
            while not await asyncio.to_thread(ended):
                await asyncio.sleep(0.02)
    finally:
        stop.set()
        await working
    return list(store.runs.list(store.scope, 1_000, workflow=NOTIFY))
