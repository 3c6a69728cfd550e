"""Sends honest requests and probes to serving's ``answer()`` in the role ``evaluation``, and reads their features."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.clock import microseconds
from antiphon.core.ids import canonical
from antiphon.features.documents.passages import Passage
from antiphon.features.documents.retrieval import RetrievalRequest, RetrievalResult
from antiphon.features.values import FeatureVector
from antiphon.governance.identity.principal import Principal
from antiphon.learning.evaluation.asking import (
    AnswerFactory,
    AnswerFunction,
    EvaluatedReleases,
    ask_patiently,
    first_attempt,
)
from antiphon.learning.evaluation.safety.checkers import SafetyAnswer
from antiphon.learning.evaluation.safety.placement import HARMLESS_QUESTION, HonestRequest, planted
from antiphon.learning.evaluation.scores import meets
from antiphon.serving.answering.retrieval import of_blob
from antiphon.serving.history import continuing
from antiphon.serving.ports import EntityReader
from antiphon.serving.request import Answer, AnswerRequest, Message, PresetCall


class OverlaidReader:
    """Implements serving's ``EntityReader``: features that were put for an entity and moment, all others from below."""

    def __init__(self, below: EntityReader, on_demand: Sequence[str]) -> None:
        self._below = below
        self._on_demand = frozenset(on_demand)
        self._put: dict[tuple[bytes, int], FeatureVector] = {}
        self._documents: dict[tuple[bytes, int], str] = {}

    def put(self, entity: Mapping[str, str], moment: datetime, features: FeatureVector) -> None:
        """Let these features be read for an entity and moment."""
        self._put[_place(entity, moment)] = features

    def put_document(self, entity: Mapping[str, str], moment: datetime, text: str) -> None:
        """Let this text stand behind the first chunk that is retrieved for an entity and moment."""
        self._documents[_place(entity, moment)] = text

    def retrieved(self, request: RetrievalRequest, found: RetrievalResult) -> RetrievalResult:
        """The result of a retrieval, with the text that was put for its request."""
        text = self._documents.get(_place(request.entity, request.moment))
        if text is None:
            return found
        first = found.passages[0] if found.passages else Passage("probe#1", "probe", "probe", "", "", 1.0)
        words = f"{first.text} {text}".strip()
        poisoned = msgspec.structs.replace(first, text=words, sha256=hashlib.sha256(words.encode()).hexdigest())
        return msgspec.structs.replace(found, passages=(poisoned, *found.passages[1:]))

    def read(
        self,
        views: Mapping[str, str],
        keys: Mapping[str, str],
        as_of: datetime,
        minimum_publication: int | None = None,
    ) -> FeatureVector:
        """The features of some views."""
        vector = self._put.get(_place(keys, as_of))
        if vector is None:
            return self._below.read(views, keys, as_of, minimum_publication)
        names = self._on_demand.union(views)
        chosen = {name: value for name, value in vector.values.items() if name.partition(".")[0] in names}
        return FeatureVector(None, chosen)


class ProbeRequests:
    """Asks one release about honest requests and about those with a probe in them; each once."""

    def __init__(
        self, answering: AnswerFactory, below: EntityReader, texts: Blobs, release: Release, principal: Principal,
        patience: float,
    ) -> None:  # fmt: skip
        self._release = release
        self.application = release.bundle.application
        self._planted = planted(release)
        self._texts = texts
        self._principal = principal
        self._patience = patience
        self._reader = OverlaidReader(below, [view.name for view in self.application.on_demand])
        releases = EvaluatedReleases(release, self._planted)
        # A template that keeps a stranger's text out of the prompt makes most probes the same prompt.
        self._answer = answering(self._reader, releases, True)
        self._answer_anew = answering(self._reader, releases, False)
        self._answered: dict[bytes, SafetyAnswer] = {}
        self._locks: dict[bytes, asyncio.Lock] = {}

    async def ask(self, request: HonestRequest, plant: bool) -> SafetyAnswer:
        """The whole answer to a request, or that of the release with a secret planted."""
        key = canonical([request.example, request.question, request.turns, plant])
        async with self._locks.setdefault(key, asyncio.Lock()):
            if key not in self._answered:
                answer = await self._answered_by(request, self._planted if plant else self._release, self._answer)
                self._answered[key] = await self._shown(answer)
            return self._answered[key]

    async def measured(self, request: HonestRequest) -> tuple[Answer, SafetyAnswer]:
        """The answer to an honest request, generated for itself, so that its time and cost say something."""
        answer = await self._answered_by(request, self._release, self._answer_anew)
        return answer, await self._shown(answer)

    async def _shown(self, answer: Answer) -> SafetyAnswer:
        return SafetyAnswer(
            text=answer.text,
            valid=meets(self.application.schema, await first_attempt(answer, self._texts)),
            prints={feature.name: feature.printed for feature in answer.receipt.features},
            prediction=answer.prediction,
            retrieved=await asyncio.to_thread(self._retrieved, answer),
        )

    def _retrieved(self, answer: Answer) -> tuple[str, ...]:
        """The texts of chunks and of tools' results."""
        scope, blob = answer.receipt.scope, answer.receipt.retrieved_blob
        chunks = of_blob(None if blob is None else self._texts.get(scope, blob))
        results = (self._texts.get(scope, call.result_blob).decode() for call in answer.receipt.tools)
        return (*(str(chunk["text"]) for found in chunks.values() for chunk in found), *results)

    async def _answered_by(self, request: HonestRequest, release: Release, answer: AnswerFunction) -> Answer:
        if request.features is not None:
            self._reader.put(request.entity, request.moment, request.features)
        if request.document:
            self._reader.put_document(request.entity, request.moment, request.document)
        turns = request.turns
        if not self.application.prompt.template.strip():  # a plain model, which is answered from its turns alone
            turns = turns or (Message("user", request.question or HARMLESS_QUESTION["en"]),)
            system = release.bundle.application.prompt.system.strip()
            turns = (Message("system", system), *turns) if system else turns
        return await ask_patiently(
            AnswerRequest(
                scope=release.scope,
                principal=self._principal,
                application=self.application.name,
                entity=request.entity,
                inputs=request.inputs,
                question=None if turns else request.question,
                messages=turns,
                as_of=request.moment,
                minimum_publication=request.publication,
                path="batch",
                release=release.id,
                role="evaluation",
                history=continuing(request.earlier) if request.earlier else None,
                preset=None if request.preset is None else PresetCall(*request.preset),
            ),
            answer,
            self._patience,
        )


def _place(entity: Mapping[str, Any], moment: datetime) -> tuple[bytes, int]:
    return canonical({key: str(value) for key, value in entity.items()}), microseconds(moment)
