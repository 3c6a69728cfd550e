"""Retrieval: the chunks of documents that are nearest to a query, in one publication.

Invariants: a retrieval resolves a publication once, and everything it gives comes from one snapshot of the definition
version that the release pins, so of one chunking and one model. A request about an earlier moment reads the publication
that was served then, or is told that it is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from antiphon.catalog.features.publications import Publication
from antiphon.core.errors import FeatureUnavailableError
from antiphon.definitions.documents import RetrievalSpec
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.documents.passages import Passage, PassageSpaces, Search
from antiphon.features.online import lookup_errors


class RetrievalRequest(msgspec.Struct, frozen=True):
    """One retrieval of a request.

    Attributes:
        text: the query. ``filters``: name to value, rendered.
        entity: the request's. ``moment``: its time.
        past: the publication of that moment is read and not the one that is served now.
        publication: the number that the request reads; ``minimum``: the least that it may read.
    """

    spec: RetrievalSpec
    text: str
    filters: Mapping[str, str]
    entity: Mapping[str, str]
    moment: datetime
    past: bool = False
    publication: int | None = None
    minimum: int | None = None


class RetrievalResult(msgspec.Struct, frozen=True):
    """Chunks, nearest first, and where they come from.

    Attributes:
        as_of: the moment that the snapshot was made as of.
        quality: of the snapshot's source.
        search: candidates of the index, or every chunk compared.
        chunks: number of those that were searched.
    """

    publication: int
    snapshot: str
    as_of: datetime
    quality: float | None
    search: Search
    chunks: int
    passages: tuple[Passage, ...]


@dataclass(frozen=True)
class DocumentRetriever:
    """Retrieves for one scope. Safe to share between threads.

    Args:
        served: the publication that is served now, as every reader of features knows it.
    """

    catalog: FeatureCatalog
    spaces: PassageSpaces
    served: Callable[[], Publication | None]

    def find(self, request: RetrievalRequest) -> RetrievalResult:
        """The chunks that are nearest to the query.

        Raises:
            FeatureUnavailableError: the documents are not published in this version, those of the moment are not kept,
                or the model is not on this machine.
            NotFoundError: there is no such publication.
            UnavailableError: nothing is published, or not as late as ``minimum``.
        """
        spec, catalog = request.spec, self.catalog
        publication = self._publication(request)
        key = f"{spec.view}@{spec.definition_version}"
        snapshot = publication.snapshots.get(key)
        if snapshot is None and request.publication is None and not request.past:
            # A release that went live within the lease pins what was published just before it.
            publication = catalog.publications.current(catalog.scope) or publication
            snapshot = publication.snapshots.get(key)
        if snapshot is None:
            raise lookup_errors.not_published(spec.view, spec.definition_version, publication.number)
        passages = self.spaces.open(snapshot)
        vector = self.spaces.vector(snapshot, spec.model, request.text)
        found: tuple[Passage, ...] = ()
        search: Search = "exact"
        if vector is not None:
            found, search = passages.nearest(vector, spec.model, spec.k, request.filters, spec.least)
        return RetrievalResult(
            publication=publication.number,
            snapshot=snapshot,
            as_of=passages.as_of,
            quality=passages.quality,
            search=search,
            chunks=len(passages),
            passages=found,
        )

    def _publication(self, request: RetrievalRequest) -> Publication:
        catalog, scope = self.catalog, self.catalog.scope
        if request.publication is not None and not request.past:
            served = self.served()
            if served is not None and served.number == request.publication:
                return served
            return catalog.publications.get(scope, request.publication)
        if request.past:
            then = catalog.publications.at(scope, request.moment)
            if then is None:
                raise FeatureUnavailableError(
                    f"No documents were published yet on {request.moment:%Y-%m-%d %H:%M}.",
                    where=request.spec.view,
                    next_step="Ask about a later moment.",
                )
            return then
        found = self.served()
        if found is None:
            raise lookup_errors.nothing_published(scope)
        if request.minimum is not None and found.number < request.minimum:
            raise lookup_errors.not_reached(request.minimum, found.number)
        return found
