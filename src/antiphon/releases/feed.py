"""An Atom feed of release notes (RFC 4287), made with the standard library's XML.

Invariants: an entry's id never changes and says nothing of who it is about; characters that XML does not allow are left
out, so that whatever a prompt holds, the feed can be read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import NAMESPACE_URL, uuid5
from xml.etree import ElementTree

from antiphon.core.scope import Scope
from antiphon.releases.notes import PublicNote, ReleaseNote

MEDIA_TYPE = "application/atom+xml"
_ATOM = "http://www.w3.org/2005/Atom"
_BEFORE_ANY = datetime(1970, 1, 1, tzinfo=UTC)
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def atom(notes: Sequence[ReleaseNote] | Sequence[PublicNote], scope: Scope, application: str, address: str) -> bytes:
    """The feed of an application's notes, latest first.

    Args:
        address: of the feed itself.
    """
    feed = ElementTree.Element(f"{{{_ATOM}}}feed")
    ElementTree.register_namespace("", _ATOM)
    _text(feed, "id", _identity(scope, application))
    _text(feed, "title", f"Changes of {application}")
    _text(feed, "updated", (notes[0].at if notes else _BEFORE_ANY).isoformat())
    ElementTree.SubElement(feed, f"{{{_ATOM}}}link", {"rel": "self", "href": _allowed(address)})
    _text(ElementTree.SubElement(feed, f"{{{_ATOM}}}author"), "name", application)
    for note in notes:
        entry = ElementTree.SubElement(feed, f"{{{_ATOM}}}entry")
        _text(entry, "id", _identity(scope, note.id))
        _text(entry, "title", note.sentence)
        _text(entry, "updated", note.at.isoformat())
        _text(entry, "content", as_text(note), type="text")
    document: bytes = ElementTree.tostring(feed, encoding="utf-8", xml_declaration=True)
    return document


def as_text(note: ReleaseNote | PublicNote) -> str:
    """A note in plain lines."""
    if isinstance(note, PublicNote):
        return note.sentence
    lines = [note.sentence, f"{note.principal}: {note.reason}"]
    for change in note.changes:
        lines += [change.sentence, *change.lines]
    return "\n".join(lines)


def _identity(scope: Scope, name: str) -> str:
    return uuid5(NAMESPACE_URL, f"antiphon:{scope.tenant}/{scope.environment}/{name}").urn


def _text(parent: ElementTree.Element, name: str, text: str, **attributes: str) -> None:
    ElementTree.SubElement(parent, f"{{{_ATOM}}}{name}", attributes).text = _allowed(text)


def _allowed(text: str) -> str:
    return _FORBIDDEN.sub("", text)
