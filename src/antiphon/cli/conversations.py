"""``antiphon conversations``: what was said in the conversations of applications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Json, Limit, OnlyApplication, Project, Reason
from antiphon.cli.output import show, table
from antiphon.cli.project import allowed, at_terminal, refusals_on_record, stores
from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from antiphon.services.conversations import ConversationDetail, ProjectConversations
    from antiphon.services.project.store import Store

app = typer.Typer(name="conversations", help="Conversations of applications.", no_args_is_help=True)

Conversation = Annotated[str, typer.Argument(metavar="CONVERSATION", help="Its id, conv_….")]


@app.command("list")
def list_conversations(
    application: OnlyApplication = "",
    entity: entities.Entity = [],  # noqa: B006 -- typer copies it
    limit: Limit = 50,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Conversations, the latest first; with --entity those about one."""
    with stores(project) as store:
        allowed(store, "read", "prediction/*")
        found = _conversations(store).list(store.scope, application or None, entity=entities.keys(entity), limit=limit)
    rows = [(one.id, one.application, one.release, one.turns, one.created_at, one.updated_at) for one in found]
    head = ("conversation", "application", "release", "turns", "began", "went on")
    show(found, as_json, lambda: table(head, rows, "There are no conversations."))


@app.command("show")
def show_conversation(conversation: Conversation, project: Project = HERE, as_json: Json = False) -> None:
    """The turns of a conversation, as later prompts show them."""
    with stores(project) as store:
        reader = at_terminal(store)
        with refusals_on_record(store, reader, "read", f"prediction/{conversation}"):
            found = _conversations(store).show(store.scope, reader, conversation)
        store.trail.record(store.scope, reader.id, "data.read", conversation, {"route": "antiphon conversations show"})
    show(found, as_json, lambda: _written(found))


@app.command()
def delete(
    conversation: Annotated[str, typer.Argument(metavar="[CONVERSATION]", help="Its id, or --entity.")] = "",
    reason: Reason = "",
    entity: entities.Entity = [],  # noqa: B006 -- typer copies it
    texts: Annotated[bool, typer.Option("--texts", help="Erase the texts of the receipts of its answers too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would go; delete nothing.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Delete a conversation, or every one about an entity. Receipts stay; with --texts without what was said."""
    keys = entities.keys(entity)
    if bool(conversation) == bool(keys):
        raise InvalidInputError(
            "Name a conversation, or an entity.", where="conversation", next_step="`antiphon conversations list`."
        )
    with stores(project) as store:
        who = allowed(store, "administer", f"prediction/{conversation or '*'}")
        conversations = _conversations(store)
        if conversation:
            done = conversations.delete(store.scope, conversation, by=who.id, texts=texts, dry_run=dry_run)
        else:
            done = conversations.forget(store.scope, keys, by=who.id, texts=texts, dry_run=dry_run)
        if not dry_run:
            detail = {"reason": reason or "not given", "deleted": done.conversations, "rows": done.turns}
            if texts:
                detail |= {"texts": done.texts, "remarks": done.remarks, "cases": done.cases}
            store.audit.append(store.scope, who.id, "conversation.delete", conversation or "of an entity", detail)
    would = "would be deleted" if dry_run else "deleted"
    beside = f", with {done.texts} texts of receipts, {done.remarks} remarks and {done.cases} regression cases"
    said = f"{done.conversations} conversations with {done.turns} turns {would}{beside if texts else ''}."
    show(done, as_json, lambda: said)


def _conversations(store: Store) -> ProjectConversations:
    from antiphon.services.conversations import ProjectConversations
    from antiphon.services.governance.policy_versions import records

    return ProjectConversations(store, records(store))


def _written(found: ConversationDetail) -> str:
    record = found.conversation
    lines = [f"{record.application}, {record.turns} turns, last answered by {record.release}"]
    for turn in found.turns:
        lines += ["", f"{turn.number}  {turn.prediction or 'given by the caller'}"]
        lines += [f"user       {turn.question}", f"assistant  {turn.answer}"]
    return "\n".join(lines)
