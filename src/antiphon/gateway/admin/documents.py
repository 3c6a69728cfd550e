"""Documents over HTTP: how they stand, what they hold, and what a query finds."""

from __future__ import annotations

from typing import Annotated

import msgspec

from antiphon.definitions.documents import MOST_RETRIEVED
from antiphon.features.documents.retrieval import RetrievalResult
from antiphon.gateway.http.bounds import Number
from antiphon.gateway.operation import OperationCall, operation
from antiphon.services.features.documents import DocumentList, DocumentsStatus


class DocumentsResponse(msgspec.Struct, frozen=True):
    """All declared documents."""

    documents: tuple[DocumentsStatus, ...]


class DocumentQuery(msgspec.Struct, frozen=True):
    """Selects one document with its chunks (all documents without), what for, and in which publication (the current
    one)."""

    document: str | None = None
    purpose: str = ""
    publication: Number | None = None


class DocumentSearchRequest(msgspec.Struct, frozen=True):
    """A text to look for, the most chunks, what they must have (``document`` or attributes), what for, and in which
    publication (the current one)."""

    text: str
    k: Annotated[int, msgspec.Meta(ge=1, le=MOST_RETRIEVED)] = 5
    filters: dict[str, str] = {}
    purpose: str = ""
    publication: Number | None = None


@operation("GET", "/admin/documents", "The documents that prompts retrieve from.", "read")
def _documents(call: OperationCall) -> DocumentsResponse:
    return DocumentsResponse(call.services.features.documents.list(call.scope))


@operation(
    "GET", "/admin/documents/{view}", "The documents of a publication, or one of them with its chunks.", "answer"
)
def _document(call: OperationCall, query: DocumentQuery) -> DocumentList:
    find = call.services.features.documents.show
    return find(
        call.scope, call.principal, call.path["view"], query.document, purpose=query.purpose, number=query.publication
    )


@operation("POST", "/admin/documents/{view}/search", "The chunks that are nearest to a text.", "answer")
def _search(call: OperationCall, body: DocumentSearchRequest) -> RetrievalResult:
    return call.services.features.documents.search(
        call.scope, call.principal, call.path["view"], body.text,
        k=body.k, filters=body.filters, purpose=body.purpose, number=body.publication,
    )  # fmt: skip
