"""Predictions and their receipts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec
from starlette.concurrency import run_in_threadpool

from antiphon.catalog.receipts import SEEN_ROLES, STAND_IN_ROLES, Path, Receipt
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.gateway import limits
from antiphon.gateway.admin import shapes
from antiphon.gateway.operation import Operation, OperationCall
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal


class PredictionQuery(msgspec.Struct, frozen=True):
    """Selects receipts; ``all_roles`` also those of shadows and evaluations, which reached no user."""

    application: str | None = None
    all_roles: bool = False
    path: Path | None = None
    before: datetime | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50


def _list(call: OperationCall) -> shapes.PredictionList:
    query: PredictionQuery = call.query
    receipts = call.services.predictions.receipts.list(
        call.scope, query.application, query.path, query.before, query.limit,
        roles=None if query.all_roles else SEEN_ROLES + STAND_IN_ROLES,
    )  # fmt: skip
    return shapes.PredictionList(
        tuple(shapes.prediction_line(receipt, call.services.settings.prices) for receipt in receipts)
    )


def _get(call: OperationCall) -> shapes.PredictionDetail:
    return detail(call.services, call.scope, call.principal, call.path["prediction"])


def _explain(call: OperationCall) -> Mapping[str, Any]:
    records, prediction = call.services.access.records, call.path["prediction"]
    receipt = records.require_prediction(call.scope, call.principal, prediction)
    source_rows = records.may_read_source_rows(call.scope, call.principal, receipt)
    return call.services.predictions.explain(call.scope, prediction, source_rows)


async def _replay(call: OperationCall) -> Mapping[str, Any]:
    services, who, prediction = call.services, call.principal, call.path["prediction"]
    receipt = await run_in_threadpool(services.access.records.require_replay, call.scope, who, prediction)
    if receipt.cache.prediction is not None:
        receipt = await run_in_threadpool(services.predictions.receipts.get, call.scope, receipt.cache.prediction)
    reservation = await limits.reserve_again(services, who, receipt)
    try:
        replayed = await services.predictions.replay(call.scope, prediction)
    except BaseException as error:
        if reservation is not None:
            reservation.failed(error)
        raise
    if reservation is not None:
        reservation.answered(receipt.usage.prompt_tokens, receipt.usage.completion_tokens)
    return replayed


def detail(services: GatewayServices, scope: Scope, who: Principal, prediction: str) -> shapes.PredictionDetail:
    """A receipt with its texts, for somebody who may read them.

    Raises:
        NotFoundError: no such prediction in this scope.
        ForbiddenError: policy keeps it from this principal.
    """
    receipt: Receipt = services.access.records.require_prediction(scope, who, prediction)

    def text(blob: str | None) -> str | None:
        try:
            return services.predictions.texts.get(scope, blob).decode(errors="replace") if blob else None
        except NotFoundError:
            return None

    return shapes.PredictionDetail(
        receipt=receipt,
        text=text(receipt.text_blob),
        question=text(receipt.question_blob),
        entity=text(receipt.entity_blob),
        prompts=tuple(text(attempt.prompt_blob) for attempt in receipt.attempts),
        cost=shapes.cost(receipt, services.settings.prices),
        currency=services.settings.prices.currency,
    )


OPERATIONS = (
    Operation(
        "GET",
        "/admin/predictions",
        "List predictions, newest first.",
        "read",
        shapes.PredictionList,
        _list,
        PredictionQuery,
    ),
    Operation(
        "GET",
        "/admin/predictions/{prediction}",
        "One prediction with its receipt and texts.",
        "read",
        shapes.PredictionDetail,
        _get,
    ),
    Operation(
        "GET",
        "/admin/predictions/{prediction}/explain",
        "Everything a prediction was made from; down to the source rows for those who may read these.",
        "read",
        dict[str, Any],
        _explain,
    ),
    Operation(
        "POST",
        "/admin/predictions/{prediction}/replay",
        "Make the text again and compare; asked, bounded and counted like the answer.",
        "read",
        dict[str, Any],
        _replay,
    ),
)
