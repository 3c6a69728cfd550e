"""Pages of conversations: the list, and one with its turns."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.responses import Response

from antiphon.gateway.dashboard.pages import PageCall, moment_of

_PAGE = 50


def conversations(call: PageCall) -> Response:
    """Conversations, the latest first."""
    application, before = call.query.get("application") or None, moment_of(call.query.get("before"))
    found = call.services.predictions.conversations.list(call.scope, application, before=before, limit=_PAGE + 1)
    shown, older = found[:_PAGE], None
    if len(found) > _PAGE:
        chosen = {"application": application, "before": shown[-1].updated_at.isoformat()}
        older = "/conversations?" + urlencode({name: value for name, value in chosen.items() if value})
    return call.render(
        "conversations.html", page="conversations", conversations=shown, older=older, first=before is None,
        application=application, applications=call.services.generation.models(call.scope),
    )  # fmt: skip


def conversation(call: PageCall) -> Response:
    """One conversation with its turns."""
    found = call.services.predictions.conversations.show(call.scope, call.principal, call.path["conversation"])
    return call.render("conversation.html", page="conversations", record=found.conversation, turns=found.turns)
