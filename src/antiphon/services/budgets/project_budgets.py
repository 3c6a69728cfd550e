"""Budgets of a tenant as they are set, shown and warned of."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal, TypeVar, get_args

import msgspec

from antiphon.catalog.budgets import Budget, BudgetKind, BudgetPeriod, BudgetShares, LimitAction
from antiphon.catalog.notifications import Notification
from antiphon.core.clock import microseconds
from antiphon.core.errors import ConflictError, ForbiddenError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.core.settings_notifications import Severity
from antiphon.core.suggestions import nearest
from antiphon.governance.identity.principal import Principal, check_name
from antiphon.operations.budgets import terms
from antiphon.operations.budgets.spending import BudgetCharges
from antiphon.operations.cost.amounts import decimal_text
from antiphon.services.batches import askable, embedding_models
from antiphon.services.cost.prices import ProjectPrices
from antiphon.services.project.store import Store

T = TypeVar("T")

BUDGET = "budget"
"""Kind of notifications."""

WARN_SECONDS = 30.0

BudgetStatus = Literal["within", "warned", "batch waits", "used up"]


class BudgetTerms(msgspec.Struct, frozen=True):
    """Terms of a budget; a term that is left out stays, or has its default.

    Attributes:
        limit: in units of the ledger's currency, as a decimal number.
        kind, subject: of what: ``tenant``; ``application`` or ``key`` and its name. The tenant's by default.
        warn, batch: percent of the limit from which on it is warned of, and batch work waits.
    """

    limit: str | None = None
    kind: str | None = None
    subject: str | None = None
    period: str | None = None
    zone: str | None = None
    warn: int | None = None
    batch: int | None = None
    at_limit: str | None = None


class BudgetLine(msgspec.Struct, frozen=True):
    """A budget and how it stands, in micro-units of its currency.

    Attributes:
        spent_micros: as the ledger has it. held_micros: reserved for requests under way, or about to be.
    """

    budget: Budget
    status: BudgetStatus
    spent_micros: int
    held_micros: int
    left_micros: int
    begins: datetime
    renews: datetime


class ProjectBudgets:
    """The budgets of one tenant."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self._scope = scope
        self._shares = BudgetShares(store.database)

    def list(self) -> tuple[BudgetLine, ...]:
        """Every budget, by name."""
        return tuple(self._line(one) for one in self._store.budgets.list(self._scope))

    def get(self, name: str) -> BudgetLine:
        """One budget.

        Raises:
            NotFoundError: none of this name.
        """
        return self._line(self._known(name))

    def set(self, name: str, given: BudgetTerms, *, reason: str, by: Principal, dry_run: bool = False) -> BudgetLine:
        """Set a budget; it is in force within a second, and on record in the audit log. With ``dry_run`` it is only
        told how it would stand.

        Raises:
            ForbiddenError: the tenant's own budget, asked by another tenant than the one that runs the installation.
            InvalidInputError: a term that cannot be. NotFoundError: there is no such application.
            ConflictError: the one of this name is of something else.
        """
        store, scope = self._store, self._scope
        before = store.budgets.find(scope, terms.checked_name(name))
        made = self._merged(name, given, before, reason, by)
        self._require_own(made, by)
        if before is not None and (before.kind, before.subject) != (made.kind, made.subject):
            raise ConflictError(
                f"The budget {name} is of {_subject(before)}.",
                where="budget",
                next_step="Name another one, or remove it first.",
            )
        if not dry_run:
            with store.database.transaction() as connection:
                store.budgets.put(scope, made, within=connection)
                detail = {
                    "of": _subject(made), "limit": decimal_text(made.limit_micros), "period": made.period,
                    "warn": made.warn_percent, "batch": made.batch_percent, "at_limit": made.at_limit,
                    "reason": reason,
                }  # fmt: skip
                store.audit.append(scope, by.id, "budgets.set", name, detail, within=connection)
        return self._line(made)

    def remove(self, name: str, *, reason: str, by: Principal) -> None:
        """Remove a budget; raises ``NotFoundError`` for none, and ``ForbiddenError`` as :meth:`set`."""
        store, scope = self._store, self._scope
        self._require_own(self._known(name), by)
        with store.database.transaction() as connection:
            store.budgets.remove(scope, name, within=connection)
            store.audit.append(scope, by.id, "budgets.remove", name, {"reason": reason}, within=connection)

    def warn(self) -> int:
        """Hand over notifications of budgets that reached a share of their limit, and resolve those that no longer
        have; how many it were."""
        store, now = self._store, self._store.database.clock.now()
        firing = {one.id: one for line in self.list() for one in _warnings(line)}
        active = {one.id: one for one in store.notifications.active(self._scope, BUDGET)}
        said = 0
        for id, warning in firing.items():
            if id not in active:
                said += store.notifications.append(self._scope, warning) is not None
        for id in active.keys() - firing.keys():
            said += store.notifications.resolve(self._scope, id, now) is not None
        return said

    def _known(self, name: str) -> Budget:
        found = {one.name: one for one in self._store.budgets.list(self._scope)}
        if name not in found:
            raise NotFoundError(
                f"There is no budget {name[:80]!r}.",
                where="budget",
                next_step=nearest(name, found, "`antiphon budgets list` shows them."),
            )
        return found[name]

    def _require_own(self, budget: Budget, by: Principal) -> None:
        if budget.kind == "tenant" and by.tenant != self._store.scope.tenant:
            raise ForbiddenError(
                "A tenant's own budget is set by who administers the installation.",
                where="budget",
                next_step="Ask them, or set budgets of applications and keys.",
            )

    def _merged(self, name: str, given: BudgetTerms, before: Budget | None, reason: str, by: Principal) -> Budget:
        store = self._store
        ProjectPrices(store).follow_settings()
        book = ProjectPrices(store).book()
        kind: BudgetKind = _one_of(given.kind, BudgetKind, "kind", before.kind if before else "tenant")
        subject = given.subject if given.subject is not None else before.subject if before else ""
        self._check_subject(kind, subject, known=before is not None)
        if given.limit is not None:
            limit = terms.checked_limit(given.limit)
        elif before is not None:
            limit = before.limit_micros
        else:
            raise terms.refused("A budget has a limit.", "limit", "Name it, such as 250.")
        period: BudgetPeriod = _one_of(given.period, BudgetPeriod, "period", before.period if before else "month")
        action: LimitAction = _one_of(given.at_limit, LimitAction, "at_limit", before.at_limit if before else "refuse")
        warn = given.warn if given.warn is not None else before.warn_percent if before else 80
        batch = given.batch if given.batch is not None else before.batch_percent if before else 100
        return Budget(
            name=name,
            kind=kind,
            subject=subject,
            period=period,
            zone=terms.checked_zone(given.zone or (before.zone if before else "UTC")),
            currency=book.currency or store.settings.prices.currency,
            limit_micros=limit,
            warn_percent=terms.checked_percent(warn, "warn"),
            batch_percent=terms.checked_percent(batch, "batch"),
            at_limit=action,
            principal=by.id,
            reason=reason,
            changed_at=store.database.clock.now(),
        )

    def _check_subject(self, kind: BudgetKind, subject: str, *, known: bool) -> None:
        if kind == "tenant":
            if subject:
                raise terms.refused("A tenant's budget has no subject.", "subject", "Leave it out.")
            return
        if not subject:
            raise terms.refused(f"It is a budget of which {kind}?", kind, f"Name the {kind}.")
        if kind == "key":
            check_name(subject)
            return
        names = {*askable(self._store, self._scope), *embedding_models(self._store)}
        names |= set(self._store.applied.project(self._scope).applications)
        if subject not in names and not known:
            raise NotFoundError(
                f"There is no application or model {subject[:80]!r}.",
                where="application",
                next_step=nearest(subject, names, "`antiphon apply` applies those of definitions.py."),
            )

    def _line(self, budget: Budget) -> BudgetLine:
        database, now = self._store.database, self._store.database.clock.now()
        with database.read() as connection:
            spent = BudgetCharges(database, self._scope, budget).micros(within=connection)
            held = self._shares.held(self._scope, budget.name, within=connection)
        begins, renews = terms.period_of(budget.period, budget.zone, now)
        status: BudgetStatus = "within"
        if spent >= budget.limit_micros:
            status = "used up"
        elif spent >= budget.batch_micros:
            status = "batch waits"
        elif spent * 100 >= budget.limit_micros * budget.warn_percent:
            status = "warned"
        return BudgetLine(budget, status, spent, held, max(0, budget.limit_micros - spent), begins, renews)


def _subject(budget: Budget) -> str:
    return budget.kind if budget.kind == "tenant" else f"the {budget.kind} {budget.subject}"


def _one_of(given: str | None, kind: Any, where: str, otherwise: T) -> T:
    if given is None:
        return otherwise
    known: tuple[T, ...] = get_args(kind)
    found = next((one for one in known if one == given), None)
    if found is None:
        raise terms.refused(f"{given[:80]!r} is no {where}.", where, f"Use {' or '.join(map(str, known))}.")
    return found


def _warnings(line: BudgetLine) -> Iterator[Notification]:
    """The notifications that hold of a budget now: one a share that it has reached."""
    budget, currency = line.budget, line.budget.currency
    reached: list[tuple[int, Severity, str]] = [(budget.warn_percent, "warning", "is warned of")]
    if budget.batch_percent < 100:
        reached.append((budget.batch_percent, "warning", "lets batch work wait"))
    reached.append((100, "critical", "refuses requests" if budget.at_limit == "refuse" else "is exceeded"))
    for percent, severity, does in reached:
        if line.spent_micros * 100 >= budget.limit_micros * percent:
            sum_, limit = decimal_text(line.spent_micros), decimal_text(budget.limit_micros)
            yield Notification(
                id=f"{BUDGET}:{budget.name}:{microseconds(line.begins)}:{microseconds(budget.changed_at)}:{percent}",
                kind=BUDGET,
                severity=severity,
                state="firing",
                title=f"The budget {budget.name} {does}: {percent} % of {limit} {currency} a {budget.period}",
                started_at=budget.changed_at if budget.changed_at > line.begins else line.begins,
                text=f"{sum_} {currency} of {_subject(budget)} are charged since {line.begins:%Y-%m-%d %H:%M}Z. It "
                f"renews {line.renews:%Y-%m-%d %H:%M}Z. `antiphon budgets show {budget.name}`.",
                application=budget.subject if budget.kind == "application" else None,
                labels={"budget": budget.name, "percent": str(percent)},
            )
