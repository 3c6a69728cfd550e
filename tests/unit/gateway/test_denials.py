"""Refusals in the audit log: each of a few, counts of many, and a log that a flood does not fill."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Counting
from starlette.requests import Request
from tests.harness import fakes
from tests.unit.catalog.examples import NOON

from antiphon.catalog.database import Database
from antiphon.core.clock import ManualClock
from antiphon.core.errors import ForbiddenError, UnauthenticatedError
from antiphon.gateway import denials
from antiphon.gateway.denials import IN_FULL, MOST_SUMMARIES, SUMMARY, UNKNOWN_IN_FULL, Denials
from antiphon.governance.identity.principal import Principal

COUNTED = Counting("denials", "Requests that were not let in.", ["tenant", "code"], registry=CollectorRegistry())


class AuditRecords:
    """Records that reach the audit log."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str, dict[str, Any]]] = []

    def enqueue(
        self, scope: Any, principal: str, action: str, subject: str, detail: dict[str, Any], **more: Any
    ) -> int:
        assert (action, more["outcome"]) == ("denied", "denied")
        self.records.append((principal, subject, detail))
        return len(self.records)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def written() -> AuditRecords:
    return AuditRecords()


@pytest.fixture
def refusals(tmp_path: Path, clock: ManualClock, written: AuditRecords) -> Denials:
    database = Database.open(f"sqlite:///{tmp_path}/catalog.db", clock=clock)
    database.migrate()
    return Denials(fakes.gateway_services(database, trail=written))


def request(peer: str = "10.0.0.1") -> Request:
    app = SimpleNamespace(state=SimpleNamespace(measurements=SimpleNamespace(denials=COUNTED)))
    return Request({"type": "http", "method": "POST", "path": "/x", "headers": [], "client": (peer, 1), "app": app})


NO_KEY = UnauthenticatedError("There is no API key and no token.")


async def test_a_flood_of_one_peer_is_counted_in_one_record(
    refusals: Denials, written: AuditRecords, clock: ManualClock
) -> None:
    for _ in range(5_000):
        await refusals.record(request(), NO_KEY)
    assert len(written.records) == IN_FULL
    assert written.records[0][2]["peer"] == "10.0.0.1"
    clock.advance(timedelta(seconds=61))
    await refusals.settle()
    name, subject, detail = written.records[-1]
    assert (name, subject, detail["count"], detail["code"]) == (
        "anonymous",
        SUMMARY,
        5_000 - IN_FULL,
        "invalid_api_key",
    )
    assert detail["reason"].startswith(f"{5_000 - IN_FULL} more refused from 10.0.0.1 between 12:00:00 and 12:01:00")
    assert len(written.records) == IN_FULL + 1
    await refusals.settle()
    assert len(written.records) == IN_FULL + 1, "nothing is counted twice"


async def test_many_peers_together_are_bounded_and_hide_nobody_who_is_known(
    refusals: Denials, written: AuditRecords, clock: ManualClock
) -> None:
    for number in range(5_000):
        await refusals.record(request(f"2001:db8::{number:x}"), NO_KEY)
    ann = Principal("ann", "default", "viewer")
    known = request("10.0.0.9")
    known.state.principal = ann
    await refusals.record(known, ForbiddenError("Policy says no."))
    assert Counter(name for name, _, _ in written.records) == {"anonymous": UNKNOWN_IN_FULL, "ann": 1}
    clock.advance(timedelta(seconds=61))
    await refusals.settle()
    summaries = written.records[UNKNOWN_IN_FULL + 1 :]
    assert len(summaries) == MOST_SUMMARIES + 1
    assert sum(detail["count"] for _, _, detail in summaries) == 5_000 - UNKNOWN_IN_FULL, "every refusal is in a record"


async def test_what_is_counted_of_somebody_names_their_key(refusals: Denials, written: AuditRecords) -> None:
    known = request()
    known.state.principal = Principal("ann", "default", "viewer", credential="key_1")
    for _ in range(IN_FULL + 3):
        await refusals.record(known, ForbiddenError("Policy says no."))
    await refusals.settle(ended=True)
    assert {detail["key"] for _, _, detail in written.records} == {"key_1"}
    assert written.records[-1][2]["count"] == 3


async def test_what_was_counted_is_written_when_the_process_ends(refusals: Denials, written: AuditRecords) -> None:
    for _ in range(IN_FULL + 3):
        await refusals.record(request(), NO_KEY)
    await refusals.settle(ended=True)
    assert written.records[-1][2]["count"] == 3


async def test_the_switch_without_the_bound_each_refusal_is_a_record(
    refusals: Denials, written: AuditRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denials, "IN_FULL", 1 << 40)
    monkeypatch.setattr(denials, "UNKNOWN_IN_FULL", 1 << 40)
    for _ in range(500):
        await refusals.record(request(), NO_KEY)
    assert len(written.records) == 500


async def test_many_paths_that_there_are_not_are_counted_and_one_asked_for_again_is_once(
    refusals: Denials, clock: ManualClock
) -> None:
    unknown = COUNTED.labels("default", denials.UNKNOWN_PATH)
    before = unknown._value.get()

    def ask(path: str) -> None:
        asked = request()
        asked.scope["path"] = path
        refusals.count_unknown(Request(asked.scope))

    for _ in range(50):
        ask("/v1/chat/completion")
    assert unknown._value.get() == before + 1
    for number in range(30):
        ask(f"/{number}.php")
    assert unknown._value.get() == before + 31
    for number in range(30):  # A scanner that comes back to the same paths.
        ask(f"/{number}.php")
    assert unknown._value.get() == before + 61
    clock.advance(timedelta(seconds=61))
    for _ in range(2):
        ask("/v1/chat/completion")
    assert unknown._value.get() == before + 62
