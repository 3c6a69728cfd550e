"""``antiphon documents``: declared documents, what they hold, and what a query finds in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import moment, shortened, table
from antiphon.cli.output import show as print_result
from antiphon.cli.project import at_terminal, features_of, refusals_on_record

if TYPE_CHECKING:
    from antiphon.features.documents.retrieval import RetrievalResult
    from antiphon.services.features.documents import DocumentList, DocumentsStatus

app = typer.Typer(name="documents", help="Documents that prompts retrieve from.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="DOCUMENTS", help="The name of the documents.")]
Publication = Annotated[int | None, typer.Option(min=1, help="A publication; the current one by default.")]
Purpose = Annotated[str, typer.Option(help="What for, when the texts are limited to purposes.")]
_WIDE = 90


@app.command("list")
def list_documents(project: Project = HERE, as_json: Json = False) -> None:
    """All declared documents: what is published, when it was read, and why what was read last is not published.

    `antiphon features refresh NAME` reads them again.
    """
    with features_of(project) as (store, platform):
        found = platform.project_documents.list(store.scope)
    print_result(found, as_json, lambda: _status_table(found))


@app.command()
def show(
    documents: Name,
    document: Annotated[str | None, typer.Argument(metavar="[DOCUMENT]", help="One of them, with its chunks.")] = None,
    publication: Publication = None,
    purpose: Purpose = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """The documents of a publication, or one of them with its chunks."""
    with features_of(project) as (store, platform):
        who = at_terminal(store)
        with refusals_on_record(store, who, "answer", f"view/{documents}"):
            found = platform.project_documents.show(
                store.scope, who, documents, document, purpose=purpose, number=publication
            )
        detail = {"route": "antiphon documents show", "document": document or ""}
        store.trail.record(store.scope, who.id, "data.read", f"view/{documents}", detail)
    print_result(found, as_json, lambda: _document_table(found))


@app.command()
def search(
    documents: Name,
    text: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("--top", min=1, max=50, help="How many chunks.")] = 5,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="NAME=VALUE", help="document or an attribute that chunks must have; repeat."),
    ] = None,
    publication: Publication = None,
    purpose: Purpose = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """The chunks that are nearest to a text, as a prompt would retrieve them."""
    given = entities.keys(filters) if filters else {}
    with features_of(project) as (store, platform):
        who = at_terminal(store)
        with refusals_on_record(store, who, "answer", f"view/{documents}"):
            found = platform.project_documents.search(
                store.scope, who, documents, text, k=k, filters=given, purpose=purpose, number=publication
            )
        detail = {"route": "antiphon documents search", "found": len(found.passages)}
        store.trail.record(store.scope, who.id, "data.read", f"view/{documents}", detail)
    print_result(found, as_json, lambda: _passage_table(found))


def _status_table(found: tuple[DocumentsStatus, ...]) -> str:
    rows = [
        (
            one.documents,
            moment(one.as_of) if one.as_of is not None else "never",
            one.chunks,
            one.embedded,
            one.model,
            shortened("blocked: " + "; ".join(one.blocked) if one.blocked else one.source, _WIDE),
        )
        for one in found
    ]
    head = ("documents", "as of", "chunks", "embedded", "model", "source")
    return table(head, rows, "No documents are declared.")


def _document_table(found: DocumentList) -> str:
    foot = f"publication {found.publication}, as of {moment(found.as_of)}"
    if found.chunks:
        return "\n\n".join([*(f"[{one.id}]\n{one.text}" for one in found.chunks), foot])
    rows = [(one.id, one.title, one.chunks) for one in found.entries]
    return "\n".join([table(("document", "title", "chunks"), rows, "There is no document."), foot])


def _passage_table(found: RetrievalResult) -> str:
    rows = [(f"{one.similarity:.4f}", one.id, shortened(" ".join(one.text.split()), _WIDE)) for one in found.passages]
    searched = "by the index" if found.search == "index" else "every one compared"
    foot = f"{found.chunks} chunks of publication {found.publication}, as of {moment(found.as_of)}; {searched}"
    return "\n".join([table(("similarity", "chunk", "text"), rows, "Nothing was found."), foot])
