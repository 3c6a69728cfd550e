"""A request as its receipt records it, to be answered by another release with the features of then; and its prompt.

Invariants: asked of the release that had answered it, within one fingerprint, the text comes out byte for byte. Entity,
question, inputs and moment are the receipt's, values are as contracts had left them, and what was withheld then is
withheld again. A prompt to learn from is the one that was served, byte for byte, or it is left out for a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from antiphon.catalog.features.snapshot_facts import SnapshotFacts
from antiphon.catalog.learning.datasets import PromptPin
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.conversations import Conversations, ConversationTurn
from antiphon.catalog.serving.receipt import STAND_IN_ROLES, FeatureReceipt, Receipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.application import Freshness
from antiphon.features.online.remedies import SubstituteValue
from antiphon.features.values import FeatureValue, FeatureVector
from antiphon.governance.policy.engine import Decision
from antiphon.serving.answerer import Answerer
from antiphon.serving.ports import EntityReader, RemedyFinder
from antiphon.serving.services import Services

_WITHHELD = ("masked", "defaulted")
_SUBSTITUTED = ("previous", "recomputed")


class RecordedRequest(msgspec.Struct, frozen=True):
    """A question to an application, with what was known of its entity.

    Attributes:
        as_of: its moment; ``None`` is when it is asked.
        features: as the receipt has them; those of views that it lacks are read as of the moment.
        publication: the one that they are of.
        originating_user: on whose behalf it was asked, which policies may read.
        turns: the earlier ones of its conversation, as they were shown.
    """

    application: str
    entity: dict[str, str] = {}
    question: str | None = None
    inputs: dict[str, Any] = {}
    as_of: datetime | None = None
    features: tuple[FeatureReceipt, ...] = ()
    publication: int | None = None
    originating_user: str | None = None
    turns: tuple[ConversationTurn, ...] = ()


def recorded_request(receipt: Receipt, texts: Blobs, conversations: Conversations) -> RecordedRequest:
    """The request that a receipt is of; raises ``NotFoundError`` once a text of it is erased, or where the earlier
    turns of its conversation were not kept."""
    inputs = receipt.inputs_blob and texts.get(receipt.scope, receipt.inputs_blob)
    question = receipt.question_blob and texts.get(receipt.scope, receipt.question_blob)
    return RecordedRequest(
        application=receipt.application,
        entity=msgspec.json.decode(texts.get(receipt.scope, receipt.entity_blob), type=dict[str, str]),
        question=question.decode() if isinstance(question, bytes) else None,
        inputs=msgspec.json.decode(inputs) if isinstance(inputs, bytes) else {},
        as_of=receipt.as_of,
        features=receipt.features,
        publication=receipt.publication,
        originating_user=receipt.originating_user,
        turns=_earlier_turns(receipt, conversations),
    )


class LeftOutError(Exception):
    """A prediction that nothing is learned from; its text is the reason."""


@dataclass(frozen=True)
class ServedPrompts:
    """Reads the prompts that predictions of one scope were served with. Its methods raise :class:`LeftOutError` with
    the reason ``receipt-gone``, ``text-erased``, ``other-prompt``, ``other-model``, ``not-text`` or ``stand-in``."""

    scope: Scope
    receipts: Receipts
    texts: Blobs
    releases: Releases

    def receipt(self, prediction: str) -> Receipt:
        """The receipt of a prediction."""
        try:
            return self.receipts.get(self.scope, prediction)
        except NotFoundError:
            raise LeftOutError("receipt-gone") from None

    def first_made(self, receipt: Receipt) -> Receipt:
        """The prediction whose text one that was answered from store has."""
        if receipt.attempts or receipt.cache.prediction is None:
            return receipt
        return self.receipt(receipt.cache.prediction)

    def require_own(self, receipt: Receipt) -> None:
        """Raise where something stood in for the release."""
        if any(one.role in STAND_IN_ROLES for one in (receipt, self.first_made(receipt))):
            raise LeftOutError("stand-in")

    def blob(self, receipt: Receipt, pin: PromptPin) -> str:
        """SHA-256 of the prompt of an answer that its own release made with the pinned prompt, schema and base."""
        made = self.first_made(receipt)
        try:
            bundle = self.releases.get(self.scope, made.release).bundle
        except NotFoundError:  # A draft that was tried and never released.
            raise LeftOutError("other-prompt") from None
        application, tune = bundle.application, bundle.application.fine_tune
        if (application.prompt, application.schema) != (pin.prompt, pin.schema):
            raise LeftOutError("other-prompt")
        base = bundle.model.name if bundle.model.version is None else None if tune is None else tune.base
        if base != pin.base:
            raise LeftOutError("other-model")
        if not made.attempts or made.attempts[-1].prompt_form not in (None, "text"):
            raise LeftOutError("not-text")
        self.require_own(receipt)
        return made.attempts[-1].prompt_blob

    def text(self, blob: str) -> str:
        """A text that a receipt names."""
        try:
            return self.texts.get(self.scope, blob).decode()
        except NotFoundError:
            raise LeftOutError("text-erased") from None


class RecordedFeatures:
    """Implements serving's ``EntityReader`` and its remedies over one recorded request.

    A view in the definition version that the receipt names is read from the receipt, any other from ``below``.
    """

    def __init__(self, request: RecordedRequest, below: EntityReader, remedies: RemedyFinder | None) -> None:
        self._request = request
        self._below = below
        self._remedies = remedies
        self._by_view: dict[str, list[FeatureReceipt]] = {}
        for feature in request.features:
            self._by_view.setdefault(_view(feature.name), []).append(feature)

    def read(
        self,
        views: Mapping[str, str],
        keys: Mapping[str, str],
        as_of: datetime,
        minimum_publication: int | None = None,
    ) -> FeatureVector:
        """The features of some views."""
        others = {view: version for view, version in views.items() if not self._has(view, version)}
        recorded = [feature for view in views if view not in others for feature in self._by_view[view]]
        if not recorded:
            return self._below.read(views, keys, as_of, minimum_publication)
        values = {
            one.name: FeatureValue(one.value, one.event_time, one.definition_version, one.snapshot, one.stream_offset)
            for one in recorded
        }
        facts = {_view(one.name): _facts(one, as_of) for one in recorded if one.source_quality is not None}
        if others:
            read = self._below.read(others, keys, as_of)
            values, facts = values | read.values, facts | read.facts
        return FeatureVector(self._request.publication, values, facts=facts)

    def substitutes(
        self, scope: Scope, view: tuple[str, str], entities: Sequence[Mapping[str, str]], as_of: datetime,
        contract: Freshness, publication: int,
    ) -> Sequence[Mapping[str, SubstituteValue]]:  # fmt: skip
        """The values that stood in for stale ones, and for a view that the receipt lacks those that would now."""
        if not self._has(*view):
            found = self._remedies
            return [{}] * len(entities) if found is None else found(scope, view, entities, as_of, contract, publication)
        stood_in = {
            one.name: SubstituteValue(
                "previous" if one.contract == "previous" else "recomputed", one.value, one.event_time, one.snapshot,
                one.definition_version, one.stream_offset, one.source_quality,
            )
            for one in self._by_view[view[0]]
            if one.contract in _SUBSTITUTED
        }  # fmt: skip
        return [stood_in] * len(entities)

    def withholding(self, decide: Callable[..., Decision]) -> Callable[..., Decision]:
        """A decider that also masks what policy or a contract had withheld from this request."""
        withheld = tuple(one.name for one in self._request.features if one.contract in _WITHHELD)

        def decided(*arguments: Any) -> Decision:
            said = decide(*arguments)
            return msgspec.structs.replace(said, masked=tuple(dict.fromkeys((*said.masked, *withheld))))

        return decided if withheld else decide

    def _has(self, view: str, version: str) -> bool:
        features = self._by_view.get(view)
        return features is not None and all(one.definition_version == version for one in features)


def answerer_of(request: RecordedRequest, services: Services, scope: Scope) -> Answerer:
    """An answerer that reads what the request's receipt recorded; everything else is as the services have it."""
    features = RecordedFeatures(request, services.features(scope), services.remedies)
    return Answerer(
        msgspec.structs.replace(
            services,
            features=lambda _: features,
            remedies=features.substitutes,
            decide=features.withholding(services.decide),
        )
    )


def _earlier_turns(receipt: Receipt, conversations: Conversations) -> tuple[ConversationTurn, ...]:
    said = receipt.conversation
    if said is None or said.turn == 1:
        return ()
    turns = () if said.id is None else conversations.turns(receipt.scope, said.id, said.turn - 1)
    if len(turns) != said.turn - 1:
        raise NotFoundError(
            f"The earlier turns of {receipt.prediction} are not kept.",
            where=str(receipt.scope),
            next_step="Take a request that begins a conversation, or one whose conversation is kept.",
        )
    return tuple(turns)


def _facts(feature: FeatureReceipt, as_of: datetime) -> SnapshotFacts:
    """Of a snapshot's facts contracts ask for the quality of its source alone, which the receipt has."""
    return SnapshotFacts(
        snapshot=feature.snapshot or "", as_of=as_of, created_at=as_of, source="", source_hash="",
        source_quality=feature.source_quality, null_share=None, late_share=None, duplicate_share=None,
        sampling_rate=1.0, rows_in=0, rows_out=0, rows_rejected=0,
    )  # fmt: skip


def _view(feature: str) -> str:
    return feature.partition(".")[0]
