"""A project with prices and budgets over a scripted engine that takes its time, for crowds in several processes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import msgspec
from tests.integration.serving.test_wired import PLAIN, Project

from antiphon.catalog.budgets import Budget, BudgetShares
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.releases.rollouts import Rollouts
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.errors import BudgetExhaustedError
from antiphon.definitions.application import Decoding, Reuse
from antiphon.engine.api.messages import Delta, GenerationRequest, GenerationResult
from antiphon.operations.budgets.spending import BudgetCharges
from antiphon.operations.cost.metering import usages_of
from antiphon.services.cost.costs import ProjectCosts
from antiphon.services.cost.prices import ProjectPrices
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

TOKEN_MICROS = 10
WORDS = 12
DESK = msgspec.structs.replace(
    PLAIN, decoding=Decoding(max_tokens=32), reuse=Reuse(mode="never", identical_prompts=False)
)
WORST = DESK.decoding.max_tokens * TOKEN_MICROS + 1
"""Micro-units that are reserved for an answer; it is charged ``WORDS`` times :data:`TOKEN_MICROS`."""

_SETTINGS = """[project]
name = "desk"
environment = "test"

[encryption]
mode = "plaintext"

[gateway]
max_in_flight = 2000

[prices]
engine_second = 0.0
completion_token = 0.00001
currency = "EUR"
"""


class SlowEngine(ScriptedEngine):
    """Answers after ``seconds``, so that many reservations are open at once."""

    def __init__(self, seconds: float) -> None:
        super().__init__(lambda request: ScriptedGeneration(" ".join(["word"] * WORDS)))
        self._seconds = seconds

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        if self._seconds:
            await asyncio.sleep(self._seconds)
        async for event in super().generate(request):
            yield event


class BudgetProject(Project):
    """A project's stores in a folder; the first to open it makes the release.

    Args:
        url: of a catalog that is not in the folder.
        seconds: that an answer takes.
    """

    def __init__(self, root: Path, *, url: str | None = None, seconds: float = 0.0) -> None:
        file = root / "antiphon.toml"
        if not file.exists():
            file.write_text(_SETTINGS + (f'\n[catalog]\nurl = "{url}"\n' if url else ""))
        self.store = Store.open(root)
        self.engine = SlowEngine(seconds)
        self.commit = GroupCommit(self.store.database)
        self.rollouts = Rollouts(self.store.database)
        self.features = FeaturePlatform(self.store)
        self.answerer = self.wired()
        if self.store.releases.live(self.store.scope, "desk") is None:
            ProjectPrices(self.store).follow_settings()
            self.release(DESK, live=True)

    def declare(self, limit: int, **fields: object) -> Budget:
        """Set a budget, of the tenant and a month by default."""
        terms = {
            "name": "all", "kind": "tenant", "subject": "", "period": "month", "zone": "UTC", "currency": "EUR",
            "limit_micros": limit, "warn_percent": 80, "batch_percent": 100, "at_limit": "refuse", "principal": "ann",
            "reason": "a test", "changed_at": self.store.database.clock.now(),
        }  # fmt: skip
        budget = msgspec.convert({**terms, **fields}, Budget)
        with self.store.database.transaction() as connection:
            self.store.budgets.put(self.store.scope, budget, within=connection)
        self.store.budget_gate._declared.forget()
        return budget

    def spent(self, budget: Budget) -> int:
        """Micro-units that the ledger has charged to a budget."""
        return BudgetCharges(self.store.database, self.store.scope, budget).micros()

    def held(self, budget: Budget) -> int:
        """Micro-units that processes hold of it."""
        return BudgetShares(self.store.database).held(self.store.scope, budget.name)

    def charged(self) -> int:
        """Micro-units of the receipts, counted one by one."""
        made = Receipts(self.store.database).list(self.store.scope, limit=1_000_000)
        tokens = sum(use.quantity for one in made for use in usages_of(one) if use.resource == "completion_token")
        return tokens * TOKEN_MICROS

    def ledger(self) -> int:
        """Micro-units of the ledger's charges, as the page Cost sums them."""
        now = self.store.database.clock.now()
        charges = ProjectCosts(self.store, self.store.scope).charges(now - timedelta(days=1))
        return sum(one.micros for one in charges if one.kind != "saved")

    async def crowd(self, requests: int) -> Counter[str]:
        """So many requests at once: how many were answered, and how many refused with which code."""

        async def one(number: int) -> str:
            try:
                await self.answerer.answer(self.request(originating_user=f"user-{number}"))
            except BudgetExhaustedError as error:
                return error.code
            return "answered"

        return Counter(await asyncio.gather(*(one(number) for number in range(requests))))
