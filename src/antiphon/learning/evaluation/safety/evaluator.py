"""Evaluates a release without an evaluation set: safety suites, schema, time and tokens, through ``answer()``.

For an application that has no outcome yet, or none at all. Invariant: nothing is reported of a release that answered no
honest request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from antiphon.catalog.learning.annotations import Annotation
from antiphon.catalog.learning.evaluations import Evaluations
from antiphon.catalog.learning.safety import SafetyReport, SafetyReports
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.clock import Clock
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.learning.evaluation import gates
from antiphon.learning.evaluation.asking import (
    AnswerFactory,
    KeptAnswers,
    Progress,
    next_id,
)
from antiphon.learning.evaluation.judges import ScoredAnswers, with_judges
from antiphon.learning.evaluation.safety.honest import HonestAnswer, LiveAnswer, ask_honestly, measured
from antiphon.learning.evaluation.safety.placement import RIDDEN, HonestRequest
from antiphon.learning.evaluation.safety.requests import ProbeRequests
from antiphon.learning.evaluation.safety.scoring import RequestScores, with_means
from antiphon.learning.evaluation.safety.suites import SafetySuites
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.learning.evaluation.scores import EvaluationRows, decode_rows
from antiphon.serving.ports import EntityReader


@dataclass(frozen=True)
class SafetyEvaluator:
    """Makes safety reports of one project's releases; attributes as of ``ReleaseEvaluator``.

    An application without an outcome is measured here by the metrics that it declares.
    """

    answering: AnswerFactory
    evaluations: Evaluations
    reports: SafetyReports
    texts: Blobs
    clock: Clock
    suites: SafetySuites
    scorer: AnswerScorer
    annotations: Callable[[Scope, Sequence[str]], Sequence[Annotation]] = lambda scope, predictions: ()
    concurrency: int = 8
    patience: float = 60.0

    async def evaluate(
        self,
        release: Release,
        requests: Sequence[HonestRequest],
        reader: EntityReader,
        *,
        most: int | None = None,
        halves: Sequence[bool] = (True, False),
        before: Mapping[str, LiveAnswer] | None = None,
        live: Release | None = None,
        principal: Principal | None = None,
        progress: Progress | None = None,
    ) -> SafetyReport:
        """Asks the honest requests, tries the suites on them, checks the gates; recorded before it is returned.

        Interrupted, it goes on without asking again.

        Args:
            requests: at least one; probes ride on the first few. ``reader``: of their features, for those that bring
                none.
            most: probes of a suite in a half at most. ``halves``: of the suites, the held-out one is ``True``.
            before: answers of the live release, by the request's example.
            live: the live release, beside whose answers to the same requests metrics are measured.

        Raises:
            InvalidInputError: no honest request was answered, or a file of probes has mistakes.
            UnavailableError, EngineError, OverloadedError: a part stayed away; what was answered is kept.
        """
        scope, application = release.scope, release.bundle.application
        riding = [[one.example, one.entity, one.question, one.inputs] for one in requests]
        subject: dict[str, object] = {
            "release": release.id, "requests": riding, "most": most, "halves": list(halves), "of": "safety",
        }  # fmt: skip
        # Metrics of an application with an outcome wait for its evaluation set, where what came true is known.
        measuring = bool(application.user_metrics) and not application.shapes
        if measuring:
            subject["metrics"] = [sorted(application.user_metrics), None if live is None else live.id]
            subject["earlier"] = [[turn.prediction for turn in one.earlier] for one in requests]
        id = await asyncio.to_thread(next_id, "safety", scope, subject, self.reports.get)
        who = principal or Principal("evaluation", scope.tenant, "service", clearance="restricted")
        sender = self._sender(release, reader, who)
        kept = await asyncio.to_thread(KeptAnswers, self.evaluations, scope, id, subject)
        honest = await ask_honestly(sender, requests, kept, progress, keeping=measuring)
        sampled = measured(requests, honest, before or {})
        if sampled is None:
            said = next((one for one in honest), HonestAnswer(False, error="none"))
            raise InvalidInputError(
                f"None of {len(honest)} honest requests was answered: {said.error}. {said.reason}".rstrip(),
                where=release.id,
                next_step="Name an entity that has features: `antiphon evaluations safety RELEASE --entity KEY=VALUE`.",
            )
        results = await self.suites.run(
            release, sender, requests[:RIDDEN], kept,
            concurrency=self.concurrency, most=most, halves=halves, progress=progress,
        )  # fmt: skip
        answered = [one for one in honest if one.error is None]
        rows = EvaluationRows((), tuple(msgspec.to_builtins(one) for one in results.probes))
        if measuring:
            beside = None if live is None else self._sender(live, reader, who)
            scores = RequestScores(self.scorer, release, beside, kept, self.concurrency, progress)
            given = [(request, one.given) for request, one in zip(requests, honest, strict=True) if one.given]
            rows = await scores.measure(given, rows)
        blob = await asyncio.to_thread(self.texts.put, scope, msgspec.json.encode(rows))
        report = SafetyReport(
            id=id,
            scope=scope,
            application=application.name,
            release=release.id,
            model=release.bundle.model.name,
            requests=sampled.requests,
            valid_share=float(np.mean([one.valid for one in honest])),
            seconds_p50=sampled.seconds_p50,
            seconds_p99=sampled.seconds_p99,
            tokens=float(np.mean([one.tokens for one in answered])),
            suites=results.summaries,
            gates=(),
            fingerprints=tuple(sorted({one.fingerprint for one in answered} - {""})),
            rows_blob=blob,
            created_at=self.clock.now(),
            answered_share=len(answered) / len(honest),
            first_p50=sampled.first_p50,
            guarded_more=sampled.guarded_more,
            length_ratio=sampled.length_ratio,
        )
        return await asyncio.to_thread(self._record, report, release, rows, live if measuring else None)

    def _sender(self, release: Release, reader: EntityReader, who: Principal) -> ProbeRequests:
        return ProbeRequests(self.answering, reader, self.texts, release, who, self.patience)

    def _record(
        self, report: SafetyReport, release: Release, rows: EvaluationRows, live: Release | None
    ) -> SafetyReport:
        application = release.bundle.application
        if rows.rows:
            report = with_means(report, application, rows, live)
        if application.judge_metrics and rows.rows:
            earlier = [self._rows(one) for one in self.reports.list(release.scope, release=release.id)]
            ours = ScoredAnswers.of(release, rows.rows, [row for one in earlier for row in one.rows], self.annotations)
            theirs = None
            if live is not None:
                own = [self._rows(one).rows for one in self.reports.list(live.scope, release=live.id)]
                known = [row for part in (*own, *(one.live for one in earlier)) for row in part]
                theirs = ScoredAnswers.of(live, rows.live, known, self.annotations)
            report = with_judges(report, application.judge_metrics, ours, theirs)
        checked = gates.check_safety(report, application)
        return self.reports.add(msgspec.structs.replace(report, gates=checked))

    def _rows(self, report: SafetyReport) -> EvaluationRows:
        """The rows of an earlier report; none once they were erased."""
        try:
            return decode_rows(self.texts.get(report.scope, report.rows_blob))
        except NotFoundError:
            return EvaluationRows(())
