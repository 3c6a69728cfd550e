"""Evaluates what will be served: every row through serving's ``answer()``, scored against its label.

Invariants: no row is answered in any other way than a request is; a row that was answered is not asked again after a
crash; an evaluation exists only as a whole, and says nothing about a release's stage (``gates.Validation`` does).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec

from antiphon.catalog.learning.datasets import Dataset
from antiphon.catalog.learning.evaluations import Evaluation, Evaluations
from antiphon.catalog.releases.releases import Release, Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.clock import Clock
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.features.lake.content import Lake
from antiphon.governance.identity.principal import Principal
from antiphon.learning.datasets.reader import DatasetRow, read_rows
from antiphon.learning.evaluation import attacks, gates
from antiphon.learning.evaluation.attacks import ProbeResult
from antiphon.learning.evaluation.requests import AnswerFactory, EvaluationRequests
from antiphon.learning.evaluation.scores import EvaluationRows, Mode, RowResult, decode_rows, summarize

T = TypeVar("T")

Progress = Callable[[int, int, str], None]
"""Receives the progress of an evaluation: done, total, current work."""


class _KeptAnswers:
    """The answers of one evaluation under way, by what was asked. Those of another subject under its id are others."""

    def __init__(self, evaluations: Evaluations, scope: Scope, id: str, subject: dict[str, Any]) -> None:
        self._keep = partial(evaluations.keep_answer, scope, id)
        self._subject = subject
        self._kept = evaluations.answers(scope, id)

    def find(self, key: str, kind: type[T]) -> T | None:
        """The answer that was kept; ``None`` when there is none, or it cannot be read: it is asked again."""
        with suppress(msgspec.ValidationError):
            return msgspec.convert(self._kept.get(self._question(key)), kind)
        return None

    def keep(self, key: str, answer: Any) -> None:
        """Keep an answer; it is in the catalog when this returns."""
        self._keep(self._question(key), answer)

    def _question(self, key: str) -> str:
        return content_hash([self._subject, key])


@dataclass(frozen=True)
class ReleaseEvaluator:
    """Evaluates releases of one project.

    Attributes:
        answering: makes serving's ``answer()``.
        files: the lake, which holds the datasets' files.
        concurrency: rows under way at once, at batch priority.
        patience: seconds a row waits for an engine that is away.
        view_keys: the keys by which a view (name, definition version) is looked up, so that an attack through a key
            finds what it would find in serving; ``None`` assumes the worst.
        current: tells whether an earlier evaluation of a release is of the model that is served now.
    """

    answering: AnswerFactory
    releases: Releases
    files: Lake
    evaluations: Evaluations
    texts: Blobs
    clock: Clock
    concurrency: int = 8
    patience: float = 60.0
    view_keys: Callable[[Scope, str, str], Sequence[str]] | None = None
    current: Callable[[Release, Evaluation], bool] = lambda release, evaluation: True

    async def evaluate(
        self,
        release: Release,
        dataset: Dataset,
        *,
        mode: Mode = "whole",
        limit: int | None = None,
        whole: int = 0,
        against: str | None = None,
        with_attacks: bool = True,
        id: str | None = None,
        principal: Principal | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Evaluates the release on the dataset and checks its gates; recorded before it is returned.

        Args:
            mode: ``classes`` asks only for the outcome's property, which costs a step or two a row; ``whole`` for the
                whole output.
            limit: rows at most. The rows of a smaller limit are among those of a larger one.
            whole: with ``classes``, so many rows are asked for the whole output all the same, so that gates on texts
                have something to measure.
            against: a release (the live one) to compare with on identical rows; it is evaluated on them first, its
                classes only, unless it was before.
            with_attacks: also try the attack sets.
            id: under which an evaluation that was interrupted goes on, and one that is finished is returned as it is.
                Without it, an interrupted one of the same things goes on, and a finished one is made anew.
            principal: on whose behalf; policy must let it ask. By default a service named ``evaluation``.

        Raises:
            InvalidInputError: the application has no outcome, or the dataset is not one for this release, or no row was
                answered.
            CorruptionError: the dataset's file is gone or damaged.
            ConflictError: the id is that of an evaluation of something else.
            UnavailableError, EngineError, OverloadedError: a part stayed away; what was answered is kept.
        """
        check_fits(release, dataset)
        scope = release.scope
        rows = await asyncio.to_thread(read_rows, dataset, self.files, limit)
        if not rows:
            raise InvalidInputError(
                f"The dataset {dataset.id} has no rows.",
                where=dataset.id,
                next_step="Build an evaluation set with rows.",
            )
        subject = {
            "release": release.id, "dataset": dataset.id, "mode": mode, "limit": limit, "whole": whole,
            "attacks": with_attacks,
        }  # fmt: skip
        if id is None:
            id = await asyncio.to_thread(self._next_id, scope, subject)
        else:
            known = await asyncio.to_thread(self._known, scope, id)
            if known is not None and (known.release, known.dataset) == (release.id, dataset.id):
                return known
            if known is not None:
                raise ConflictError(
                    f"The evaluation {id!r} is of {known.release} on {known.dataset}.",
                    where=release.id,
                    next_step="Give each evaluation its own id.",
                )
        against = None if against == release.id else against
        baseline: Sequence[RowResult] = ()
        if against is not None:
            baseline = await self._baseline(scope, against, dataset, rows, limit, principal, progress)
        who = principal or Principal("evaluation", scope.tenant, "service", clearance="restricted")
        requests = EvaluationRequests(self.answering, self.texts, release, dataset, rows, who, self.patience)
        whole_examples = whole_rows(rows, len(rows) if mode == "whole" else whole)
        few = sorted(rows, key=lambda row: content_hash(["attack", row.example]))[:4]
        probes = attacks.probes(release.bundle.application, few) if with_attacks else ()
        kept = await asyncio.to_thread(_KeptAnswers, self.evaluations, scope, id, subject)
        questions = {
            f"row:{row.example}": partial(requests.row, row, whole=row.example in whole_examples) for row in rows
        }
        results = await self._each(kept, RowResult, questions, progress, "answering rows")
        keyed = await asyncio.to_thread(self._keyed, requests)
        tries = {
            f"probe:{probe.id}": partial(attacks.attempt, probe, requests.application, requests.reply, keyed)
            for probe in probes
        }
        attempts = await self._each(kept, ProbeResult, tries, progress, "trying attacks")
        return await asyncio.to_thread(
            partial(
                self._record, id, release, dataset, mode, rows, results, attempts, against, baseline,
                tried=with_attacks,
            )
        )  # fmt: skip

    def rows_of(self, evaluation: Evaluation) -> EvaluationRows:
        """An evaluation's rows; raises ``NotFoundError`` once they were erased."""
        return decode_rows(self.texts.get(evaluation.scope, evaluation.rows_blob))

    async def _baseline(
        self, scope: Scope, against: str, dataset: Dataset, rows: Sequence[DatasetRow], limit: int | None,
        principal: Principal | None, progress: Progress | None,
    ) -> Sequence[RowResult]:  # fmt: skip
        """The rows of the release that is compared with; none when it cannot be asked about this dataset."""
        release = await asyncio.to_thread(self.releases.get, scope, against)
        try:
            check_fits(release, dataset)
        except InvalidInputError:
            return ()  # it reads other definition versions: the gate that compares fails, and says so
        before = await asyncio.to_thread(self.evaluations.latest, scope, against, dataset.id)
        if before is not None and await asyncio.to_thread(self.current, release, before):
            try:
                found = (await asyncio.to_thread(self.rows_of, before)).rows
            except NotFoundError:
                found = ()  # erased: asked again
            if {row.example for row in rows} <= {row.example for row in found}:
                return found
        made = await self.evaluate(
            release, dataset, mode="classes", limit=limit, with_attacks=False, principal=principal,
            progress=None if progress is None else _named(progress, "the live release"),
        )  # fmt: skip
        return (await asyncio.to_thread(self.rows_of, made)).rows

    async def _each(
        self,
        kept: _KeptAnswers,
        kind: type[T],
        pieces: Mapping[str, Callable[[], Awaitable[T]]],
        progress: Progress | None,
        note: str,
    ) -> list[T]:
        """The results of the pieces: those that were kept under their keys, the others done and kept."""
        done = {key: answer for key in pieces if (answer := kept.find(key, kind)) is not None}

        async def one(key: str) -> None:
            result = await pieces[key]()
            await asyncio.to_thread(kept.keep, key, result)
            done[key] = result
            if progress is not None:
                progress(len(done), len(pieces), note)

        await _all([partial(one, key) for key in pieces if key not in done], self.concurrency)
        return [done[key] for key in pieces]

    def _keyed(self, requests: EvaluationRequests) -> dict[str, Sequence[str]] | None:
        known, scope = self.view_keys, requests.scope
        if known is None:
            return None
        return {view: known(scope, view, version) for view, version in requests.application.own_features.items()}

    def _record(
        self, id: str, release: Release, dataset: Dataset, mode: Mode, rows: Sequence[DatasetRow],
        results: Sequence[RowResult], attempts: Sequence[ProbeResult], against: str | None,
        baseline: Sequence[RowResult], *, tried: bool,
    ) -> Evaluation:  # fmt: skip
        application = release.bundle.application
        places = attacks.channels(application, rows[0])
        summaries = (
            attacks.summary("injection", attempts, places), attacks.summary("leakage", attempts, places),
        ) if tried else ()  # fmt: skip
        content = msgspec.json.encode(
            EvaluationRows(tuple(results), tuple(msgspec.to_builtins(one) for one in attempts))
        )
        blob = self.texts.put(release.scope, content)
        evaluation = summarize(
            id=id,
            release=release,
            dataset=dataset.id,
            mode=mode,
            rows=rows,
            results=results,
            against=against,
            baseline=baseline,
            attacks=summaries,
            rows_blob=blob,
            created_at=self.clock.now(),
        )
        evaluation = msgspec.structs.replace(evaluation, gates=gates.check(evaluation, application))
        return self.evaluations.add(evaluation)

    def _known(self, scope: Scope, id: str) -> Evaluation | None:
        try:
            return self.evaluations.get(scope, id)
        except NotFoundError:
            return None

    def _next_id(self, scope: Scope, subject: dict[str, Any]) -> str:
        """Of the first evaluation of these things that is not finished, so that an interrupted one goes on."""
        for number in range(10_000):
            id = f"eval_{content_hash([str(scope), subject, number])[:26]}"
            if self._known(scope, id) is None:
                return id
        raise ConflictError("The same release and dataset were evaluated too often.", where=str(scope))


def check_fits(release: Release, dataset: Dataset) -> None:
    """Raises ``InvalidInputError`` unless the application has an outcome and the dataset was built for it, its entity
    and its definition versions."""
    application, spec = release.bundle.application, dataset.spec
    outcome = application.outcome
    if outcome is None:
        raise InvalidInputError(
            f"The application {application.name} declares no outcome, so nothing says what is true.",
            where=f"application {application.name}",
            next_step="Declare outcome=Outcome(…) in definitions.py and apply it.",
        )
    wrong = [
        f"{name} {theirs!r} instead of {ours!r}"
        for name, ours, theirs in (
            ("application", application.name, spec.application),
            ("outcome", outcome.property, spec.property),
            ("positive label", outcome.positive, spec.positive),
            ("entity keys", sorted(application.entity_keys), sorted(spec.entity_keys)),
        )
        if ours != theirs
    ]
    wrong += [
        f"the view {view!r} in version {spec.views.get(view, '(none)')} instead of {version}"
        for view, version in application.features.items()
        if spec.views.get(view) != version
    ]
    if wrong:
        raise InvalidInputError(
            f"The dataset {dataset.id} was built for something else: {'; '.join(wrong)}.",
            where=dataset.id,
            next_step=f"Build one for this release: `antiphon datasets build {application.name} --kind evaluation`.",
        )


def whole_rows(rows: Sequence[DatasetRow], count: int) -> frozenset[str]:
    """The examples that are asked for the whole output: by a hash, so that fewer are a part of more."""
    ordered = sorted((row.example for row in rows), key=lambda example: content_hash(["whole", example]))
    return frozenset(ordered[:count])


def _named(progress: Progress, whose: str) -> Progress:
    return lambda done, total, note: progress(done, total, f"{note} of {whose}")


async def _all(pieces: Sequence[Callable[[], Coroutine[Any, Any, None]]], concurrency: int) -> None:
    """Run every piece, at most so many at once; the first failure ends the others and is raised."""
    waiting = iter(pieces)

    async def work() -> None:
        for piece in waiting:
            await piece()

    workers = [asyncio.ensure_future(work()) for _ in range(min(concurrency, len(pieces)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
