"""Safety of a project's releases: its probes, honest requests for them to ride on, and what a model remembers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from antiphon.catalog.learning.evaluations import SuiteSummary
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.receipt import Receipt
from antiphon.core.errors import (
    AntiphonError,
    FeatureUnavailableError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from antiphon.core.scope import Scope
from antiphon.definitions.learning import SAMPLED
from antiphon.definitions.template import template_reads
from antiphon.engine.api.port import Engine
from antiphon.features.values import FeatureVector
from antiphon.governance.identity.principal import Principal
from antiphon.learning.evaluation.safety import exposure
from antiphon.learning.evaluation.safety.honest import LiveAnswer, acted
from antiphon.learning.evaluation.safety.placement import HARMLESS_QUESTION, HonestRequest
from antiphon.learning.evaluation.safety.probes import FOLDER, SafetyProbe, project_probes, shipped
from antiphon.services.answering import is_plain
from antiphon.services.project.store import Store
from antiphon.serving.builtin import implicit_release
from antiphon.serving.ports import EntityReader
from antiphon.serving.recorded import RecordedRequest, recorded_request
from antiphon.serving.request import AnswerRequest, Message

REQUESTS = 4
"""Honest requests, as of an evaluation on a dataset."""
SCANNED = 4
"""Receipts that are looked through for each request."""


def probes_of(store: Store) -> tuple[SafetyProbe, ...]:
    """The package's probes and the project's own; raises ``InvalidInputError`` for a file with mistakes."""
    return (*shipped(), *project_probes(store.paths.root / FOLDER))


def honest_requests(
    store: Store,
    release: Release,
    reader: EntityReader,
    entity: Mapping[str, str] | None = None,
    question: str | None = None,
) -> tuple[HonestRequest, ...]:
    """Requests like those that the application gets: the one that is given, else of its latest predictions, else one
    that is made up where it is about no entity.

    Raises:
        InvalidInputError: it is about an entity, none is given, and it has not answered anything yet.
    """
    application, honest = release.bundle.application, _HonestRequests(store, release, reader)
    made_up = RecordedRequest(application.name, dict(entity or {}), question, honest.made_up())
    if entity:
        missing = [key for key in application.entity_keys if key not in entity]
        if missing:
            raise InvalidInputError(
                f"The entity has no {', '.join(missing)}.", where="--entity", next_step="Name every key."
            )
        found_requests = [made_up]
    else:
        found_requests = _recent_requests(store, release) or ([] if application.entity_keys else [made_up])
    if not found_requests:
        raise InvalidInputError(
            f"The application {application.name} is about an entity, and nothing was asked of it yet.",
            where=release.id,
            next_step="Name one that has features: `antiphon evaluations safety RELEASE --entity KEY=VALUE`.",
        )
    return tuple(honest.of(number, one, question or one.question) for number, one in enumerate(found_requests))


def sampled_requests(
    store: Store, release: Release, reader: EntityReader, entities: Sequence[Mapping[str, str]], live: Release | None
) -> tuple[tuple[HonestRequest, ...], dict[str, LiveAnswer]]:
    """Requests that a release is checked with before it goes live, and what the live release answered to them by the
    request's example: the latest ones of its application from before it was made, so that they are the same whenever
    it is checked, or where there are none made-up ones about these entities."""
    application, honest = release.bundle.application, _HonestRequests(store, release, reader)
    asks = "question" in template_reads(application.prompt.template).names
    question = HARMLESS_QUESTION["en"] if asks else None
    requests: list[HonestRequest] = []
    before: dict[str, LiveAnswer] = {}
    seen: set[tuple[str, str | None, str | None, str | None]] = set()
    first: dict[str, str] = {}
    size = application.gates.sampled or SAMPLED
    for receipt in _earlier_receipts(store, release, live, SCANNED * size):
        if len(requests) == size:
            break
        previous = None if receipt.conversation is None else receipt.conversation.previous
        one = (receipt.subject, receipt.question_blob, receipt.inputs_blob, previous)
        if one in seen or (found := _of_receipt(store, receipt)) is None:
            continue
        if set(application.entity_keys) <= set(found.entity):
            seen.add(one)
            number = len(requests)
            user = first.setdefault(receipt.user, f"honest-{number}") if receipt.user else ""
            requests.append(honest.of(number, found, found.question or question, user))
            shown = _text(store, receipt, receipt.text_blob)
            if shown is not None and live is not None and receipt.release == live.id:
                before[requests[-1].example] = LiveAnswer(len(shown.decode()), acted(receipt))
    if not requests:
        made_up = [RecordedRequest(application.name, dict(keys), inputs=honest.made_up()) for keys in entities]
        requests = [honest.of(number, one, question) for number, one in enumerate(made_up)]
    return tuple(requests), before


def _earlier_receipts(store: Store, release: Release, live: Release | None, most: int) -> Sequence[Receipt]:
    """The latest answers from before a release was made, the live one's first; the latest where there are none."""
    found = partial(store.receipts.list, release.scope, release.bundle.application.name, limit=most, roles=("live",))
    of_live = [] if live is None else found(before=release.created_at, releases=(live.id,))
    others = [] if len(of_live) == most else found(before=release.created_at)
    known = {receipt.prediction for receipt in of_live}
    return [*of_live, *(one for one in others if one.prediction not in known)] or found()


class _HonestRequests:
    """Makes honest requests to a release, all at one moment and from one publication."""

    def __init__(self, store: Store, release: Release, reader: EntityReader) -> None:
        self._application, self._reader = release.bundle.application, reader
        self._now = store.database.clock.now()
        # A reader learns of a publication a moment after the catalog: what is served is waited for.
        current = store.publications.current(release.scope)
        self._publication = None if current is None else current.number

    def of(self, number: int, request: RecordedRequest, question: str | None, user: str = "") -> HonestRequest:
        """A request as an honest one, as of now; ``user`` is the first example of the user who asked it."""
        return HonestRequest(
            example=f"honest-{number}",
            entity=request.entity,
            moment=self._now,
            features=self._features(request.entity) if self._application.features else None,
            question=question,
            inputs=request.inputs,
            earlier=request.turns if self._application.conversation else (),
            publication=self._publication,
            user=user,
        )

    def made_up(self) -> dict[str, Any]:
        """Inputs of on-demand features that have no default."""
        values = {"number": 1, "boolean": False, "text": "none", "instant": self._now.isoformat()}
        found: dict[str, Any] = {}
        for view in self._application.on_demand:
            defaults = {} if view.defaults is msgspec.UNSET else view.defaults
            found |= {name: values[kind] for name, kind in view.inputs.items() if name not in defaults}
        return found

    def _features(self, keys: Mapping[str, str]) -> FeatureVector | None:
        try:
            return self._reader.read(self._application.features, keys, self._now, self._publication)
        except FeatureUnavailableError:
            return None  # as the honest request will find
        except AntiphonError as error:
            if error.transient:
                raise
            return None


async def plain_release(store: Store, engine: Engine, scope: Scope, name: str) -> Release:
    """The implicit release of a plain model; raises ``NotFoundError`` when the engine serves none of this name."""
    model = next((one for one in (await engine.describe()).models if one.name == name), None)
    if model is None or not is_plain(name, store.settings.engine.models):
        raise NotFoundError(
            f"There is no release and no plain model named {name!r}.",
            where=str(scope),
            next_step="See `antiphon releases list`; the id of a release begins with rel_.",
        )
    asker = Principal("evaluation", scope.tenant, "service", clearance="restricted")
    request = AnswerRequest(scope, asker, name, messages=(Message("user", "."),))
    return implicit_release(request, model, store.database.clock.now(), store.settings.engine.fallback)


async def memorization_of(store: Store, engine: Engine, release: Release) -> SuiteSummary:
    """Measures what a release's model remembers of the canaries that were planted when it was trained.

    Raises:
        UnavailableError: the engine cannot be reached, or does not serve it.
        InvalidInputError: the engine does not report the log-probabilities of a prompt.
    """
    version = release.bundle.model.version
    trained = None if version is None else store.models.get(release.scope, version)
    if trained is None or trained.canaries is None:
        return SuiteSummary(exposure.SUITE, note="No canaries were planted among its training examples.")
    name = release.bundle.model.served_name(release.scope.tenant)
    described = next((model for model in (await engine.describe()).models if model.name == name), None)
    if described is None:
        raise UnavailableError(f"The engine does not serve {name}.", where="engine", next_step="Try again in a moment.")
    results = await exposure.measure(engine, described, trained.canaries, release.scope.tenant)
    return exposure.memorization(results, trained.canaries)


def _recent_requests(store: Store, release: Release) -> list[RecordedRequest]:
    """Different subjects of the latest predictions whose texts are still there."""
    found: dict[str, RecordedRequest] = {}
    application = release.bundle.application
    for receipt in store.receipts.list(release.scope, application.name, limit=SCANNED * SAMPLED, roles=("live",)):
        if len(found) == REQUESTS:
            break
        one = _of_receipt(store, receipt)
        if one is not None and set(application.entity_keys) <= set(one.entity):
            found.setdefault(receipt.subject, msgspec.structs.replace(one, turns=()))
    return list(found.values())


def _text(store: Store, receipt: Receipt, blob: str) -> bytes | None:
    try:
        return store.blobs.get(receipt.scope, blob)
    except NotFoundError:
        return None  # erased


def _of_receipt(store: Store, receipt: Receipt) -> RecordedRequest | None:
    try:
        return recorded_request(receipt, store.blobs, store.conversations)
    except (NotFoundError, msgspec.DecodeError):
        return None  # erased
