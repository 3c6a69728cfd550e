"""Searches for a better system text on the visible cases of a regression set, and meets the held-out ones once.

The search is GEPA's (Agrawal et al., "GEPA: Reflective Prompt Evolution Can Outperform Reinforcement Learning", 2025),
of the package ``gepa``: a model reads what failed and why, and proposes another text; what is better on the visible
cases is kept. Invariant: nothing of a held-out case reaches the search. Answers are made by serving's ``answer()`` at
batch priority, and nothing live changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from antiphon.catalog.learning.evaluations import IntervalEstimate
from antiphon.catalog.learning.regressions import RegressionCase, RegressionSets, SetVersion, Split
from antiphon.catalog.releases.releases import Bundle, Release
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.ids import content_hash
from antiphon.governance.identity.principal import Principal
from antiphon.learning.evaluation.asking import Progress, first_attempt
from antiphon.learning.evaluation.metrics import wilson
from antiphon.learning.workbench.asking import RecordedRequests, ServicesOf
from antiphon.learning.workbench.expectations import CaseAnswer, unmet
from antiphon.learning.workbench.regressions import request_of

Reflect = Callable[[str], Awaitable[str]]
"""A model that proposes: it reads a prompt and answers with a text."""

SYSTEM = "system"


class CaseScore(msgspec.Struct, frozen=True):
    """Share of a case's expectations that an answer met, with what was asked, said and missed."""

    score: float
    question: str
    text: str
    feedback: str


class OptimizedPrompt(msgspec.Struct, frozen=True):
    """The best system text of a search.

    Attributes:
        system: the text; that of the release where nothing better was found.
        visible_before, visible_after: mean score on the visible cases, which the search chose by.
        held_out_before, held_out_after: share of held-out cases that pass whole, with Wilson's 95 % interval.
        candidates: texts that were tried on all visible cases. asked: requests to the application.
    """

    set: str
    version: int
    release: str
    system: str
    visible_before: float
    visible_after: float
    held_out_before: IntervalEstimate | None
    held_out_after: IntervalEstimate | None
    candidates: int
    requests: int


@dataclass(frozen=True, kw_only=True)
class PromptOptimizer:
    """Optimizes system texts. ``concurrency``: requests asked at a time."""

    services: ServicesOf
    texts: Blobs
    sets: RegressionSets
    concurrency: int = 8
    patience: float = 60.0

    async def optimize(
        self,
        release: Release,
        version: SetVersion,
        reflect: Reflect,
        *,
        budget: int,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> OptimizedPrompt:
        """Search with at most ``budget`` requests to the application for visible cases, about.

        Raises:
            SetupError: the package ``gepa`` is missing.
            InvalidInputError: the set is of another application, or has no case in one of its splits.
            UnavailableError, EngineError, OverloadedError: an engine stayed away.
        """
        gepa = _gepa()
        visible, held_out = [await self._cases(release, version, split) for split in ("visible", "held-out")]
        search = _Search(self, release, asyncio.get_running_loop(), reflect, budget, progress)
        before = release.bundle.application.prompt.system
        found = await asyncio.to_thread(
            gepa.optimize,
            seed_candidate={SYSTEM: before},
            trainset=visible,
            valset=visible,
            adapter=search,
            reflection_lm=search.propose,
            max_metric_calls=budget,
            logger=search,
            seed=seed,
        )
        system = str(found.best_candidate[SYSTEM])
        scores = list(found.val_aggregate_scores)
        last = {text: await search.scores(held_out, text) for text in dict.fromkeys((before, system))}
        return OptimizedPrompt(
            set=version.name,
            version=version.version,
            release=release.id,
            system=system,
            visible_before=float(scores[0]),
            visible_after=float(max(scores)),
            held_out_before=_passed(last[before]),
            held_out_after=_passed(last[system]),
            candidates=len(scores),
            requests=search.requests,
        )

    async def _cases(self, release: Release, version: SetVersion, split: Split) -> list[RegressionCase]:
        if release.bundle.application.name != version.application:
            raise InvalidInputError(
                f"The set {version.name} is of {version.application}.", where=release.id, next_step="Name another set."
            )
        found = await asyncio.to_thread(self.sets.cases, version, split)
        cases = [one for one in found.values() if one is not None]
        if not cases:
            raise InvalidInputError(
                f"The set {version.name} has no {split} case.",
                where=f"set {version.name}@{version.version}",
                next_step="An optimizer learns from visible cases and is measured on held-out ones: add both, "
                "`antiphon evaluations add PREDICTION --set SET --split held-out`.",
            )
        return cases


class _Search:
    """GEPA's adapter: it calls from a thread, and answers are made in the event loop."""

    propose_new_texts = None

    def __init__(
        self, optimizer: PromptOptimizer, release: Release, loop: asyncio.AbstractEventLoop, reflect: Reflect,
        budget: int, progress: Progress | None,
    ) -> None:  # fmt: skip
        self._optimizer = optimizer
        self._release = release
        self._loop = loop
        self._reflect = reflect
        self._budget = budget
        self._progress = progress
        self._places = asyncio.Semaphore(optimizer.concurrency)
        self._senders: dict[str, RecordedRequests] = {}
        self.requests = 0

    def evaluate(self, batch: list[RegressionCase], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        """GEPA's: the scores of some cases under a candidate."""
        from gepa.core.adapter import EvaluationBatch

        found = self._wait(self.scores(batch, candidate[SYSTEM]))
        traces = found if capture_traces else None
        return EvaluationBatch([one.text for one in found], [one.score for one in found], traces)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """GEPA's: what the proposing model reads of each case."""
        read = [
            {"Inputs": one.question, "Generated Outputs": one.text, "Feedback": one.feedback}
            for one in eval_batch.trajectories or ()
        ]
        return dict.fromkeys(components_to_update, read)

    def propose(self, prompt: str | list[dict[str, Any]]) -> str:
        """GEPA's: another text, by the proposing model."""
        text = prompt if isinstance(prompt, str) else "\n\n".join(str(turn["content"]) for turn in prompt)
        return str(self._wait(self._reflect(text)))

    def log(self, message: str) -> None:
        """GEPA's: nothing; its lines hold texts of users."""

    async def scores(self, cases: Sequence[RegressionCase], system: str) -> list[CaseScore]:
        """The scores of cases under a system text."""
        return list(await asyncio.gather(*(self._score(case, system) for case in cases)))

    async def _score(self, case: RegressionCase, system: str) -> CaseScore:
        sender, question = self._sender(system), case.question or msgspec.json.encode(case.entity).decode()
        async with self._places:
            said, text, answer = await sender.ask(request_of(case))
            self.requests += 1
            if self._progress is not None:
                self._progress(min(self.requests, self._budget), self._budget, "searching")
        if answer is None:
            return CaseScore(0.0, question, "", f"There was no answer: {said.reason}")
        first = await first_attempt(answer, self._optimizer.texts)
        failed = unmet(case.expect, CaseAnswer(text, first, answer.receipt.guards), sender.release.bundle.application)
        feedback = "; ".join(failed) or "This is as expected."
        return CaseScore(1.0 - len(failed) / len(case.expect), question, text, feedback)

    def _sender(self, system: str) -> RecordedRequests:
        if system not in self._senders:
            release, who = with_system(self._release, system), self._release.scope.tenant
            self._senders[system] = RecordedRequests(
                self._optimizer.services, self._optimizer.texts, release,
                Principal("evaluation", who, "service", clearance="restricted"), self._optimizer.patience,
            )  # fmt: skip
        return self._senders[system]

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def with_system(release: Release, system: str) -> Release:
    """The release that this one would be with another system text."""
    application = release.bundle.application
    if application.prompt.system == system:
        return release
    prompt = msgspec.structs.replace(application.prompt, system=system)
    bundle: Bundle = msgspec.structs.replace(
        release.bundle, application=msgspec.structs.replace(application, prompt=prompt)
    )
    digest = content_hash(bundle)
    return msgspec.structs.replace(release, id=f"draft_{digest[:26]}", bundle=bundle, content_hash=digest)


def _passed(scores: Sequence[CaseScore]) -> IntervalEstimate | None:
    return wilson(sum(one.score == 1.0 for one in scores), len(scores))


def _gepa() -> Any:
    try:
        import gepa
    except ImportError:
        raise SetupError(
            "Optimizing prompts takes the package gepa.", next_step="Install it: pip install 'antiphon[optimize]'."
        ) from None
    return gepa
