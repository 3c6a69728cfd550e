"""Trials and regression runs of one project, wired: what asks the engine on behalf of the workbench."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from antiphon.catalog.learning.regressions import RegressionRun
from antiphon.catalog.releases.releases import Release
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.own_metrics import JudgeMetric
from antiphon.governance.identity.principal import Principal
from antiphon.learning.evaluation.asking import EvaluatedReleases, Progress
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.learning.workbench.asking import ServicesOf
from antiphon.learning.workbench.optimizer import PromptOptimizer, Reflect
from antiphon.learning.workbench.regressions import CaseRequests, RegressionRunner
from antiphon.learning.workbench.trials import TrialRunner
from antiphon.services.learning.regressions import newest_version
from antiphon.services.project.store import Store
from antiphon.serving.answerer import Answerer
from antiphon.serving.request import AnswerRequest, DecodingOverrides, Message

PROPOSAL_TOKENS = 600
"""The longest prompt that a model may propose."""
_MOST_ANNOTATIONS = 100_000
Serve = Callable[[Release], Awaitable[None]]
"""Returns once the engine serves what a release pins; raises ``UnavailableError`` while it does not."""


def trial_runner(store: Store, services: ServicesOf, scorer: AnswerScorer) -> TrialRunner:
    """Tries releases and drafts of a project through its engine."""
    return TrialRunner(
        services=services,
        releases=store.releases,
        receipts=store.receipts,
        texts=store.blobs,
        conversations=store.conversations,
        trials=store.trials,
        evaluations=store.evaluations,
        outcomes=store.outcomes,
        scorer=scorer,
        clock=store.database.clock,
        concurrency=store.settings.gateway.batch_concurrency,
    )


def regression_runner(store: Store, services: ServicesOf, scorer: AnswerScorer) -> RegressionRunner:
    """Runs releases of a project on regression sets through its engine."""
    return RegressionRunner(
        requests=_case_requests(store, services, scorer),
        sets=store.regressions,
        evaluations=store.evaluations,
        clock=store.database.clock,
        concurrency=store.settings.gateway.batch_concurrency,
    )


def prompt_optimizer(store: Store, services: ServicesOf, scorer: AnswerScorer) -> PromptOptimizer:
    """Searches for better prompts of a project through its engine."""
    return PromptOptimizer(
        requests=_case_requests(store, services, scorer),
        sets=store.regressions,
        evaluations=store.evaluations,
        concurrency=store.settings.gateway.batch_concurrency,
    )


def _case_requests(store: Store, services: ServicesOf, scorer: AnswerScorer) -> CaseRequests:
    return CaseRequests(services=services, texts=store.blobs, scorer=scorer, people=_ScoresOfPeople(store))


class _ScoresOfPeople:
    """Counts the answers of a release that people scored by a judge's rubric; reads them once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._by_release: dict[tuple[str, str], Counter[str]] = {}

    def __call__(self, release: Release, metric: JudgeMetric) -> int:
        place = (release.bundle.application.name, metric.criterion())
        if place not in self._by_release:
            self._by_release[place] = self._counted(release.scope, *place)
        return self._by_release[place][release.id]

    def _counted(self, scope: Scope, application: str, criterion: str) -> Counter[str]:
        said = self._store.annotations.list(scope, application, limit=_MOST_ANNOTATIONS)
        found = Counter[str]()
        for prediction in {one.prediction for one in said if (one.kind, one.criterion) == ("rubric", criterion)}:
            with suppress(NotFoundError):  # pruned: nobody knows any more which release it was of
                found[self._store.receipts.get(scope, prediction).release] += 1
        return found


def reflecting(services: ServicesOf, scope: Scope, model: str) -> Reflect:
    """A plain model that the engine serves, as it proposes prompts."""
    answerer = Answerer(services(EvaluatedReleases()))
    who = Principal("evaluation", scope.tenant, "service", clearance="restricted")

    async def reflect(prompt: str) -> str:
        turns = (Message("user", prompt),)
        overrides = DecodingOverrides(max_tokens=PROPOSAL_TOKENS)
        request = AnswerRequest(scope, who, model, messages=turns, path="batch", overrides=overrides)
        return (await answerer.answer(request)).text

    return reflect


async def run_gated_sets(
    store: Store, services: ServicesOf, scorer: AnswerScorer, serve: Serve, release: Release, author: str,
    progress: Progress | None = None,
) -> Sequence[RegressionRun]:  # fmt: skip
    """Run the sets that a release's gates name and that it was not run on in their present version; raises as
    ``RegressionRunner.run``."""
    made = []
    for name in release.bundle.application.gates.regressions:
        version = await asyncio.to_thread(newest_version, store, release.scope, name)
        if version is None:
            continue  # the gates say so
        known = await asyncio.to_thread(store.regressions.runs, release.scope, name, release.id, version.version)
        if not any(one.split is None for one in known):
            await serve(release)
            runner = regression_runner(store, services, scorer)
            made.append(await runner.run(release, version, author=author, progress=progress))
    return made
