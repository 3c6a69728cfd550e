"""Questions to ask a project while it is broken: those that were asked lately, or ones about entities that there
are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from antiphon.catalog.releases.releases import Release
from antiphon.core.errors import NotFoundError
from antiphon.operations.chaos.experiment import QuestionLoadSpec
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.sampled_keys import sampled_keys
from antiphon.services.project.store import Store
from antiphon.serving.recorded import RecordedRequest, recorded_request

_EACH = 5
"""Requests of each application."""
_SCANNED = 50
_PLAIN_TOKENS = 8
_MADE_UP = {"number": 1, "boolean": False, "text": "none"}


def question_bodies(store: Store, platform: FeaturePlatform, spec: QuestionLoadSpec) -> Sequence[dict[str, Any]]:
    """Bodies of ``/v1/chat/completions``, of each live application in turn; where none is live, of a plain model.

    Raises:
        NotFoundError: there is no application of the name, and no model.
    """
    if spec.application is not None and spec.entity:
        return [_body(spec.application, spec.question, spec.entity, {})]
    live = [
        one for one in store.releases.live_ones(store.scope)
        if spec.application in (None, one.bundle.application.name)
    ]  # fmt: skip
    by_application = [list(_of_release(store, platform, one, spec.question)) for one in live]
    found = [bodies[turn % len(bodies)] for turn in range(_EACH) for bodies in by_application if bodies]
    if found:
        return found
    models = [spec.application] if spec.application is not None else list(store.settings.engine.models)
    if not models:
        raise NotFoundError(
            "Nothing here can be asked.", where="questions", next_step="Apply an application: `antiphon apply`."
        )
    return [{**_body(models[0], spec.question, {}, {}), "max_tokens": _PLAIN_TOKENS}]


def _of_release(store: Store, platform: FeaturePlatform, release: Release, question: str) -> Iterator[dict[str, Any]]:
    application = release.bundle.application
    recent = list(_recent(store, release))
    for one in recent:
        yield _body(application.name, question, one.entity, one.inputs)
    if recent:
        return
    inputs = {
        name: _MADE_UP.get(kind, store.database.clock.now().isoformat())
        for view in application.on_demand
        for name, kind in view.inputs.items()
        if view.defaults is msgspec.UNSET or name not in view.defaults
    }
    for keys in sampled_keys(store, platform.catalog, release, _EACH):
        yield _body(application.name, question, keys, inputs)


def _recent(store: Store, release: Release) -> Iterator[RecordedRequest]:
    """The latest different requests whose texts are still there."""
    application = release.bundle.application
    seen: set[str] = set()
    for receipt in store.receipts.list(release.scope, application.name, path="online", limit=_SCANNED, roles=("live",)):
        if len(seen) == _EACH:
            return
        if receipt.subject in seen:
            continue
        try:
            found = recorded_request(receipt, store.blobs, store.conversations)
        except (NotFoundError, msgspec.DecodeError):
            continue  # erased
        if set(application.entity_keys) <= set(found.entity):
            seen.add(receipt.subject)
            yield found


def _body(application: str, question: str, entity: dict[str, str], inputs: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {"model": application, "messages": [{"role": "user", "content": question}]}
    if entity:
        body["entity"] = entity
    if inputs:
        body["inputs"] = inputs
    return body
