"""Retrievals of one request: rendered queries, held against freshness contracts, numbered for the prompt and recorded.

Invariants: retrieval happens before the prompt is rendered, so rendering stays a pure function of what the receipt
pins. What policy hides is not retrieved. Two requests that retrieve the same chunks, and print alike, have one prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from antiphon.catalog.serving.receipt import PassageReceipt, RetrievalReceipt
from antiphon.core.clock import microseconds
from antiphon.core.errors import FeaturesNotReadyError, FeatureUnavailableError
from antiphon.core.ids import canonical, content_hash
from antiphon.core.scope import Scope
from antiphon.core.telemetry import span
from antiphon.definitions.application import ApplicationSpec, Freshness
from antiphon.definitions.documents import TEXT, RetrievalSpec
from antiphon.features.documents.retrieval import RetrievalRequest, RetrievalResult
from antiphon.features.freshness import rule_of
from antiphon.features.values import FeatureVector
from antiphon.serving.answering import prompts
from antiphon.serving.features.reading import RequestFeatures
from antiphon.serving.request import AnswerRequest

Retrieve = Callable[[Scope, RetrievalRequest], RetrievalResult]
"""Retrieves from the documents of a scope; raises ``NotFoundError``, ``FeatureUnavailableError``,
``UnavailableError``."""


class RetrievedDocuments(msgspec.Struct, frozen=True):
    """Results of the retrievals of a request: their receipts, and each one's chunks as templates see them."""

    receipts: tuple[RetrievalReceipt, ...] = ()
    chunks: dict[str, tuple[dict[str, Any], ...]] = {}

    @property
    def texts(self) -> tuple[dict[str, Any], ...]:
        """The chunks of every retrieval, by their numbers."""
        return tuple(chunk for found in self.chunks.values() for chunk in found)

    @property
    def blob(self) -> bytes | None:
        """The chunks as they are kept with the receipt; ``None`` without a retrieval."""
        return canonical(self.chunks) if self.receipts else None

    def beside(self, reading: RequestFeatures) -> RequestFeatures:
        """The features of the request with these chunks in their fingerprint, and with their publication where the
        request reads no other."""
        if not self.receipts:
            return reading
        pinned = [[one.name, [passage.sha256 for passage in one.passages]] for one in self.receipts]
        numbers = [one.publication for one in self.receipts]
        return RequestFeatures(
            publication=reading.publication if reading.publication is not None else max(numbers),
            features=reading.features,
            prints=reading.prints,
            fingerprint=content_hash([reading.fingerprint, pinned]),
        )


async def retrieve(
    call: Retrieve | None,
    request: AnswerRequest,
    application: ApplicationSpec,
    inputs: Mapping[str, Any],
    as_of: datetime,
    masked: Sequence[str],
    vector: FeatureVector | None,
) -> RetrievedDocuments:
    """Carry out the retrievals of a request.

    Args:
        call: retrieves; it may embed a text, so it runs in a thread.
        vector: the request's features, whose publication is read.

    Raises:
        FeatureUnavailableError: documents are older than their contract allows, or are not published.
        InvalidInputError: a query's template fails.
    """
    receipts: list[RetrievalReceipt] = []
    chunks: dict[str, tuple[dict[str, Any], ...]] = {}
    number = 0
    for spec in application.retrievals or ():
        if call is None:
            raise FeatureUnavailableError("Documents are not retrieved here.", where=f"retrieval {spec.name}")
        hidden = bool({f"{spec.view}.{TEXT}", f"{spec.view}.*"} & set(masked))
        query = _query(spec, request, inputs, as_of, (vector.publication or None) if vector is not None else None)
        with span("retrieve", {"antiphon.documents": spec.view}):
            found = await asyncio.to_thread(call, request.scope, query)
        age = (as_of - found.as_of).total_seconds()
        contract = "masked" if hidden else _held(spec, application.freshness.get(spec.view), found, as_of)
        passages = () if hidden else found.passages
        receipts.append(
            RetrievalReceipt(
                spec.name, spec.view, spec.definition_version, found.publication, found.snapshot, found.as_of, age,
                contract, found.search, found.chunks,
                tuple(PassageReceipt(one.id, one.sha256, one.similarity) for one in passages),
            )
        )  # fmt: skip
        chunks[spec.name] = tuple(
            {"number": number + place, "id": one.id, "document": one.document, "title": one.title, "text": one.text}
            for place, one in enumerate(passages, 1)
        )
        number += len(passages)
    return RetrievedDocuments(tuple(receipts), chunks)


def of_blob(content: bytes | None) -> dict[str, tuple[dict[str, Any], ...]]:
    """The chunks that were kept with a receipt."""
    return {} if content is None else msgspec.json.decode(content, type=dict[str, tuple[dict[str, Any], ...]])


def _query(
    spec: RetrievalSpec,
    request: AnswerRequest,
    inputs: Mapping[str, Any],
    as_of: datetime,
    publication: int | None,
) -> RetrievalRequest:
    names = {"question": request.question or "", "entity": dict(request.entity), "inputs": dict(inputs)}
    where = f"retrieval {spec.name}"
    return RetrievalRequest(
        spec=spec,
        text=prompts.render(spec.query, names, where).strip(),
        filters={name: prompts.render(value, names, where) for name, value in spec.filters.items()},
        entity=request.entity,
        moment=as_of,
        past=request.as_of is not None,
        publication=publication,
        minimum=request.minimum_publication,
    )


def _held(spec: RetrievalSpec, contract: Freshness | None, found: RetrievalResult, as_of: datetime) -> str:
    """The contract's outcome for documents of this age: a snapshot is as old as the moment at which its source was
    read."""
    rule = rule_of(contract)
    accepted = rule.accepts_source(found.quality)
    outcome = rule.outcome(True, microseconds(found.as_of), microseconds(as_of), accepted)
    if outcome == "rejected":
        assert contract is not None
        age = (as_of - found.as_of).total_seconds()
        said = f"{age:.0f} s old, and their contract allows {contract.max_age}" if accepted else "of too poor a source"
        raise FeaturesNotReadyError(
            f"The documents {spec.view} are {said}.",
            where=f"retrieval {spec.name}",
            next_step="See `antiphon documents list` for their refresh, or relax the application's freshness contract.",
        )
    return outcome
