"""Budgets: limits of what may be charged in a day or a month."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from antiphon.gateway.admin.shapes import Reason, ReasonRequest
from antiphon.gateway.operation import OperationCall, operation
from antiphon.services.budgets.project_budgets import BudgetLine, BudgetTerms

Percent = Annotated[int, msgspec.Meta(ge=1, le=100)]


class BudgetOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Terms of a budget; what is left out stays, or has its default.

    Attributes:
        limit: in units of the ledger's currency, as a decimal number: ``"250"``.
        kind, subject: of what it is: ``tenant``, or ``application`` or ``key`` and its name.
        warn, batch: percent of the limit from which on it is warned of, and batch work waits.
        dry_run: only tell how it would stand.
    """

    reason: Reason
    limit: Annotated[str, msgspec.Meta(max_length=40)] | None = None
    kind: Literal["tenant", "application", "key"] | None = None
    subject: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    period: Literal["day", "month"] | None = None
    zone: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    warn: Percent | None = None
    batch: Percent | None = None
    at_limit: Literal["refuse", "warn"] | None = None
    dry_run: bool = False


class BudgetList(msgspec.Struct, frozen=True):
    """By name."""

    budgets: tuple[BudgetLine, ...]


class RemovedBudget(msgspec.Struct, frozen=True):
    """The name of a budget that is no more."""

    removed: str


@operation("GET", "/admin/budgets", "List budgets, with what is spent and left of each.", "read")
def _list(call: OperationCall) -> BudgetList:
    return BudgetList(call.services.work.budgets(call.scope).list())


@operation("GET", "/admin/budgets/{budget}", "One budget, with what is spent and left of it.", "read")
def _get(call: OperationCall) -> BudgetLine:
    return call.services.work.budgets(call.scope).get(call.path["budget"])


@operation("POST", "/admin/budgets/{budget}", "Set a budget of the tenant, an application or a key.", "administer")
def _set(call: OperationCall, body: BudgetOrder) -> BudgetLine:
    named = {name: getattr(body, name) for name in BudgetTerms.__struct_fields__}
    budgets = call.services.work.budgets(call.scope)
    return budgets.set(
        call.path["budget"], BudgetTerms(**named), reason=body.reason, by=call.principal, dry_run=body.dry_run
    )


@operation("POST", "/admin/budgets/{budget}/remove", "Remove a budget.", "administer")
def _remove(call: OperationCall, body: ReasonRequest) -> RemovedBudget:
    call.services.work.budgets(call.scope).remove(call.path["budget"], reason=body.reason, by=call.principal)
    return RemovedBudget(call.path["budget"])
