"""The Atom feed of release notes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.catalog.examples import DEV

from antiphon.releases import feed
from antiphon.releases.notes import PublicNote


@given(sentence=st.text(), name=st.text(min_size=1))
def test_a_feed_is_read_whatever_a_text_holds(sentence: str, name: str) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    notes = [PublicNote(f"{name}/{number}", name, at + timedelta(days=number), sentence) for number in (2, 1)]
    tree = ElementTree.fromstring(feed.atom(notes, DEV, name, "http://here/"))
    entries = tree.findall("{http://www.w3.org/2005/Atom}entry")
    assert len({entry.findtext("{http://www.w3.org/2005/Atom}id") for entry in entries}) == 2
