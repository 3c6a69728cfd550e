"""What an answer leaves in the catalog, in one transaction: texts, receipt, stored answer, and a rollout's evidence.

Invariant: an :class:`Answer` exists only once its receipt is committed; a client that goes away during the commit
leaves a whole receipt, for what was submitted is committed whatever becomes of its caller. The exposure of a user in a
rollout is committed with the receipt of the answer, or by itself when there is none: once either way.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import msgspec

from antiphon.catalog.answers import StoredAnswer
from antiphon.catalog.receipts import CacheReceipt, Degraded, PassedOver, Receipt, UsageReceipt
from antiphon.catalog.rollouts import Assigned, ShadowPair
from antiphon.core.errors import NotFoundError
from antiphon.core.telemetry import span
from antiphon.serving.answering import evidence, reuse
from antiphon.serving.answering.arrival import Arrival
from antiphon.serving.answering.generation import Asked, Generated, Written
from antiphon.serving.answering.prepared import Prepared
from antiphon.serving.answering.probabilities import class_probabilities
from antiphon.serving.answering.recording import receipt_of, to_store, with_texts
from antiphon.serving.request import Answer
from antiphon.serving.services import Services

_log = logging.getLogger(__name__)


class Wrote(msgspec.Struct, frozen=True):
    """Which engine wrote a text, and which should have before it."""

    engine: str
    passed: tuple[PassedOver, ...] = ()


class StandingIn(msgspec.Struct, frozen=True):
    """Why a stored answer is served although no rule of reuse lets it: nobody answered."""

    degraded: Degraded
    passed: tuple[PassedOver, ...]


class Committer:
    """Commits answers, and what became of requests without one."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def generated(
        self, prepared: Prepared, asked: Asked, written: Written, key: str | None, first_byte: float, wrote: Wrote
    ) -> Answer:
        """A text that was just made; with a ``key`` it may be served again."""
        application = prepared.application
        fingerprints = {attempt.finished.fingerprint for attempt in written.attempts}
        if key is not None and fingerprints != {asked.fingerprint}:
            # The engine was replaced since it was described: another fingerprint may give another text.
            key = reuse.prompt_key(
                msgspec.structs.replace(asked, fingerprint="+".join(sorted(fingerprints))),
                application,
                prepared.reading.prints,
                prepared.prompt_namespace,
            )
        classes = class_probabilities(
            written.attempts[0].finished.text, application.schema or {}, application.classes, written.branches
        )
        receipt = receipt_of(
            prepared, written.usage, CacheReceipt("generated"), written.finish_reason, classes, written.actions,
            written.attempts, first_byte, self._services.clock.now(),
        )  # fmt: skip
        receipt = msgspec.structs.replace(
            receipt,
            engine=wrote.engine,
            fallback=wrote.passed,
            role="fallback" if wrote.passed else receipt.role,
        )
        answer = await self._commit(prepared, receipt, written.text.encode(), written.attempts, key)
        last = written.attempts[-1]
        # Where a fallback stands in for what the model wrote, that is not to be read from its tokens either.
        tokens = last.tokens if written.text == last.finished.text else ()
        return msgspec.structs.replace(answer, tokens=tokens, prompt=last.prompt)

    async def again(
        self, prepared: Prepared, stored: StoredAnswer, origin: Literal["stored", "identical-prompt"], key: str | None,
        standing_in: StandingIn | None = None,
    ) -> Answer | None:  # fmt: skip
        """An answer made earlier, with a receipt of its own; with a ``key``, also kept as its namespace's newest.

        An answer that is only read keeps its age: reading does not make it younger. One whose text was erased is
        no answer any more. One that stands in for what no engine could make says so.
        """
        try:
            content = self._services.texts.get(prepared.request.scope, stored.text_blob)
        except NotFoundError:
            return None
        cache = CacheReceipt(
            origin=origin,
            prediction=stored.prediction,
            origin_path=stored.made_path if origin == "stored" else stored.origin_path,
            saved=stored.usage,
            origin_seconds=stored.seconds,
        )
        receipt = receipt_of(
            prepared, UsageReceipt(), cache, stored.finish_reason, stored.classes, (), (), 0.0,
            self._services.clock.now(),
        )  # fmt: skip
        if standing_in is not None:
            receipt = msgspec.structs.replace(
                receipt, degraded=standing_in.degraded, fallback=standing_in.passed, role="degraded"
            )
        return await self._commit(prepared, receipt, content, (), key, stored)

    async def failed(self, arrival: Arrival, assigned: Assigned, publication: int | None, error: Exception) -> None:
        """The exposure of a user who gets no answer. Never raises: the error that is being raised says more."""
        services = self._services
        exposure = evidence.failed(arrival, assigned, publication, error, services.clock.now())
        if exposure is None:
            return
        try:
            await services.commit.submit(lambda connection: services.exposures.add(exposure, within=connection))
        except Exception:
            _log.exception("the exposure of request %s is not recorded", arrival.request_id)

    async def unpaired(self, pair: ShadowPair) -> None:
        """An online answer that the candidate had no answer beside."""
        await self._services.commit.submit(lambda connection: self._services.pairs.add(pair, within=connection))

    async def _commit(
        self, prepared: Prepared, receipt: Receipt, content: bytes, attempts: tuple[Generated, ...],
        key: str | None, stored: StoredAnswer | None = None,
    ) -> Answer:  # fmt: skip
        services, request = self._services, prepared.request
        receipt = msgspec.structs.replace(receipt, audit_checkpoint=services.checkpoint(request.scope))
        whole, texts = with_texts(receipt, prepared, content, attempts)
        kept = to_store(prepared, whole, key, stored) if key is not None else None
        replaced = stored.replaced if stored is not None else evidence.replaces(whole)
        exposure = evidence.answered(prepared.arrival, prepared.assigned, whole, replaced)
        pair = evidence.paired(request.mirrors, prepared.application, whole) if request.mirrors is not None else None

        def effect(connection: Any) -> None:
            services.receipts.add(whole, texts, within=connection)
            if kept is not None:
                services.stored.put(kept, within=connection)
            if exposure is not None:
                services.exposures.add(exposure, within=connection)
            if pair is not None:
                services.pairs.add(pair, within=connection)

        with span("commit"):
            await services.commit.submit(effect)
        return Answer(
            prediction=whole.prediction,
            request=whole.request,
            text=content.decode(),
            finish_reason=whole.finish_reason,
            usage=whole.usage,
            receipt=whole,
            publication=whole.publication,
        )
