"""Webhooks: releases that go live, and drift that begins, are told to the URLs of the settings, durably and signed.

Invariants:
- A delivery is a run under a key of webhook and note, so that a note is sent by one run however many workers there are,
  and again until the receiver takes it or its attempts are over. A receiver may see one twice, under the same id.
- What is sent is signed over id, time and body as Standard Webhooks 1.0 says, and goes to an address that was checked.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Iterator
from datetime import timedelta
from functools import cached_property
from typing import Any, Literal

import msgspec

from antiphon.core.clock import microseconds
from antiphon.core.errors import InvalidInputError, NotFoundError, SetupError, UnavailableError
from antiphon.core.http_client import HttpClient
from antiphon.core.scope import Scope
from antiphon.core.settings_governance import WebhookSettings
from antiphon.core.tls import ClientTls
from antiphon.durable.context import RunContext
from antiphon.learning.outcomes.drift_runs import DriftReports, DriftWarning
from antiphon.releases.notes import PublicNote, ReleaseNote, public
from antiphon.services.changes import release_notes
from antiphon.services.learning.outcomes import drift_reports
from antiphon.services.project.credentials import secret
from antiphon.services.project.store import Store
from antiphon.services.workflows import WEBHOOK

LOOK_SECONDS = 5.0
"""Interval of looks for notes that were not sent; a release that goes live rings before."""

SENT_FOR = timedelta(days=1)
"""Notes that are older are not sent: neither those from before a webhook was set up, nor after a long absence."""

NOTES = 20
"""Notes of an application that are looked at."""

SECONDS = 10.0
"""Time of a delivery at most."""

DRIFT = "drift"

_MOST_BYTES = 65_536


class WebhookEvent(msgspec.Struct, frozen=True):
    """The body of a delivery."""

    type: Literal["release.live", "drift", "test"]
    timestamp: str
    data: ReleaseNote | PublicNote | DriftWarning | None = None


class WebhookArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A note to be sent, or, with the ``note`` :data:`DRIFT`, what has drifted."""

    webhook: str
    application: str
    note: str


class Webhooks:
    """The webhooks of one project."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @cached_property
    def _drift(self) -> DriftReports:
        return drift_reports(self._store)

    def order_due(self) -> int:
        """Order the delivery of notes and warnings that no run has sent or sends; how many these were."""
        store, scope = self._store, self._store.scope
        ordered = 0
        for name, webhook in store.settings.webhooks.items():
            due = [
                *((note.application, note.id, note.id) for note in self._recent(scope, webhook)),
                *(
                    (one.application, DRIFT, f"{DRIFT}:{one.application}:{microseconds(one.latest)}")
                    for one in self._begun(scope, webhook)
                ),
            ]
            for application, note, named in due:
                key = f"webhook:{name}:{named}"
                if store.runs.find(scope, key) is None:
                    built = msgspec.to_builtins(WebhookArguments(name, application, note))
                    store.runs.submit(scope, WEBHOOK, built, key)
                    ordered += 1
        return ordered

    async def deliver(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """The workflow: send one note or warning.

        Raises:
            UnavailableError: the receiver did not take it; it is sent again.
            InvalidInputError: its URL may not be called.
        """
        order = msgspec.convert(arguments, WebhookArguments)
        webhook = self._store.settings.webhooks.get(order.webhook)
        if webhook is None:
            return {"status": None, "note": "The settings name this webhook no longer."}
        if order.note == DRIFT:
            return await self._deliver_drift(run, order, webhook)
        notes = await asyncio.to_thread(release_notes(self._store).of, run.scope, order.application)
        note = next(one for one in notes if one.id == order.note)
        data = public([note])[0] if webhook.form == "public" else note
        event = WebhookEvent("release.live", note.at.isoformat(), data)
        status = await run.step("send", self._send, order.webhook, webhook, f"{order.webhook}:{order.note}", event)
        return {"status": status, "note": note.sentence}

    async def _deliver_drift(
        self, run: RunContext, order: WebhookArguments, webhook: WebhookSettings
    ) -> dict[str, Any]:
        warnings = await asyncio.to_thread(self._drift.warnings, run.scope)
        warning = next((one for one in warnings if one.application == order.application), None)
        if warning is None:
            return {"status": None, "note": "It drifts no longer."}
        event = WebhookEvent("drift", warning.at.isoformat(), warning)
        id = f"{order.webhook}:{DRIFT}:{order.application}:{microseconds(warning.latest)}"
        status = await run.step("send", self._send, order.webhook, webhook, id, event)
        return {"status": status, "note": f"{order.application} drifts: {', '.join(warning.variables)}"}

    def test(self, name: str) -> int:
        """Send a test event at once; the receiver's status.

        Raises:
            NotFoundError: the settings have no such webhook.
            UnavailableError, InvalidInputError, SetupError: as a delivery.
        """
        webhook = self._store.settings.webhooks.get(name)
        if webhook is None:
            known = ", ".join(self._store.settings.webhooks) or "none"
            raise NotFoundError(
                f"There is no webhook {name!r}.", where="[webhooks]", next_step=f"The settings have: {known}."
            )
        now = self._store.database.clock.now()
        return self._send(name, webhook, f"test:{name}:{int(now.timestamp())}", WebhookEvent("test", now.isoformat()))

    def _begun(self, scope: Scope, webhook: WebhookSettings) -> Iterator[DriftWarning]:
        """Warnings of drift that began of late; names of features are not for outside users."""
        since = self._store.database.clock.now() - SENT_FOR
        for one in self._drift.warnings(scope) if webhook.form != "public" else ():
            if one.latest >= since and (not webhook.applications or one.application in webhook.applications):
                yield one

    def _recent(self, scope: Scope, webhook: WebhookSettings) -> Iterator[ReleaseNote]:
        store = self._store
        since = store.database.clock.now() - SENT_FOR
        for application in store.releases.applications(scope):
            if webhook.applications and application not in webhook.applications:
                continue
            history = store.releases.history(scope, application)
            if history and history[-1].at >= since:
                yield from (note for note in release_notes(store).of(scope, application, NOTES) if note.at >= since)

    def _send(self, name: str, webhook: WebhookSettings, id: str, event: WebhookEvent) -> int:
        where = f"[webhooks.{name}]"
        key = secret(webhook.secret_variable, "secret_variable", f"webhooks.{name}")
        if not key:
            raise SetupError(
                f"The secret of the webhook {name} is empty.", where=where, next_step=f"Set {webhook.secret_variable}."
            )
        body = msgspec.json.encode(event)
        timestamp = str(int(self._store.database.clock.now().timestamp()))
        headers = {
            "webhook-id": id,
            "webhook-timestamp": timestamp,
            "webhook-signature": signature(key, id, timestamp, body),
        }
        client = HttpClient(
            webhook.url, where=where, secret=True, timeout=SECONDS, most_bytes=_MOST_BYTES, headers=headers,
            tls=ClientTls(None if webhook.authority is None else self._store.paths.root / webhook.authority),
        )  # fmt: skip
        try:
            answer = client.post("", msgspec.Raw(body), repeat=False)
        except OSError as error:
            raise UnavailableError(
                f"The webhook {name} did not take it: {error}", where=where, next_step="It is sent again."
            ) from error
        finally:
            client.close()
        if not 200 <= answer.status < 300:
            raise UnavailableError(
                f"The webhook {name} answered {answer.status}.", where=where, next_step="It is sent again."
            )
        return answer.status


def signature(secret: str, id: str, timestamp: str, body: bytes) -> str:
    """The signature header's value: HMAC-SHA256 of ``ID.TIMESTAMP.BODY`` in base64, after its version.

    A secret of the form ``whsec_BASE64`` is decoded, as Standard Webhooks has it.

    Raises:
        InvalidInputError: what follows ``whsec_`` is no base64.
    """
    encoded = secret.removeprefix("whsec_")
    try:
        key = base64.b64decode(encoded, validate=True) if encoded != secret else secret.encode()
    except ValueError:
        raise InvalidInputError("The secret is no base64 after whsec_.", where="secret_variable") from None
    digest = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
