"""Any message of another system is an event that the log stores, or a refusal that says why; nothing raises."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from antiphon import NatsSubject, Source
from antiphon.catalog.features.events import Event
from antiphon.core.clock import microseconds
from antiphon.features.following.payloads import RowRefusal, decoded, event_of

FOLLOW = NatsSubject(url="nats://bus:4222", stream="SHOP")
SOURCE = Source.stream("orders", event_time="at", available_at="known", event_id="id", follow=FOLLOW).spec()

texts = st.text("ab0:-T. \0é\U0001f600", max_size=12)
times = st.one_of(
    st.datetimes().map(lambda at: at.isoformat()),
    st.datetimes().map(lambda at: f"{at.isoformat()}+05:30"),
    st.datetimes().map(lambda at: f"{at.isoformat()}Z"),
    st.sampled_from(
        ["2026-11-30T10:00:00.123456789Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "now"]
    ),
    st.integers(-(2**70), 2**70),
    st.floats(),
)
anything: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, times),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["id", "at", "known", "shop"]), anything),
    st.sampled_from(["s", "ms", "us"]),
)
def test_a_payload_is_an_event_or_refused(payload: dict[str, Any], epoch: Any) -> None:
    found = event_of(SOURCE, payload, epoch)
    if isinstance(found, RowRefusal):
        assert found.reason.split()[0] in ("id", "at", "known")
        return
    assert found.event_id
    for moment in (found.event_time, found.available_at):
        assert microseconds(moment) is not None
    msgspec.json.encode(found.payload)
    assert found == Event(str(payload["id"]), found.event_time, found.available_at, payload)


@given(st.binary())
def test_bytes_are_an_object_or_refused(content: bytes) -> None:
    found = decoded(content, msgspec.json.Decoder().decode)
    assert isinstance(found, dict | RowRefusal)
