"""The budgets of a process's answers: reserve the worst case before each generation, charge with the receipt.

Invariants:
- A request is dispatched only once its worst case is reserved of every budget that concerns it, all of them or none.
- What an answer is charged lessens the share in the transaction of its receipt and ledger rows; the rest of the
  reservation is free again once that transaction has ended, and all of it where there is no receipt.

A request waits for others' reservations to settle while it would fit without them, and is refused where it would not.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import datetime
from math import ceil, inf
from typing import Any

from sqlalchemy.engine import Connection

from antiphon.catalog.budgets import Budget, Budgets, BudgetShares
from antiphon.catalog.database import Database
from antiphon.catalog.serving.receipt import Receipt
from antiphon.core.errors import AntiphonError, BudgetExhaustedError
from antiphon.core.leases import Leases, Renewer
from antiphon.core.scope import Scope
from antiphon.engine.api.messages import GenerationRequest, TextEmbeddingRequest
from antiphon.operations.budgets.amounts import amount_of, worst_case
from antiphon.operations.budgets.spending import KnownPrices
from antiphon.operations.budgets.terms import period_of
from antiphon.operations.cost.amounts import decimal_text
from antiphon.operations.cost.metering import usages_of
from antiphon.operations.cost.price_book import hour_of
from antiphon.services.budgets.account import BudgetAccount, DrawRefusal
from antiphon.serving.request import AnswerRequest

BELIEVED_SECONDS = 1.0
"""Time after which a budget that is set or removed elsewhere counts here."""

KEEP_SECONDS = 0.25
_TURN_TOKENS = 16
"""Tokens that a template adds to a turn or a prompt at most."""

_log = logging.getLogger("antiphon.budgets")


class BudgetGate:
    """Reserves of the budgets of one environment. Safe to share between threads.

    Args:
        token_seconds: engine time that a token takes at most. gpus: of an engine that does not say how many it has.
        patience: seconds that an online request waits for others to settle.
    """

    def __init__(
        self, database: Database, *, token_seconds: float, patience: float, gpus: int = 0,
        renewer: Renewer | None = None,
    ) -> None:  # fmt: skip
        self.patience = patience
        self.token_seconds = token_seconds
        self.gpus = gpus
        self._database = database
        self._budgets, self._shares = Budgets(database), BudgetShares(database)
        self._declared: Leases[Scope, tuple[Budget, ...]] = Leases(
            database.clock, seconds=BELIEVED_SECONDS, bound=inf, most=10_000, renewer=renewer
        )
        self._accounts: dict[tuple[Scope, str], BudgetAccount] = {}
        self._retired: list[BudgetAccount] = []
        self._prices: dict[str, KnownPrices] = {}
        self._lock = threading.Lock()
        self._keeper: threading.Thread | None = None
        self._closed = threading.Event()

    def open(self, request: AnswerRequest) -> BudgetReservation | None:
        """The reservation of a request; ``None`` where no budget concerns it.

        Raises:
            BudgetExhaustedError: a budget of zero refuses everything.
            UnavailableError: the catalog is away, and was when the budgets were to be read first.
        """
        scope = request.scope
        declared = self._declared.look(scope, lambda: tuple(self._budgets.list(scope)))
        if not declared:
            return None
        application, principal = request.application, request.principal.id
        concerned = [one for one in declared if one.at_limit == "refuse" and one.concerns(application, principal)]
        for budget in concerned:
            if not budget.limit_micros:
                raise exhausted(DrawRefusal(budget, 0, 0, 0, 0, False), self._database.clock.now())
        if not concerned:
            return None
        batch = request.path == "batch" or request.tier == "flex"
        return BudgetReservation(self, scope, concerned, batch=batch, waits=request.path == "online")

    def account(self, scope: Scope, budget: Budget) -> BudgetAccount:
        """The share of a budget in this process."""
        key = scope, budget.name
        found = self._accounts.get(key)
        if found is not None and not found.retired and found.budget == budget:
            return found
        with self._lock:
            found = self._accounts.get(key)
            if found is None or found.retired or found.budget != budget:
                if found is not None:
                    found.retire()
                    self._retired.append(found)
                found = self._accounts[key] = BudgetAccount(self._database, scope, budget, self.prices(scope))
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="budgets", daemon=True)
                self._keeper.start()
            return found

    def prices(self, scope: Scope) -> KnownPrices:
        """The prices of a scope's environment as they were read last."""
        found = self._prices.get(scope.environment)
        if found is None:
            found = self._prices.setdefault(scope.environment, KnownPrices(self._database, scope.environment))
        return found

    def charge(self, items: Sequence[tuple[BudgetReservation, Receipt]], within: Connection) -> None:
        """Charge receipts to the shares that they were reserved of, right before the commit of both."""
        now = hour_of(self._database.clock.now())
        sums: dict[BudgetAccount, int] = {}
        for reservation, receipt in items:
            for account, amount in reservation.charged(receipt, now):
                sums[account] = sums.get(account, 0) + amount
        lessened = [(amount, one.scope, one.budget.name, one.holder) for one, amount in sums.items() if amount]
        if lessened:
            self._shares.charge(lessened, within=within)

    def settle(self, reservation: BudgetReservation, receipt: Receipt) -> None:
        """Charge a receipt with the write transaction that is open in this thread."""
        self._database.gather(self.charge, (reservation, receipt))

    def now(self) -> datetime:
        """The catalog's time."""
        return self._database.clock.now()

    def close(self) -> None:
        """Give every share back; answers that are under way must have ended."""
        self._closed.set()
        if self._keeper is not None:
            self._keeper.join()
        with self._lock:
            accounts = [*self._accounts.values(), *self._retired]
            self._accounts, self._retired = {}, []
        for account in accounts:
            try:
                account.close()
            except AntiphonError as error:  # They end by themselves.
                _log.warning("A share of the budget %s ends later: %s", account.budget.name, error)

    def _keep(self) -> None:
        while not self._closed.wait(KEEP_SECONDS):
            with self._lock:
                accounts = [*self._accounts.values(), *self._retired]
            ended = []
            for account in accounts:
                try:
                    if not account.keep():
                        ended.append(account)
                except AntiphonError as error:
                    _log.warning("The share of the budget %s is not renewed: %s", account.budget.name, error)
                except Exception:
                    _log.exception("The share of the budget %s is not renewed", account.budget.name)
            if ended:
                with self._lock:
                    self._retired = [one for one in self._retired if one not in ended]


class BudgetReservation:
    """The reservations of one request."""

    def __init__(self, gate: BudgetGate, scope: Scope, budgets: Sequence[Budget], *, batch: bool, waits: bool) -> None:
        self._gate = gate
        self._scope = scope
        self._budgets = budgets
        self._batch = batch
        self._waits = waits
        self._committing = False
        self._taken: list[tuple[BudgetAccount, int]] = []
        self._lock = threading.Lock()

    async def reserve(self, request: GenerationRequest | TextEmbeddingRequest, gpus: int | None = None) -> None:
        """Reserve the worst case of a request to an engine with so many GPUs, by what it says of itself.

        Raises:
            BudgetExhaustedError: a budget has no room for it. UnavailableError: the catalog is away.
        """
        prompt, completion = most_tokens(request)
        gate, book = self._gate, self._gate.prices(self._scope).book
        if not book.records:  # None of its shares was drawn yet.
            await asyncio.to_thread(gate.account(self._scope, self._budgets[0]).spending.micros)
            book = gate.prices(self._scope).book
        hour = hour_of(gate.now())
        need = worst_case(
            prompt, completion, request.model, book, hour, gate.token_seconds, gate.gpus if gpus is None else gpus
        )
        taken: list[BudgetAccount] = []
        try:
            for budget in self._budgets:
                taken.append(await self._taken_of(budget, need))
        except BaseException:
            for account in taken:
                account.release(need)
            raise
        with self._lock:
            self._taken += [(account, need) for account in taken]

    async def _taken_of(self, budget: Budget, need: int) -> BudgetAccount:
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + (self._gate.patience if self._waits else 0.0), 0.01
        while True:
            account = self._gate.account(self._scope, budget)
            if account.take(need, batch=self._batch):
                return account
            refusal = await self._drawn(account, need)
            if refusal is None:
                return account
            if not refusal.settles or loop.time() >= until:
                raise exhausted(refusal, self._gate.now(), batch=self._batch)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.1)

    async def _drawn(self, account: BudgetAccount, need: int) -> DrawRefusal | None:
        drawing = asyncio.ensure_future(asyncio.to_thread(account.draw, need, batch=self._batch))
        try:
            return await asyncio.shield(drawing)
        except asyncio.CancelledError:
            # The thread goes on, and what it reserves is for nobody.
            drawing.add_done_callback(
                lambda done: account.release(need) if done.exception() is None and done.result() is None else None
            )
            raise

    def settle(self, receipt: Receipt) -> None:
        """Charge the answer instead, with the write transaction that is open in this thread."""
        self._gate.settle(self, receipt)

    def charged(self, receipt: Receipt, hour: datetime) -> list[tuple[BudgetAccount, int]]:
        """Turn what is reserved into what a receipt is charged: of the shares whose rows are lessened with it."""
        with self._lock:
            taken, self._taken = self._taken, []
        reserved: dict[BudgetAccount, int] = {}
        for account, need in taken:
            reserved[account] = reserved.get(account, 0) + need
        if not reserved:
            return []
        book = self._gate.prices(self._scope).book
        amount = sum(amount_of(((use.resource, use.quantity),), use.model, book, hour) for use in usages_of(receipt))
        return [(account, amount) for account, whole in reserved.items() if account.charged(whole, amount)]

    def committing(self, committed: Future[Any]) -> None:
        """Release the reservation once this commit has ended, however it does."""
        self._committing = True
        committed.add_done_callback(lambda _: self._release())

    def end(self) -> None:
        """Release what is reserved, unless the answer is being committed: a caller may leave meanwhile."""
        if not self._committing:
            self._release()

    def _release(self) -> None:
        with self._lock:
            taken, self._taken = self._taken, []
        for account, need in taken:
            account.release(need)


def most_tokens(request: GenerationRequest | TextEmbeddingRequest) -> tuple[int, int]:
    """Tokens of prompt and completion at most: no token is less than a byte of its text."""
    if isinstance(request, TextEmbeddingRequest):
        return sum(len(text.encode()) + _TURN_TOKENS for text in request.texts), 0
    if request.prompt_ids:
        return len(request.prompt_ids), request.max_tokens
    prompt = len(request.prompt.encode()) + _TURN_TOKENS
    for turn in request.messages:
        called = sum(len(call.name.encode()) + len(call.arguments.encode()) + _TURN_TOKENS for call in turn.tool_calls)
        prompt += len(turn.content.encode()) + called + _TURN_TOKENS
    if request.messages:
        prompt += len((request.tools or "").encode())
    return prompt, request.max_tokens


def exhausted(refusal: DrawRefusal, now: datetime, *, batch: bool = False) -> BudgetExhaustedError:
    """The error of a request that a budget has no room for: what is left, when it renews, what to do."""
    budget = refusal.budget
    _, renews = period_of(budget.period, budget.zone, now)
    subject = {"tenant": "the tenant", "application": budget.subject, "key": f"the keys of {budget.subject}"}
    limit = f"{decimal_text(budget.limit_micros)} {budget.currency} a {budget.period}"
    named = f"The budget {budget.name} of {subject[budget.kind]} ({limit})"
    left = f"{decimal_text(max(0, refusal.limit - refusal.spent))} {budget.currency} left"
    most = f"this request may cost {decimal_text(refusal.need)}"
    if not budget.limit_micros:
        what, retry = f"{named} is zero: it lets nothing in.", inf
    elif refusal.settles:
        what, retry = f"{named} has {left}, reserved for answers under way; {most}.", 1.0
    else:
        share = (
            f" for batch work, which ends at {budget.batch_percent} %" if batch and budget.batch_percent < 100 else ""
        )
        what = f"{named} has {left}{share}; {most}. It renews {renews:%Y-%m-%d %H:%M}Z."
        retry = float(ceil((renews - now).total_seconds()))
    step = f"have it raised (`antiphon budgets set {budget.name} --limit AMOUNT --reason TEXT`)"
    return BudgetExhaustedError(
        what,
        retry_after=retry,
        where=f"budget {budget.name}",
        next_step=f"{step[0].upper()}{step[1:]}."
        if not budget.limit_micros
        else f"Wait, ask for fewer tokens, or {step}.",
    )
