"""Conversations of applications."""

from __future__ import annotations

from datetime import datetime

import msgspec

from antiphon.gateway.admin.shapes import read_all
from antiphon.gateway.http.bounds import Few
from antiphon.gateway.operation import OperationCall, operation
from antiphon.services.conversations import ConversationDeletion, ConversationDetail


class ConversationQuery(msgspec.Struct, frozen=True):
    """Selects conversations."""

    application: str | None = None
    before: datetime | None = None
    limit: Few = 50


class ConversationLine(msgspec.Struct, frozen=True):
    """A conversation in a list."""

    id: str
    application: str
    release: str
    turns: int
    created_at: datetime
    updated_at: datetime


class ConversationList(msgspec.Struct, frozen=True):
    """The latest first; ``before`` of the next page is the last one's ``updated_at``."""

    conversations: tuple[ConversationLine, ...]


class ConversationDeletionQuery(msgspec.Struct, frozen=True):
    """With ``texts`` those of the receipts go too."""

    texts: bool = False


@operation("GET", "/admin/conversations", "List conversations of applications, latest first.", "read")
def _list(call: OperationCall, query: ConversationQuery) -> ConversationList:
    found = call.services.predictions.conversations.list(
        call.scope, query.application, before=query.before, limit=query.limit
    )
    return ConversationList(read_all(found, ConversationLine))


@operation(
    "GET",
    "/admin/conversations/{conversation}",
    "One conversation with its turns, as later prompts show them.",
    "read",
)
def _get(call: OperationCall) -> ConversationDetail:
    return call.services.predictions.conversations.show(call.scope, call.principal, call.path["conversation"])


@operation(
    "DELETE",
    "/admin/conversations/{conversation}",
    "Delete a conversation of one's own, or as an administrator any; the receipts stay.",
    "answer",
    changes=True,
)
def _delete(call: OperationCall, query: ConversationDeletionQuery) -> ConversationDeletion:
    conversations, who, id = call.services.predictions.conversations, call.principal, call.path["conversation"]
    if query.texts or conversations.author(call.scope, who, id) != who.id:
        call.services.access.authorize(who, "administer", f"prediction/{id}")
    return conversations.delete(call.scope, id, by=who.id, texts=query.texts)
