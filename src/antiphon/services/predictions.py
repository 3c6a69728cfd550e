"""Explains and replays predictions, and counts how many were answered from store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.receipt import Attempt, FeatureReceipt, Receipt
from antiphon.catalog.serving.receipts import Receipts, ReuseCount
from antiphon.core.clock import Clock
from antiphon.core.errors import ForbiddenError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.engine.api.port import GenerationEngine
from antiphon.features.offline.lineage import Lineage
from antiphon.operations.cost.receipts import price
from antiphon.services.features.lineage import FeatureLineage
from antiphon.services.project.store import Store
from antiphon.serving.answering.retrieval import of_blob
from antiphon.serving.replay import replay as make_again

MOST_SOURCE_ROWS = 20
"""Source rows shown for each feature; how many there are in all is always said."""


class ProjectPredictions:
    """Explains predictions from the catalog, the lake and the event log, and replays them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def explain(self, scope: Scope, prediction: str, source_rows: bool = True) -> Mapping[str, Any]:
        """Returns everything that one prediction was made from. A text that was erased is ``None`` and nothing else is
        missing.

        Without ``source_rows`` the sources are not read again (a third of a second) and ``lineage`` is ``None``.

        Raises:
            NotFoundError: no such prediction in this scope.
        """
        store = self._store
        receipt = store.receipts.get(scope, prediction)
        origin = self._origin(receipt)
        release = self._release(receipt)
        entity = self._text(scope, receipt.entity_blob)
        keys: dict[str, str] = msgspec.json.decode(entity) if entity else {}
        plain: dict[str, Any] = msgspec.to_builtins(receipt)
        lineage: dict[str, Lineage] = {}
        if source_rows:
            traced = FeatureLineage(store).of_prediction(scope, prediction, limit=MOST_SOURCE_ROWS)
            lineage = {one.feature: one for one in traced}
        return {
            "prediction": receipt.prediction,
            "request": receipt.request,
            "trace": receipt.trace,
            "tenant": scope.tenant,
            "environment": scope.environment,
            "path": receipt.path,
            "role": receipt.role,
            "rollout": receipt.rollout,
            "as_of": plain["as_of"],
            "created_at": plain["created_at"],
            "asked_by": {
                "principal": receipt.principal,
                "originating_user": receipt.originating_user,
                "purpose": receipt.purpose,
                "exposure_unit": receipt.exposure_unit,
                "assignment_probability": receipt.assignment_probability,
            },
            "entity": keys,
            "question": self._text(scope, receipt.question_blob),
            "inputs": self._text(scope, receipt.inputs_blob),
            "hints": self._text(scope, receipt.hints_blob),
            "answer": self._text(scope, receipt.text_blob),
            "finish_reason": receipt.finish_reason,
            "classes": receipt.classes,
            "release": self._release_lines(receipt, release),
            "policy": plain["policy"],
            "publication": receipt.publication,
            "features": [self._feature(scope, feature, receipt, lineage) for feature in receipt.features],
            "retrievals": self._retrievals(scope, receipt),
            "feature_fingerprint": receipt.feature_fingerprint,
            "generations": [self._generation(scope, attempt) for attempt in origin.attempts],
            "tools": [
                {
                    "name": one.name,
                    "arguments": self._text(scope, one.arguments_blob),
                    "result": self._text(scope, one.result_blob),
                    "status": one.status,
                    "seconds": one.seconds,
                }
                for one in origin.tools
            ],
            "decisions": [self._generation(scope, attempt) for attempt in origin.decisions],
            "conversation": self._conversation(scope, receipt),
            "guards": msgspec.to_builtins(origin.guards),
            "cache": plain["cache"],
            "engine": receipt.engine,
            "fallback": plain["fallback"],
            "degraded": plain["degraded"],
            "usage": plain["usage"],
            "timing": plain["timing"],
            "cost": {
                "amount": price(receipt.usage, store.settings.prices, receipt.model),
                "currency": store.settings.prices.currency,
                "saved": price(receipt.cache.saved, store.settings.prices, receipt.model)
                if receipt.cache.saved
                else 0.0,
            },
        }

    async def replay(
        self,
        engine: GenerationEngine,
        scope: Scope,
        prediction: str,
        standbys: Mapping[str, GenerationEngine] | None = None,
    ) -> Mapping[str, Any]:
        """Make a prediction's text again, by the engine that wrote it, and compare.

        Raises:
            NotFoundError: no such prediction, or a text it needs was erased.
            ForbiddenError: another tenant's model wrote it, which is not granted any more.
            UnavailableError: the engine is away.
        """
        receipt, granted = self._store.receipts.get(scope, prediction), self._store.granted
        for model in {attempt.model for attempt in self._origin(receipt).attempts}:
            if granted.is_model(scope, model) and granted.model(scope, model) is None:
                raise ForbiddenError(
                    f"{model} wrote this text, and is not granted any more: it cannot be made again.",
                    where=prediction,
                    next_step=f"What it was made from stays: `antiphon explain {prediction}`.",
                )
        replayed = await make_again(
            receipt,
            engine=engine,
            texts=self._store.blobs,
            receipt_of=self._store.receipts.get,
            release_of=lambda where, _: self._release(receipt, where),
            standbys=standbys,
        )
        plain: dict[str, Any] = msgspec.to_builtins(replayed)
        return plain

    def _origin(self, receipt: Receipt) -> Receipt:
        if receipt.cache.prediction is None:
            return receipt
        return self._store.receipts.get(receipt.scope, receipt.cache.prediction)

    def _release(self, receipt: Receipt, scope: Scope | None = None) -> Release | None:
        try:
            return self._store.releases.get(scope or receipt.scope, self._origin(receipt).release)
        except NotFoundError:
            return None  # a plain model's release is implicit and not kept

    def _release_lines(self, receipt: Receipt, release: Release | None) -> dict[str, Any]:
        if release is None:
            return {"id": receipt.release, "application": receipt.application, "implicit": True}
        if release.id != receipt.release:
            release = self._store.releases.get(receipt.scope, receipt.release)
        application = release.bundle.application
        return {
            "id": release.id,
            "application": receipt.application,
            "number": release.number,
            "content_hash": release.content_hash,
            "author": release.author,
            "rationale": release.rationale,
            "created_at": release.created_at.isoformat(),
            "model": msgspec.to_builtins(release.bundle.model),
            "definition_versions": application.versions,
            "decoding": msgspec.to_builtins(application.decoding),
            "reuse": msgspec.to_builtins(application.reuse),
            "policy_digest": release.bundle.policy_digest,
            "implicit": False,
        }

    def _retrievals(self, scope: Scope, receipt: Receipt) -> list[dict[str, Any]]:
        """Each retrieval with its chunks, and their texts unless they are erased."""
        kept = self._text(scope, receipt.retrieved_blob)
        chunks = of_blob(None if kept is None else kept.encode())
        texts = {chunk["id"]: chunk["text"] for found in chunks.values() for chunk in found}
        found: list[dict[str, Any]] = msgspec.to_builtins(receipt.retrievals)
        for one in found:
            one["passages"] = [{**passage, "text": texts.get(passage["id"])} for passage in one["passages"]]
        return found

    def _feature(
        self, scope: Scope, feature: FeatureReceipt, receipt: Receipt, lineage: Mapping[str, Lineage]
    ) -> dict[str, Any]:
        found = lineage.get(feature.name)
        said: dict[str, Any] = {**msgspec.to_builtins(feature), "snapshot": self._snapshot(scope, feature)}
        if found is not None and found.inputs is not None:
            return {**said, "source": "request", "inputs": msgspec.to_builtins(found.inputs), "lineage": None}
        view_name, _, _ = feature.name.partition(".")
        try:
            said["source"] = self._store.definitions.get(scope, view_name, feature.definition_version).source.name
        except NotFoundError:
            said["source"] = "request"
        if found is None:
            return {**said, "lineage": None}
        return {
            **said,
            "lineage": None if found.trace is None else msgspec.to_builtins(found.trace.placeless()),
            "made_again": "the same" if found.same else found.why or "another value",
        }

    def _generation(self, scope: Scope, attempt: Attempt) -> dict[str, Any]:
        return {
            "prompt": self._text(scope, attempt.prompt_blob),
            "text": self._text(scope, attempt.text_blob),
            "model": attempt.model,
            "fingerprint": attempt.fingerprint,
            "seed": attempt.seed,
            "temperature": attempt.temperature,
            "top_p": attempt.top_p,
            "max_tokens": attempt.max_tokens,
            "stop": list(attempt.stop),
            "json_schema": self._text(scope, attempt.json_schema_blob),
            "token_ids": list(attempt.token_ids),
            "finish_reason": attempt.finish_reason,
            "frequency_penalty": attempt.frequency_penalty,
            "presence_penalty": attempt.presence_penalty,
            "logit_bias": dict(attempt.logit_bias),
            "tools": self._text(scope, attempt.tools_blob),
            "grammar": self._text(scope, attempt.grammar_blob),
            "ignore_end": attempt.ignore_end,
            "parameters": self._text(scope, attempt.parameters_blob),
        }

    def _conversation(self, scope: Scope, receipt: Receipt) -> dict[str, Any] | None:
        own = receipt.conversation
        if own is None:
            return None
        said: dict[str, Any] = msgspec.to_builtins(own)
        del said["summary_blob"]
        return {
            **said,
            "summary": self._text(scope, own.summary_blob),
            "summaries": [self._generation(scope, attempt) for attempt in own.summaries],
        }

    def _snapshot(self, scope: Scope, feature: FeatureReceipt) -> dict[str, Any] | None:
        manifest = self._store.snapshots.find(scope, feature.snapshot)
        if manifest is None:  # Feast's, or one that is gone
            return {"id": feature.snapshot} if feature.snapshot else None
        return {
            "id": manifest.id,
            "as_of": manifest.as_of.isoformat(),
            "logical_hash": manifest.logical_hash,
            "rows_in": manifest.rows_in,
            "rows_out": manifest.rows_out,
            "rows_rejected": manifest.rows_rejected,
        }

    def _text(self, scope: Scope, blob: str | None) -> str | None:
        if not blob:
            return None
        try:
            return self._store.blobs.get(scope, blob).decode(errors="replace")
        except NotFoundError:
            return None


class RecentReuse:
    """Counts how many of the last hour's online answers were reused, at most every quarter of a minute."""

    def __init__(self, receipts: Receipts, clock: Clock) -> None:
        self._receipts = receipts
        self._clock = clock
        self._counted: dict[Scope, tuple[float, Sequence[ReuseCount]]] = {}

    def of(self, scope: Scope) -> Sequence[ReuseCount]:
        now = self._clock.monotonic()
        known = self._counted.get(scope)
        if known is None or now - known[0] > 15.0:
            since = self._clock.now() - timedelta(hours=1)
            known = self._counted[scope] = (now, self._receipts.reuse(scope, since))
        return known[1]
