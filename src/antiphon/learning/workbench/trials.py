"""Tries a release or a draft on a sample of production requests.

Invariants: what is tried is answered by serving's ``answer()`` with the features, guards and decoding of the release
and the values of then, so that the release that users had gives the bytes that they got. The sample is drawn once: an
interrupted trial goes on with it, whatever was asked meanwhile.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import msgspec

from antiphon.catalog.learning.evaluations import Evaluations
from antiphon.catalog.learning.outcomes import Outcomes
from antiphon.catalog.learning.trials import AnswerFigures, Trial, TrialAnswer, Trials
from antiphon.catalog.releases.releases import Release, Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.conversations import Conversations
from antiphon.catalog.serving.receipt import (
    SEEN_ROLES,
    Path,
    Receipt,
    UsageReceipt,
)
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import Clock
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.governance.identity.principal import Principal
from antiphon.learning.evaluation.asking import KeptAnswers, Progress, answer_each, next_id
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.learning.workbench.asking import RecordedRequests, ServicesOf, known_outcomes, recorded_figures
from antiphon.serving.recorded import RecordedRequest, recorded_request

WORKFLOW = "prompt-trial"
SCANNED_RECEIPTS = 2_000
"""Receipts of which a sample is drawn, the latest."""


class SampleQuery(msgspec.Struct, frozen=True):
    """A sample of production requests: predictions that users saw.

    Attributes:
        size: requests at most; ``seed`` says which.
        since, until: limits of when they were answered. path, release: of those alone.
        predictions: these and no others, in their order.
    """

    size: int = 20
    seed: int = 0
    since: datetime | None = None
    until: datetime | None = None
    path: Path | None = None
    release: str | None = None
    predictions: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The sample in words."""
        if self.predictions:
            return f"{len(self.predictions)} named predictions"
        limits = {"since": self.since and self.since.isoformat(), "until": self.until and self.until.isoformat()}
        limits |= {"path": self.path, "of release": self.release}
        said = "".join(f", {name} {value}" for name, value in limits.items() if value)
        return f"{self.size} by seed {self.seed}{said}"


class RequestSample(msgspec.Struct, frozen=True):
    """The predictions that were drawn; ``erased``: those left out because a text of theirs is erased."""

    predictions: tuple[str, ...]
    erased: int = 0


class TrialEstimate(msgspec.Struct, frozen=True):
    """The work of a trial, by what the sampled requests took when they were first answered.

    Attributes:
        engine_seconds: of one engine. usage: of all of them together, without shared prefixes.
    """

    requests: int
    erased: int
    prompt_tokens: int
    completion_tokens: int
    engine_seconds: float
    usage: UsageReceipt


@dataclass(frozen=True, kw_only=True)
class TrialRunner:
    """Tries releases.

    Attributes:
        scorer: scores both answers to a request by the metrics of what is tried, with the ``outcomes`` known by then.
        evaluations: keeps answers while a trial is under way.
        concurrency: requests asked at a time. patience: seconds to wait for an engine that is away.
    """

    services: ServicesOf
    releases: Releases
    receipts: Receipts
    texts: Blobs
    conversations: Conversations
    trials: Trials
    evaluations: Evaluations
    outcomes: Outcomes
    scorer: AnswerScorer
    clock: Clock
    concurrency: int = 8
    patience: float = 60.0

    def draw(self, scope: Scope, application: str, query: SampleQuery) -> RequestSample:
        """Draw a sample by hash, so that the same seed gives the same requests of the same history.

        Raises:
            NotFoundError: a named prediction is not there. InvalidInputError: nothing is there to draw from.
        """
        if query.predictions:
            found = [self.receipts.get(scope, prediction) for prediction in query.predictions]
            if other := next((one for one in found if one.application != application), None):
                raise InvalidInputError(
                    f"The prediction {other.prediction} is of {other.application}.",
                    where="sample",
                    next_step=f"Name predictions of {application}.",
                )
        else:
            found = self.receipts.list(
                scope, application, query.path, query.until, SCANNED_RECEIPTS, since=query.since, roles=SEEN_ROLES,
                releases=None if query.release is None else (query.release,),
            )  # fmt: skip
            found.sort(key=lambda one: content_hash([query.seed, one.prediction]))
        drawn, erased = list[str](), 0
        for receipt in found:
            if len(drawn) == (query.size if not query.predictions else len(found)):
                break
            try:
                self._recorded(receipt)
            except NotFoundError:
                erased += 1
                continue
            drawn.append(receipt.prediction)
        if not drawn:
            gone = f"; the texts of {erased} are erased" if erased else ""
            raise InvalidInputError(
                f"There is no request to {application} that could be tried again{gone}.",
                where=query.words,
                next_step="Ask the application something, or sample from another time.",
            )
        return RequestSample(tuple(drawn), erased)

    def estimate(self, scope: Scope, application: str, query: SampleQuery) -> TrialEstimate:
        """The work of a trial before it is done; raises as :meth:`draw`."""
        sample = self.draw(scope, application, query)
        usages = [self._origin(self.receipts.get(scope, one)).usage for one in sample.predictions]
        usage = UsageReceipt(
            prompt_tokens=sum(one.prompt_tokens for one in usages),
            completion_tokens=sum(one.completion_tokens for one in usages),
            engine_seconds=sum(one.engine_seconds for one in usages),
        )
        return TrialEstimate(
            requests=len(sample.predictions),
            erased=sample.erased,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            engine_seconds=usage.engine_seconds,
            usage=usage,
        )

    async def run(
        self,
        release: Release,
        query: SampleQuery,
        *,
        principal: Principal | None = None,
        author: str,
        id: str | None = None,
        progress: Progress | None = None,
    ) -> Trial:
        """Try a release, or what would be one, and record what it answered. Interrupted, the next one of the same
        release and sample goes on without asking again.

        Args:
            id: of the trial; one that is recorded is made no second time.

        Raises:
            NotFoundError, InvalidInputError: as :meth:`draw`.
            UnavailableError, EngineError, OverloadedError: the engine stayed away; what was answered is kept.
        """
        scope, application = release.scope, release.bundle.application
        subject: dict[str, object] = {"release": release.content_hash, "sample": query, "of": "trial"}
        free = await asyncio.to_thread(next_id, "trial", scope, subject, self.trials.get)
        name = id or free
        with suppress(NotFoundError):
            return await asyncio.to_thread(self.trials.get, scope, name)
        kept = await asyncio.to_thread(KeptAnswers, self.evaluations, scope, name, subject)
        sample = kept.find("sample", RequestSample)
        if sample is None:
            sample = await asyncio.to_thread(self.draw, scope, application.name, query)
            await asyncio.to_thread(kept.keep, "sample", sample)
        who = principal or Principal("evaluation", scope.tenant, "service", clearance="restricted")
        sender = RecordedRequests(self.services, self.texts, release, who, self.patience)
        answers = await answer_each(
            kept,
            TrialAnswer,
            {f"request:{one}": partial(self._tried, sender, one) for one in sample.predictions},
            self.concurrency,
            progress,
            "trying production requests",
        )
        trial = Trial(
            id=name,
            scope=scope,
            application=application.name,
            release=release.id,
            prompt=prompt_version(application),
            bundle=release.bundle,
            answers=tuple(answers),
            sample=query.words,
            erased=sample.erased,
            author=author,
            created_at=self.clock.now(),
        )
        return await asyncio.to_thread(self.trials.add, trial)

    async def _tried(self, sender: RecordedRequests, prediction: str) -> TrialAnswer:
        release = sender.release
        receipt = await asyncio.to_thread(self.receipts.get, release.scope, prediction)
        try:
            request = await asyncio.to_thread(self._recorded, receipt)
            origin = await asyncio.to_thread(self._origin, receipt)
            application = await asyncio.to_thread(self._application, origin, release)
            live, served = await recorded_figures(origin, self.texts, application)
        except NotFoundError as error:  # since it was drawn
            gone = AnswerFigures(error=error.code, reason=error.what)
            return TrialAnswer(prediction, AnswerFigures(prediction), gone)
        said, text, answer = await sender.ask(request)
        live = msgspec.structs.replace(live, prediction=prediction)
        if answer is None:
            return TrialAnswer(prediction, live, said)
        if release.bundle.application.user_metrics:
            live = await self._scored(release, request, prediction, live, origin, served)
            said = await self._scored(release, request, prediction, said, answer.receipt, text)
        return TrialAnswer(prediction, live, said, text == served)

    async def _scored(
        self, release: Release, request: RecordedRequest, prediction: str, figures: AnswerFigures, receipt: Receipt,
        text: str,
    ) -> AnswerFigures:  # fmt: skip
        known = await asyncio.to_thread(
            known_outcomes, self.outcomes, release.scope, [prediction], release.bundle.application
        )
        scores = await self.scorer.score(
            release, receipt, text, entity=request.entity, question=request.question or "",
            outcomes=known.get(prediction, {}), earlier=request.turns,
        )  # fmt: skip
        return msgspec.structs.replace(figures, own=scores.values, own_failed=scores.failed)

    def _origin(self, receipt: Receipt) -> Receipt:
        """The receipt of the request for which the text was generated: a reused answer is that one's."""
        origin = receipt.cache.prediction
        return receipt if origin is None else self.receipts.get(receipt.scope, origin)

    def _application(self, receipt: Receipt, otherwise: Release) -> ApplicationSpec:
        """The application as it was answered by."""
        try:
            return self.releases.get(receipt.scope, receipt.release).bundle.application
        except NotFoundError:
            return otherwise.bundle.application

    def _recorded(self, receipt: Receipt) -> RecordedRequest:
        return recorded_request(self._origin(receipt), self.texts, self.conversations)


def prompt_version(application: ApplicationSpec) -> str:
    """The version of an application's prompt: of its template, system text and examples."""
    return content_hash(application.prompt)[:12]
