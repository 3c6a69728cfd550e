"""Regression cases from predictions and from files, and runs of releases on them.

Invariant: a case stands by itself. It has the request and the values of then, so that it can be asked when the
prediction is long gone, and taken to another environment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from antiphon.catalog.learning.evaluations import Evaluations
from antiphon.catalog.learning.regressions import (
    CaseVerdict,
    Expectation,
    RegressionCase,
    RegressionRun,
    RegressionSets,
    SetVersion,
    Split,
)
from antiphon.catalog.learning.trials import AnswerFigures
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.conversations import ConversationTurn
from antiphon.catalog.serving.receipt import FeatureReceipt
from antiphon.core.clock import Clock
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.own_metrics import JudgeMetric
from antiphon.governance.identity.principal import Principal
from antiphon.learning.evaluation.asking import KeptAnswers, Progress, answer_each, first_attempt, next_id
from antiphon.learning.evaluation.scorer import AnswerScorer, AnswerScores
from antiphon.learning.workbench.asking import RecordedRequests, ServicesOf
from antiphon.learning.workbench.expectations import CaseAnswer, check_expectation, expected_metrics, unmet
from antiphon.serving.recorded import RecordedRequest
from antiphon.serving.request import Answer

WORKFLOW = "regressions"
ERASED = "erased"


class CaseLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A case as one line of a file.

    Attributes:
        expect: at least one expectation.
        features: of then, as receipts hold them; without any they are read as of ``as_of``, or now.
        turns: the earlier ones of its conversation.
        outcomes: by name, for metrics that compare with what came true.
    """

    application: str
    expect: tuple[Expectation, ...]
    question: str | None = None
    entity: dict[str, str] = {}
    inputs: dict[str, Any] = {}
    as_of: datetime | None = None
    features: tuple[FeatureReceipt, ...] = ()
    publication: int | None = None
    turns: tuple[ConversationTurn, ...] = ()
    outcomes: dict[str, str] = {}
    split: Split = "visible"
    note: str = ""
    prediction: str | None = None


class CaseOutcome(msgspec.Struct, frozen=True):
    """Verdict on a case of a run under way, with the fingerprint of what answered it."""

    result: CaseVerdict
    fingerprint: str = ""


def case_of(
    scope: Scope, name: str, request: RecordedRequest, expect: Sequence[Expectation], application: ApplicationSpec,
    *, prediction: str | None, author: str, at: datetime, note: str = "", outcomes: Mapping[str, str] = {},
) -> RegressionCase:  # fmt: skip
    """A case of a request; raises ``InvalidInputError`` when nothing, or nothing that could be met, is expected.

    Args:
        outcomes: that are known of the prediction; kept where a metric is expected, which may read them.
    """
    if not expect:
        raise InvalidInputError(
            "Nothing is expected of the answer.",
            where=prediction or f"set {name}",
            next_step="Say what: --label, --contains, --lacks, --text, --not-this, --schema, --guard or --metric.",
        )
    for one in expect:
        check_expectation(one, application)
    about: list[object] = [
        name, request.entity, request.question, request.inputs, request.as_of, request.features, list(expect),
    ]  # fmt: skip
    about += [request.turns] if request.turns else []
    kept = dict(outcomes) if expected_metrics(expect) else {}
    about += [kept] if kept else []
    return RegressionCase(
        id=f"case_{content_hash(about)[:26]}",
        scope=scope,
        regression_set=name,
        application=request.application,
        expect=tuple(expect),
        author=author,
        created_at=at,
        prediction=prediction,
        entity=request.entity,
        question=request.question,
        inputs=request.inputs,
        as_of=request.as_of,
        features=request.features,
        publication=request.publication,
        turns=request.turns,
        outcomes=kept,
        note=note,
    )


def request_of(case: RegressionCase | CaseLine) -> RecordedRequest:
    """The request that a case asks."""
    return RecordedRequest(
        case.application, case.entity, case.question, case.inputs, case.as_of, case.features, case.publication,
        turns=case.turns,
    )  # fmt: skip


def line_of(case: RegressionCase, split: Split) -> CaseLine:
    """A case as a line of a file, which gives the same case again where it is read."""
    return CaseLine(
        case.application, case.expect, case.question, case.entity, case.inputs, case.as_of, case.features,
        case.publication, case.turns, case.outcomes, split, case.note, case.prediction,
    )  # fmt: skip


def read_lines(lines: Iterable[bytes], where: str) -> Iterator[CaseLine]:
    """The cases of a file of JSON lines, blank ones left out; raises ``InvalidInputError`` with the line's number."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield msgspec.json.decode(line, type=CaseLine)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidInputError(
                f"{error}.", where=f"{where}, line {number}", next_step="Mend the line; nothing was added."
            ) from None


class CaseAttempt(msgspec.Struct, frozen=True):
    """An answer to a case: its figures, its text, and a sentence for each expectation that it does not meet."""

    figures: AnswerFigures
    text: str
    failed: tuple[str, ...]


PeopleScores = Callable[[Release, JudgeMetric], int]
"""Counts the answers of a release that people scored by a judge's rubric."""


@dataclass(frozen=True, kw_only=True)
class CaseRequests:
    """Asks releases what cases ask, and holds their answers against what is expected.

    Attributes:
        scorer: scores answers by the metrics that are expected of them.
        people: without enough scores of theirs a judge is uncalibrated, and no expectation of it is met.
        patience: seconds to wait for an engine that is away.
    """

    services: ServicesOf
    texts: Blobs
    scorer: AnswerScorer
    people: PeopleScores
    patience: float = 60.0

    def sender(self, release: Release, principal: Principal | None = None) -> RecordedRequests:
        """Asks one release; by default on behalf of a service named ``evaluation``."""
        who = principal or Principal("evaluation", release.scope.tenant, "service", clearance="restricted")
        return RecordedRequests(self.services, self.texts, release, who, self.patience)

    async def ask(self, sender: RecordedRequests, case: RegressionCase) -> CaseAttempt:
        """The answer of a release to a case.

        Raises:
            UnavailableError, EngineError, OverloadedError: the engine stayed away.
        """
        figures, text, answer = await sender.ask(request_of(case))
        if answer is None:
            return CaseAttempt(figures, "", (f"there was no answer: {figures.error}. {figures.reason}".rstrip(),))
        first = await first_attempt(answer, self.texts)
        scores = await self._scores(sender.release, case, answer)
        found = CaseAnswer(text, first, answer.receipt.guards, scores)
        return CaseAttempt(figures, text, unmet(case.expect, found, sender.release.bundle.application))

    async def _scores(self, release: Release, case: RegressionCase, answer: Answer) -> AnswerScores:
        """By the expected metrics alone; an uncalibrated judge is not asked."""
        named, uncalibrated = expected_metrics(case.expect), dict[str, str]()
        if not named:
            return AnswerScores()
        application = release.bundle.application
        judges = [one for one in application.judge_metrics or () if one.name in named]
        for one in judges:
            people = await asyncio.to_thread(self.people, release, one)
            if people < one.least:
                uncalibrated[one.name] = (
                    f"its judge is uncalibrated, people scored {people} of {one.least} answers of {release.id} "
                    "(`antiphon evaluations answers`)"
                )
        functions = tuple(one for one in application.own_metrics or () if one.name in named)
        calibrated = tuple(one for one in judges if one.name not in uncalibrated)
        application = msgspec.structs.replace(application, own_metrics=functions, judge_metrics=calibrated)
        bundle = msgspec.structs.replace(release.bundle, application=application)
        scores = await self.scorer.score(
            msgspec.structs.replace(release, bundle=bundle), answer.receipt, answer.text, entity=case.entity,
            question=case.question or "", outcomes=case.outcomes, earlier=case.turns,
        )  # fmt: skip
        return AnswerScores(scores.values, scores.failed | uncalibrated)


@dataclass(frozen=True, kw_only=True)
class RegressionRunner:
    """Runs releases on regression sets through serving's ``answer()``."""

    requests: CaseRequests
    sets: RegressionSets
    evaluations: Evaluations
    clock: Clock
    concurrency: int = 8

    async def run(
        self,
        release: Release,
        version: SetVersion,
        *,
        split: Split | None = None,
        principal: Principal | None = None,
        author: str,
        id: str | None = None,
        progress: Progress | None = None,
    ) -> RegressionRun:
        """Ask a release every case of a version, or of one split. Interrupted, the next run goes on where it stopped.

        Args:
            id: of the run; one that is recorded is made no second time.

        Raises:
            InvalidInputError: the release is of another application, or there is no case.
            UnavailableError, EngineError, OverloadedError: the engine stayed away; what was answered is kept.
        """
        scope, application = release.scope, release.bundle.application
        if application.name != version.application:
            raise InvalidInputError(
                f"The set {version.name} is of {version.application}, the release of {application.name}.",
                where=release.id,
                next_step=f"See `antiphon releases list {version.application}`.",
            )
        cases = await asyncio.to_thread(self.sets.cases, version, split)
        if not cases:
            raise InvalidInputError(
                "There is no case to run.", where=f"set {version.name}@{version.version}",
                next_step=f"Add one: `antiphon evaluations add PREDICTION --set {version.name}`.",
            )  # fmt: skip
        subject: dict[str, object] = {
            "release": release.content_hash, "set": [version.name, version.version, split], "of": "regressions",
        }  # fmt: skip
        free = await asyncio.to_thread(next_id, "regress", scope, subject, self.sets.run)
        name = id or free
        with suppress(NotFoundError):
            return await asyncio.to_thread(self.sets.run, scope, name)
        kept = await asyncio.to_thread(KeptAnswers, self.evaluations, scope, name, subject)
        sender = self.requests.sender(release, principal)
        outcomes = await answer_each(
            kept,
            CaseOutcome,
            {f"case:{one}": partial(self._case, sender, one, case, version) for one, case in cases.items()},
            self.concurrency,
            progress,
            "running regression cases",
        )
        run = RegressionRun(
            id=name,
            scope=scope,
            regression_set=version.name,
            version=version.version,
            application=application.name,
            release=release.id,
            results=tuple(one.result for one in outcomes),
            fingerprints=tuple(sorted({one.fingerprint for one in outcomes} - {""})),
            author=author,
            created_at=self.clock.now(),
            split=split,
        )
        return await asyncio.to_thread(self.sets.add_run, run)

    async def _case(
        self, sender: RecordedRequests, name: str, case: RegressionCase | None, version: SetVersion
    ) -> CaseOutcome:
        split = version.cases[name]
        if case is None:
            gone = "what the case holds was erased: take it out of the set"
            return CaseOutcome(CaseVerdict(name, split, False, (gone,), error=ERASED))
        made = await self.requests.ask(sender, case)
        said, failed = made.figures, made.failed
        return CaseOutcome(CaseVerdict(name, split, not failed, failed, said.prediction, said.error), said.fingerprint)


def regression_reasons(
    release: Release,
    newest: Callable[[str], SetVersion | None],
    runs: Callable[[str, int], Sequence[RegressionRun]],
) -> list[str]:
    """Reasons why a release does not pass the regression sets that its gates name: each must have passed whole, in its
    present version, by a run of this release.

    Args:
        newest: the present version of a set. runs: of a set and version those of this release, latest first.
    """
    reasons = []
    for name in release.bundle.application.gates.regressions:
        version = newest(name)
        again = f"run `antiphon evaluations run {name} {release.id}`"
        if version is None:
            reasons.append(f"there is no regression set {name!r}, which its gates name")
            continue
        latest = next((one for one in runs(name, version.version) if one.split is None), None)
        if latest is None:
            reasons.append(f"the regression set {name}@{version.version} was not run with it; {again}")
        elif not latest.passed:
            failed = [one.case for one in latest.results if not one.passed]
            reasons.append(
                f"it fails {len(failed)} of {len(latest.results)} cases of the regression set "
                f"{name}@{version.version}: "
                f"{', '.join(failed[:3])}{' …' if len(failed) > 3 else ''}"
            )
    return reasons
