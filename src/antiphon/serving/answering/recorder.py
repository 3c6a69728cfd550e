"""Commits an answer in one transaction: texts, receipt, stored answer, a rollout's evidence, and its turn of a
conversation.

Invariant: an :class:`Answer` exists only once its receipt is committed; a client that goes away during the commit
leaves a whole receipt, for a submitted commit is carried out whatever becomes of its caller. The exposure of a user in
a rollout is committed with the receipt of the answer, or by itself when there is none: once either way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.releases.rollouts import Assignment, ShadowPair
from antiphon.catalog.serving.conversations import ConversationTurn
from antiphon.core.telemetry import span
from antiphon.serving.answering import evidence
from antiphon.serving.answering.context import AnswerContext, Arrival
from antiphon.serving.answering.receipts import AnswerDraft, receipt_of, stored_answer
from antiphon.serving.answering.recollection import Recollection
from antiphon.serving.ports import SpendingReservation
from antiphon.serving.request import Answer
from antiphon.serving.services import Services

_log = logging.getLogger(__name__)


class AnswerRecorder:
    """Commits answers, and the evidence of requests without one."""

    def __init__(self, services: Services, recollection: Recollection) -> None:
        self._services = services
        self._recollection = recollection

    async def record(self, context: AnswerContext, draft: AnswerDraft) -> Answer:
        """The answer of a draft, once its receipt is committed."""
        services, request = self._services, context.request
        receipt, texts = receipt_of(context, draft, services.clock.now(), services.checkpoint(request.scope))
        kept = stored_answer(context, draft, receipt)
        replaced = draft.stored.replaced if draft.stored is not None else evidence.uses_template(receipt)
        exposure = evidence.answered(context.arrival, context.assigned, receipt, replaced)
        mirrors = request.mirrors
        pair = None if mirrors is None else evidence.paired(mirrors, context.application, receipt, draft.text)

        turns: tuple[ConversationTurn, ...] = ()
        if context.continues:
            known = context.history.record.turns if context.history.record is not None else 0
            own = self._recollection.turn(context, receipt.prediction, draft.text)
            turns = (*context.history.turns[known:], own)
            conversation = self._recollection.record(context, receipt.created_at)

        def effect(connection: Any) -> None:
            services.receipts.add(receipt, texts, within=connection)
            if context.reservation is not None:
                context.reservation.settle(receipt)
            if kept is not None:
                services.stored.put(kept, within=connection)
            if exposure is not None:
                services.exposures.add(exposure, within=connection)
            if pair is not None:
                services.pairs.add(pair, within=connection)
            if turns:
                services.conversations.append(conversation, turns, within=connection)

        with span("commit"):
            await committed(services.commit, effect, context.reservation)
        services.answered(receipt)
        events = evidence.answered_events(receipt, context.application.slo, replaced)
        services.released(receipt.scope.tenant, receipt.application, receipt.release, events)
        last = draft.generations[-1] if draft.generations else None
        return Answer(
            prediction=receipt.prediction,
            request=receipt.request,
            text=draft.text,
            finish_reason=receipt.finish_reason,
            usage=receipt.usage,
            receipt=receipt,
            publication=receipt.publication,
            # A guard's template replaces the model's text, and so its tokens.
            tokens=last.tokens if last is not None and draft.text == last.finished.text else (),
            prompt=last.prompt if last is not None else (),
        )

    async def record_failure(
        self, arrival: Arrival, assigned: Assignment, publication: int | None, error: Exception
    ) -> None:
        """Commit the exposure of a user who gets no answer. Never raises: the error under way is more important."""
        services = self._services
        if arrival.request.path == "online":
            scope, application = arrival.request.scope, arrival.request.application
            services.released(scope.tenant, application, assigned.release.id, evidence.failed_events(assigned, error))
        exposure = evidence.failed(arrival, assigned, publication, error, services.clock.now())
        if exposure is None:
            return
        try:
            await services.commit.submit(lambda connection: services.exposures.add(exposure, within=connection))
        except Exception:
            _log.exception("the exposure of request %s is not recorded", arrival.request_id)

    async def record_unpaired(self, pair: ShadowPair) -> None:
        """Commit an online answer that the candidate had no answer beside."""
        await self._services.commit.submit(lambda connection: self._services.pairs.add(pair, within=connection))


async def committed(
    commit: GroupCommit, effect: Callable[[Any], None], reservation: SpendingReservation | None
) -> None:
    """Commit an answer, and release what was reserved for it once it is committed."""
    if reservation is None:
        return await commit.submit(effect)
    future = commit.enqueue(effect)
    reservation.committing(future)
    return await asyncio.shield(asyncio.wrap_future(future))
