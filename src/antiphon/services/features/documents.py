"""Documents of one project: how they stand, what they hold, and what a query finds, for those whom policy lets read."""

from __future__ import annotations

from datetime import datetime

import msgspec

from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.core.suggestions import nearest
from antiphon.definitions.documents import OWN_FEATURES, TEXT, VECTOR, RetrievalSpec
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.sensitivity import Tags
from antiphon.features.documents.passages import Passage, Passages, PassageSpaces
from antiphon.features.documents.retrieval import DocumentRetriever, RetrievalRequest, RetrievalResult
from antiphon.features.selection import unknown_views
from antiphon.governance.identity.principal import Principal
from antiphon.services.features.neighbors import require_feature
from antiphon.services.project.store import Store


class DocumentsStatus(msgspec.Struct, frozen=True):
    """Status of declared documents.

    Attributes:
        as_of: the moment at which the source was read for the published snapshot; ``None``: nothing is published.
        chunks: of the snapshot, of which ``texts`` differ and ``embedded`` were embedded for it, the others taken over.
        source: the source in words, with documents that were left out.
        blocked: reasons why what was read last is not published.
    """

    documents: str
    definition_version: str
    model: str
    refresh_seconds: float | None
    snapshot: str | None
    as_of: datetime | None
    chunks: int = 0
    texts: int = 0
    embedded: int = 0
    indexed: bool = False
    source: str = ""
    blocked: tuple[str, ...] = ()


class DocumentEntry(msgspec.Struct, frozen=True):
    """A document with its title and number of chunks."""

    id: str
    title: str
    chunks: int


class DocumentList(msgspec.Struct, frozen=True):
    """Documents of one publication, or the chunks of one of them."""

    documents: str
    publication: int
    snapshot: str
    as_of: datetime
    entries: tuple[DocumentEntry, ...]
    chunks: tuple[Passage, ...] = ()


class ProjectDocuments:
    """Answers for the project's own scope; of another scope there are no documents here."""

    def __init__(self, store: Store, retriever: DocumentRetriever, spaces: PassageSpaces) -> None:
        self._store = store
        self._retriever = retriever
        self._spaces = spaces

    def list(self, scope: Scope) -> tuple[DocumentsStatus, ...]:
        """The status of all documents that the project declares."""
        store = self._store
        published = store.publications.snapshots(scope)
        found = []
        for name, spec in sorted(self._declared(scope).items()):
            manifest = store.snapshots.find(scope, published.get(spec.key))
            verdict = store.verdicts.latest(scope, name, spec.definition_version)
            findings = verdict.findings if verdict is not None and verdict.outcome == "blocked" else ()
            facts = None if manifest is None else manifest.vectors.get(VECTOR)
            found.append(
                DocumentsStatus(
                    documents=name,
                    definition_version=spec.definition_version,
                    model=str(spec.models[VECTOR]),
                    refresh_seconds=None if spec.refresh is None else spec.refresh / 1e6,
                    snapshot=None if manifest is None else manifest.id,
                    as_of=None if manifest is None else manifest.as_of,
                    chunks=0 if manifest is None else manifest.rows_out,
                    texts=0 if facts is None else facts.texts,
                    embedded=0 if facts is None else facts.embedded,
                    indexed=facts is not None and facts.index is not None,
                    source="" if manifest is None else manifest.source,
                    blocked=tuple(one.reason for one in findings if one.action == "block"),
                )
            )
        return tuple(found)

    def show(
        self, scope: Scope, principal: Principal, name: str, document: str | None, *, purpose: str = "",
        number: int | None = None,
    ) -> DocumentList:  # fmt: skip
        """The documents of a publication, or with ``document`` that one's chunks; raises as :meth:`search`, and
        ``NotFoundError`` when there is no such document."""
        spec = self._require(scope, principal, name, purpose)
        found = self._retriever.find(_request(spec, "", {}, 1, number, self._store.database.clock.now()))
        passages = self._spaces.open(found.snapshot)
        entries = tuple(DocumentEntry(id, *rest) for id, rest in passages.documents().items())
        chunks: tuple[Passage, ...] = ()
        if document is not None:
            chunks = _of(passages, document, name)
            entries = tuple(one for one in entries if one.id == document)
        return DocumentList(name, found.publication, found.snapshot, found.as_of, entries, chunks)

    def search(
        self, scope: Scope, principal: Principal, name: str, text: str, *, k: int = 5,
        filters: dict[str, str] | None = None, purpose: str = "", number: int | None = None,
    ) -> RetrievalResult:  # fmt: skip
        """The chunks that are nearest to a text.

        Raises:
            NotFoundError: this scope has no such documents or publication, or their chunks have no such attribute.
            ForbiddenError: the texts are too sensitive for the principal, or not for this purpose.
            FeatureUnavailableError: they are not published, or the model is not on this machine.
        """
        spec = self._require(scope, principal, name, purpose)
        known = [one for one in spec.features if one not in OWN_FEATURES or one == "document"]
        if unknown := sorted((filters or {}).keys() - set(known)):
            raise NotFoundError(
                f"Chunks of {name} have no {unknown[0]!r}.", where="filters", next_step=f"They have {', '.join(known)}."
            )
        return self._retriever.find(_request(spec, text, filters or {}, k, number, self._store.database.clock.now()))

    def _declared(self, scope: Scope) -> dict[str, FeatureViewSpec]:
        if scope != self._store.scope:
            return {}
        views = self._store.applied.project(scope).views
        return {name: spec for name, spec in views.items() if spec.source.documents is not None}

    def _require(self, scope: Scope, principal: Principal, name: str, purpose: str) -> FeatureViewSpec:
        declared = self._declared(scope)
        spec = declared.get(name)
        if spec is None:
            raise unknown_views([name], declared, "documents")
        require_feature(self._store, principal, f"{name}.{TEXT}", spec.tags.get(TEXT, Tags()), purpose)
        return spec


def _request(
    spec: FeatureViewSpec, text: str, filters: dict[str, str], k: int, number: int | None, moment: datetime
) -> RetrievalRequest:
    retrieval = RetrievalSpec(spec.name, spec.name, spec.definition_version, "", k, {}, spec.models[VECTOR], -1.0)
    return RetrievalRequest(retrieval, text, filters, {}, moment, publication=number)


def _of(passages: Passages, document: str, name: str) -> tuple[Passage, ...]:
    found = passages.of(document)
    if not found:
        raise NotFoundError(
            f"There is no document {document!r} in {name}.",
            where="document",
            next_step=nearest(document, list(passages.documents()), f"`antiphon documents show {name}` lists them."),
        )
    return found
