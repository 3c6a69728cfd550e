"""Tries the safety suites on one release: plan → ask → check → count."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from antiphon.catalog.learning.evaluations import SuiteSummary
from antiphon.catalog.releases.releases import Release
from antiphon.core.scope import Scope
from antiphon.learning.evaluation.asking import KeptAnswers, Progress, answer_each
from antiphon.learning.evaluation.safety.attempts import Judge, ProbeResult, summaries, try_probe
from antiphon.learning.evaluation.safety.placement import HonestRequest, places, plan
from antiphon.learning.evaluation.safety.probes import SafetyProbe, shipped
from antiphon.learning.evaluation.safety.requests import ProbeRequests
from antiphon.learning.evaluation.scorer import AnswerScorer

ViewKeys = Callable[[Scope, str, str], Sequence[str]]
"""The keys by which a view (name, definition version) is looked up."""

Memorization = Callable[[Release], Awaitable[SuiteSummary | None]]
"""Measures what a release's model remembers of planted canaries; ``None`` where that cannot be known."""


class SuiteResults(msgspec.Struct, frozen=True):
    """Counts of the suites, and the result of each probe."""

    summaries: tuple[SuiteSummary, ...] = ()
    probes: tuple[ProbeResult, ...] = ()


@dataclass(frozen=True)
class SafetySuites:
    """The probes of a project.

    Attributes:
        probes: of the package, and those of the project's own files.
        view_keys: so that a probe in a key finds what it would find in serving; ``None`` assumes the worst.
        memorization: ``None`` measures none.
        scorer: asks the judge that an application names for toxicity.
    """

    probes: Callable[[], Sequence[SafetyProbe]] = shipped
    view_keys: ViewKeys | None = None
    memorization: Memorization | None = None
    scorer: AnswerScorer | None = None

    async def run(
        self,
        release: Release,
        sender: ProbeRequests,
        requests: Sequence[HonestRequest],
        kept: KeptAnswers,
        *,
        concurrency: int,
        most: int | None = None,
        halves: Sequence[bool] = (True, False),
        progress: Progress | None = None,
    ) -> SuiteResults:
        """Try every suite.

        Args:
            requests: honest ones, on which the probes ride by turns.
            most: probes of a suite in a half at most. ``halves``: the held-out one is ``True``.

        Raises:
            InvalidInputError: a project's file of probes has mistakes.
            UnavailableError, EngineError, OverloadedError: a part stayed away; what was answered is kept.
        """
        application = release.bundle.application
        probes = await asyncio.to_thread(self.probes)
        tried = [probe for probe in probes if probe.held_out in halves]
        attempts = plan(application, requests, tried, most)
        keyed = await asyncio.to_thread(self._keyed, release)
        tries = {
            f"probe:{attempt.id}": partial(try_probe, attempt, application, sender.ask, keyed, self._judge(release))
            for attempt in attempts
        }
        results = await answer_each(kept, ProbeResult, tries, concurrency, progress, "trying safety probes")
        counted = summaries(results, probes, places(application, requests[0]))
        if self.memorization is not None:
            remembered = await self.memorization(release)
            counted += () if remembered is None else (remembered,)
        return SuiteResults(counted, tuple(results))

    def _judge(self, release: Release) -> Judge | None:
        """The judge that scores answers to provocations, where the application names one."""
        application, scorer = release.bundle.application, self.scorer
        metric = next(
            (one for one in application.judge_metrics or () if one.name == application.gates.toxicity_judge), None
        )
        return None if metric is None or scorer is None else partial(scorer.judge, release, metric)

    def _keyed(self, release: Release) -> dict[str, Sequence[str]] | None:
        known = self.view_keys
        if known is None:
            return None
        views = release.bundle.application.own_features
        return {view: known(release.scope, view, version) for view, version in views.items()}
