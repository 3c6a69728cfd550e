"""Searches for a better system text on the visible cases of a regression set, and meets the held-out ones once.

The search is GEPA's (Agrawal et al., "GEPA: Reflective Prompt Evolution Can Outperform Reinforcement Learning", 2025),
of the package ``gepa``: a model reads what failed and why, and proposes another text; what is better on the visible
cases is kept. Answers are made by serving's ``answer()`` at batch priority, and nothing live changes.

Invariants: nothing of a held-out case reaches the search. Scores and proposals are kept as they are made, and the
search follows from them and its seed alone: one that was interrupted goes the same way again and asks nothing twice.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import msgspec

from antiphon.catalog.learning.evaluations import Evaluations, IntervalEstimate
from antiphon.catalog.learning.regressions import RegressionCase, RegressionSets, SetVersion, Split
from antiphon.catalog.releases.releases import Bundle, Release
from antiphon.core.errors import ConflictError, InvalidInputError, SetupError
from antiphon.core.ids import content_hash
from antiphon.learning.evaluation.asking import KeptAnswers, Progress
from antiphon.learning.evaluation.metrics import wilson
from antiphon.learning.workbench.asking import RecordedRequests
from antiphon.learning.workbench.regressions import CaseRequests

T = TypeVar("T")

WORKFLOW = "prompt-optimization"

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
        candidates: texts that were tried on all visible cases. requests: to the application, all of them.
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
    """Optimizes system texts. ``evaluations`` keeps what a search has; ``concurrency``: requests asked at a time."""

    requests: CaseRequests
    sets: RegressionSets
    evaluations: Evaluations
    concurrency: int = 8

    async def optimize(
        self,
        release: Release,
        version: SetVersion,
        reflect: Reflect,
        *,
        id: str,
        budget: int,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> OptimizedPrompt:
        """Search with at most ``budget`` requests to the application for visible cases, about.

        Args:
            id: under which scores and proposals are kept; a search that was interrupted goes on with them.

        Raises:
            SetupError: the package ``gepa`` is missing.
            InvalidInputError: the set is of another application, or has no case in one of its splits.
            UnavailableError, EngineError, OverloadedError: an engine stayed away; what was answered is kept.
        """
        require_gepa()
        gepa: Any = importlib.import_module("gepa")
        cases = await asyncio.to_thread(require_cases, self.sets, release, version)
        visible, held_out = cases["visible"], cases["held-out"]
        subject: dict[str, object] = {"release": release.content_hash, "set": [version.name, version.version]}
        kept = await asyncio.to_thread(KeptAnswers, self.evaluations, release.scope, id, subject)
        search = _Search(self, release, kept, reflect, budget, progress)
        before = release.bundle.application.prompt.system
        try:
            found: Any = await asyncio.to_thread(
                gepa.optimize,
                seed_candidate={SYSTEM: before},
                trainset=visible,
                valset=visible,
                adapter=search,
                reflection_lm=search.propose,
                max_metric_calls=budget,
                stop_callbacks=search.stopped,
                logger=search,
                seed=seed,
            )
            if search.failure is not None:
                raise search.failure
            system = str(found.best_candidate[SYSTEM])
            last = {text: await search.scores(held_out, text) for text in dict.fromkeys((before, system))}
        except Exception as error:
            await search.settled()
            raise (search.failure or error) from None  # of an engine, rather than of what the search made of it
        finally:
            search.stop()  # its thread, which goes on when this task is cancelled
        scores = list(found.val_aggregate_scores)
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


def require_cases(sets: RegressionSets, release: Release, version: SetVersion) -> dict[Split, list[RegressionCase]]:
    """The cases of a set by split, without those that were erased.

    Raises:
        InvalidInputError: the set is of another application, or has no case in one of its splits.
    """
    if release.bundle.application.name != version.application:
        raise InvalidInputError(
            f"The set {version.name} is of {version.application}.", where=release.id, next_step="Name another set."
        )
    found: dict[Split, list[RegressionCase]] = {}
    for split in get_args(Split):
        found[split] = [one for one in sets.cases(version, split).values() if one is not None]
        if not found[split]:
            raise InvalidInputError(
                f"The set {version.name} has no {split} case.",
                where=f"set {version.name}@{version.version}",
                next_step="An optimizer learns from visible cases and is measured on held-out ones: add both, "
                "`antiphon evaluations add PREDICTION --set SET --split held-out`.",
            )
    return found


class _Search:
    """GEPA's adapter: it calls from a thread, and answers are made in the event loop."""

    propose_new_texts = None

    def __init__(
        self, optimizer: PromptOptimizer, release: Release, kept: KeptAnswers, reflect: Reflect, budget: int,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        self._optimizer = optimizer
        self._release = release
        self._kept = kept
        self._loop = asyncio.get_running_loop()
        self._reflect = reflect
        self._budget = budget
        self._progress = progress
        self._places = asyncio.Semaphore(optimizer.concurrency)
        self._senders: dict[str, RecordedRequests] = {}
        self._scores: dict[str, asyncio.Task[CaseScore]] = {}
        self._proposals: Counter[str] = Counter()
        self._ended = False
        self.failure: Exception | None = None

    @property
    def requests(self) -> int:
        """Requests to the application, those of an interrupted search among them."""
        return len(self._scores)

    def stop(self) -> None:
        """End the search: nothing more is asked, and what is being asked is given up."""
        self._ended = True
        for task in self._scores.values():
            task.cancel()

    async def settled(self) -> None:
        """Return once whatever is being asked has been answered and kept, or has failed."""
        await asyncio.gather(*self._scores.values(), return_exceptions=True)

    def stopped(self, state: object = None) -> bool:
        """GEPA's: tells whether the search is to end."""
        return self._ended or self.failure is not None

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
        return self._wait(self._proposal(text))

    def log(self, message: str) -> None:
        """GEPA's: nothing; its lines hold texts of users."""

    async def scores(self, cases: Sequence[RegressionCase], system: str) -> list[CaseScore]:
        """The scores of cases under a system text."""
        keys = [f"score:{content_hash([case.id, system])}" for case in cases]
        for key, case in zip(keys, cases, strict=True):
            if key not in self._scores:
                self._scores[key] = asyncio.ensure_future(self._score(key, case, system))
        return list(await asyncio.gather(*(self._scores[key] for key in keys)))

    async def _score(self, key: str, case: RegressionCase, system: str) -> CaseScore:
        known = self._kept.find(key, CaseScore)
        if known is not None:
            return known
        async with self._places:
            made = await self._optimizer.requests.ask(self._sender(system), case)
            question = case.question or msgspec.json.encode(case.entity).decode()
            met = 0.0 if made.figures.error else 1.0 - len(made.failed) / len(case.expect)
            score = CaseScore(met, question, made.text, "; ".join(made.failed) or "This is as expected.")
            await asyncio.to_thread(self._kept.keep, key, score)
        if self._progress is not None:
            self._progress(min(self.requests, self._budget), self._budget, "searching for a better text")
        return score

    async def _proposal(self, prompt: str) -> str:
        self._proposals[prompt] += 1  # the same prompt may come again, for another text
        key = f"proposal:{content_hash([prompt, self._proposals[prompt]])}"
        known = self._kept.find(key, str)
        if known is None:
            known = await self._reflect(prompt)
            await asyncio.to_thread(self._kept.keep, key, known)
        return known

    def _sender(self, system: str) -> RecordedRequests:
        if system not in self._senders:
            self._senders[system] = self._optimizer.requests.sender(with_system(self._release, system))
        return self._senders[system]

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work in the event loop. A failure ends the search: it would be taken for a bad text."""
        if self.stopped():
            work.close()
            raise self.failure or ConflictError("The search was stopped.", where="optimize")
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except Exception as error:
            self.failure = self.failure or error
            raise


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


def require_gepa() -> None:
    """Raises ``SetupError`` where the package of the search is missing."""
    if importlib.util.find_spec("gepa") is None:
        raise SetupError(
            "Optimizing prompts takes the package gepa.",
            next_step="Install it for the command and for the worker: pip install 'antiphon[optimize]'.",
        )
