"""Trials, regression runs and searches for prompts as durable runs of the worker: for those who do not wait.

Invariant: a run that is done again makes nothing twice: what it records has an id of the run's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import msgspec

from antiphon.catalog.learning.regressions import Split
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.durable.context import RunContext
from antiphon.durable.executor import WorkflowRegistry
from antiphon.durable.run import Run
from antiphon.governance.identity.principal import Principal
from antiphon.learning.evaluation.asking import Progress
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.learning.workbench.asking import ServicesOf
from antiphon.learning.workbench.optimizer import WORKFLOW as OPTIMIZE
from antiphon.learning.workbench.optimizer import OptimizedPrompt, require_cases, require_gepa
from antiphon.learning.workbench.regressions import WORKFLOW as REGRESSIONS
from antiphon.learning.workbench.trials import WORKFLOW as TRY
from antiphon.learning.workbench.trials import SampleQuery
from antiphon.services.learning.drafts import draft_of
from antiphon.services.learning.prompt_trials import (
    Serve,
    prompt_optimizer,
    reflecting,
    regression_runner,
    trial_runner,
)
from antiphon.services.learning.workbench import Workbench
from antiphon.services.project.store import Store
from antiphon.services.workflows import POLICIES

MOST_REQUESTS = 1_000
_SEARCH = "optimize_"


class TrialOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A trial of a release, by default the live one, with another template or system text."""

    application: str
    release: str | None = None
    template: str | None = None
    system: str | None = None
    sample: SampleQuery = SampleQuery()


class RegressionOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run of a release on a regression set's newest version, or on one split of it."""

    release: str
    split: Split | None = None


class OptimizationOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A search for a better system text of a release, by default the live one.

    Attributes:
        set: a regression set with cases in both splits; ``version`` of it, the newest by default.
        by: the plain model that proposes texts.
        budget: requests to the application, about. seed: of the search.
    """

    set: str
    by: str
    budget: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    seed: int = 0
    release: str | None = None
    version: int | None = None


class Optimization(msgspec.Struct, frozen=True):
    """A search that was ordered: its run, and what it found once that has succeeded."""

    run: Run
    application: str
    order: OptimizationOrder
    result: OptimizedPrompt | None


@dataclass(frozen=True)
class WorkbenchOrders:
    """Orders of one project."""

    store: Store
    workbench: Workbench

    def place_trial(self, scope: Scope, who: Principal, order: TrialOrder) -> Run:
        """Order a trial; mistakes are told before there is a run.

        Raises:
            NotFoundError, InvalidInputError: as ``draft_of``, and for a sample of no or too many requests.
            ForbiddenError: policy does not let this principal.
        """
        self._require(scope, who, order.application)
        wished = len(order.sample.predictions) or order.sample.size
        if not 1 <= wished <= MOST_REQUESTS:
            raise InvalidInputError(
                f"{wished} requests are no sample.", where="sample", next_step=f"Ask for 1 to {MOST_REQUESTS}."
            )
        _candidate(self.store, order)
        return self._submit(scope, who, TRY, order, order.application, f"application/{order.application}")

    def place_run(self, scope: Scope, who: Principal, name: str, order: RegressionOrder) -> Run:
        """Order a run on a regression set; raises as :meth:`place_trial`."""
        version = self.store.regressions.version(scope, name)
        self._require(scope, who, version.application)
        self.store.releases.get(scope, order.release)
        return self._submit(scope, who, REGRESSIONS, order, version.application, f"regressions/{name}", set=name)

    def place_optimization(self, scope: Scope, who: Principal, application: str, order: OptimizationOrder) -> Run:
        """Order a search for a better system text; raises as :meth:`place_trial`, and ``SetupError`` where the package
        of the search is missing."""
        self._require(scope, who, application)
        require_gepa()
        release, _ = draft_of(self.store, application, release=order.release)
        version = self.store.regressions.version(scope, order.set, order.version)
        require_cases(self.store.regressions, release, version)
        # As they are now: what is live, and the set, may change before the worker begins.
        order = msgspec.structs.replace(order, release=release.id, version=version.version)
        return self._submit(scope, who, OPTIMIZE, order, application, f"application/{application}")

    def optimization(self, scope: Scope, run: str) -> Optimization:
        """A search that was ordered; raises ``NotFoundError`` when the run is none."""
        found = self.store.runs.get(scope, run)
        if found.workflow != OPTIMIZE:
            raise NotFoundError(
                f"The run {run} is no search for a prompt.",
                where=run,
                next_step="See `antiphon runs list`, or order one: `antiphon prompts optimize`.",
            )
        made = (found.result or {}).get("prompt")
        return Optimization(
            found,
            str(found.arguments["application"]),
            msgspec.convert(found.arguments["order"], OptimizationOrder),
            None if made is None else msgspec.convert(made, OptimizedPrompt),
        )

    def _require(self, scope: Scope, who: Principal, application: str) -> None:
        if scope != self.store.scope:  # features and engines of this project are its own tenant's
            raise NotFoundError(
                f"There is no application {application!r}.", where="application", next_step="Applied here: none."
            )
        self.workbench.require(who, "train", f"application/{application}")

    def _submit(
        self, scope: Scope, who: Principal, workflow: str, order: TrialOrder | RegressionOrder | OptimizationOrder,
        application: str, subject: str, **more: str,
    ) -> Run:  # fmt: skip
        arguments = {"order": msgspec.to_builtins(order), "principal": who.id, "application": application, **more}
        with self.store.database.transaction() as connection:
            run = self.store.runs.submit(scope, workflow, arguments, within=connection)
            self.workbench.audit(scope, who, f"{workflow}.order", subject, connection, run=run)
        return self.store.runs.get(scope, run)


@dataclass(frozen=True)
class WorkbenchWorkflows:
    """The workflows that carry orders out.

    Attributes:
        services: behind answers to recorded requests. scorer: scores them by the application's metrics.
        serve: returns once the engine serves what a release pins.
    """

    store: Store
    services: ServicesOf
    scorer: AnswerScorer
    serve: Serve

    def register(self, registry: WorkflowRegistry) -> None:
        """Let a worker run them."""
        registry.add(TRY, self.try_release, POLICIES[TRY])
        registry.add(REGRESSIONS, self.run_regressions, POLICIES[REGRESSIONS])
        registry.add(OPTIMIZE, self.optimize, POLICIES[OPTIMIZE])

    async def try_release(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Try what was ordered; the trial's id."""
        order = msgspec.convert(arguments["order"], TrialOrder)
        candidate = await asyncio.to_thread(_candidate, self.store, order)

        async def tried() -> str:
            await self.serve(candidate)
            made = await trial_runner(self.store, self.services, self.scorer).run(
                candidate, order.sample, author=str(arguments["principal"]),
                id=f"trial_{content_hash(run.id)[:26]}", progress=_reported(run),
            )  # fmt: skip
            return made.id

        return {"trial": await run.step("try", tried)}

    async def run_regressions(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Run a release on a set; the id of that, and whether it passed."""
        order, store = msgspec.convert(arguments["order"], RegressionOrder), self.store
        candidate = await asyncio.to_thread(store.releases.get, run.scope, order.release)
        version = await asyncio.to_thread(partial(store.regressions.version, run.scope, str(arguments["set"])))

        async def made() -> dict[str, Any]:
            await self.serve(candidate)
            found = await regression_runner(store, self.services, self.scorer).run(
                candidate, version, split=order.split, author=str(arguments["principal"]),
                id=f"regress_{content_hash(run.id)[:26]}", progress=_reported(run),
            )  # fmt: skip
            return {"regression_run": found.id, "passed": found.passed}

        found: dict[str, Any] = await run.step("run", made)
        return found

    async def optimize(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Search for a better system text; what was found, as ``WorkbenchOrders.optimization`` reads it."""
        order, store = msgspec.convert(arguments["order"], OptimizationOrder), self.store
        release = await asyncio.to_thread(store.releases.get, run.scope, str(order.release))
        version = await asyncio.to_thread(store.regressions.version, run.scope, order.set, order.version)
        kept = kept_under(run.id)

        async def searched() -> dict[str, Any]:
            await self.serve(release)
            reflect = reflecting(self.services, run.scope, order.by)
            made = await prompt_optimizer(store, self.services, self.scorer).optimize(
                release, version, reflect, id=kept, budget=order.budget, seed=order.seed, progress=_reported(run)
            )
            return msgspec.to_builtins(made)  # type: ignore[no-any-return]

        try:
            found = await run.step("search", searched)
        except asyncio.CancelledError:
            # A worker that stops leaves them to the next one; of a canceled search nobody needs them.
            if (await asyncio.to_thread(store.runs.get, run.scope, run.id)).cancel_requested:
                await asyncio.to_thread(store.evaluations.forget_answers, run.scope, kept)
            raise
        await run.transaction(
            "forget", lambda connection: store.evaluations.forget_answers(run.scope, kept, within=connection)
        )
        return {"prompt": found}


def kept_under(run: str) -> str:
    """The id under which a search keeps what it has been told, while it goes on."""
    return f"{_SEARCH}{content_hash(run)[:26]}"


def forget_ended_searches(store: Store) -> int:
    """Remove what searches had been told that ended without a text: questions and answers of users are among it. One
    that is tried again has not ended. Returns the number of searches."""
    kept = store.evaluations.kept(store.scope, _SEARCH)  # before the runs, for a run is older than what it keeps
    ended = kept - {kept_under(run.id) for run in store.runs.open(store.scope, OPTIMIZE)}
    for id in sorted(ended):
        store.evaluations.forget_answers(store.scope, id)
    return len(ended)


def _candidate(store: Store, order: TrialOrder) -> Any:
    return draft_of(store, order.application, release=order.release, template=order.template, system=order.system)[0]


def _reported(run: RunContext) -> Progress:
    report: Callable[..., None] = run.progress
    return lambda done, total, note: report(done, total, note)
