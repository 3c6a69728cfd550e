"""Validates a new version: serve, evaluate, check the gates and, when requested, begin a rollout.

Invariant: a release enters ``validated`` by its evaluation alone (``gates.Validation``); an evaluation that crashes
leaves it a draft.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from antiphon.catalog.learning.datasets import Dataset
from antiphon.catalog.learning.evaluations import Evaluation
from antiphon.catalog.releases.releases import Release
from antiphon.core.errors import ConflictError, ForbiddenError, InvalidInputError
from antiphon.core.ids import content_hash
from antiphon.durable.context import RunContext
from antiphon.learning.retraining.plan import TrainArguments, TrainingInputs, converted
from antiphon.learning.retraining.steps import RetrainingServices


class CandidateValidation:
    """The second half of a retraining, which needs the engine."""

    def __init__(self, services: RetrainingServices) -> None:
        self._services = services

    async def run(
        self, run: RunContext, request: TrainArguments, pinned: TrainingInputs, dataset: Dataset, release: Release
    ) -> dict[str, Any]:
        """Serves, evaluates, measures forgetting, checks the gates and begins a rollout when requested."""
        services, scope = self._services, run.scope
        live = await asyncio.to_thread(services.releases.live, scope, release.bundle.application.name)
        against = live.id if live is not None and live.id != release.id else None
        evaluation = await self.evaluate(run, "evaluate", release, dataset, against, request.texts, request.probes)
        forgotten = await self._forgetting(run, pinned, release)
        await services.run_regressions(release, request.principal)
        verdict = await run.step("validate", self._validate, release, evaluation, request.principal)
        begun: dict[str, Any] = {"rollout": None, "no_rollout": "It was not asked for."}
        if request.rollout:
            begun = await run.step("begin rollout", self._begin, run, request, release.id)
        run.progress(1, 1, f"{release.bundle.model.name} is {verdict['stage']}")
        return {
            **verdict,
            "evaluation_set": dataset.id,
            "evaluation": evaluation.id,
            "metrics": msgspec.to_builtins(evaluation.metrics),
            "gates": msgspec.to_builtins(evaluation.gates),
            "forgetting": forgotten,
            **begun,
        }

    async def evaluate(
        self, run: RunContext, step: str, release: Release, dataset: Dataset, against: str | None, texts: int,
        probes: int | None = None, *, with_seen: bool = False,
    ) -> Evaluation:  # fmt: skip
        """Has the release served and evaluates it, as a step; ``texts`` rows are asked for the whole output, and
        without any no safety suite is tried; of each half of one at most so many ``probes``."""

        async def evaluated() -> Any:
            def report(done: int, total: int, note: str) -> None:
                run.progress(done, total, f"{step}: {note}")

            # Not a step of its own: the engine may have been started anew since it was told to serve this model.
            run.progress(0, None, f"loading {release.bundle.model.name}")
            await self._services.serve(release)
            evaluation = await self._services.evaluator.evaluate(
                release,
                dataset,
                mode="classes",
                whole=texts,
                against=against,
                with_safety=texts > 0,
                probes=probes,
                with_seen=with_seen,
                id=f"eval_{content_hash([run.id, step])[:26]}",
                progress=report,
            )
            return msgspec.to_builtins(evaluation)

        return converted(await run.step(step, evaluated), Evaluation, step)

    async def _forgetting(self, run: RunContext, pinned: TrainingInputs, release: Release) -> dict[str, Any] | None:
        """Evaluates a version on the evaluation set of its parent."""
        services = self._services
        if pinned.before is None:
            return None
        before = await asyncio.to_thread(services.evaluations.get, run.scope, pinned.before)
        old = await asyncio.to_thread(services.datasets.get, run.scope, before.dataset)
        # What it saw meanwhile it should not have forgotten either.
        after = await self.evaluate(run, "measure forgetting", release, old, before.release, 0, with_seen=True)
        return {
            "evaluation_set": old.id,
            "evaluation": after.id,
            "before": msgspec.to_builtins(before.metrics),
            "after": msgspec.to_builtins(after.metrics),
            "difference": msgspec.to_builtins(after.difference),
        }

    def _validate(self, release: Release, evaluation: Evaluation, principal: str) -> dict[str, Any]:
        verdict = self._services.validation.validate(release, evaluation, principal=principal)
        return {"stage": verdict.release.stage, "reasons": list(verdict.reasons)}

    def _begin(self, run: RunContext, request: TrainArguments, release: str) -> dict[str, Any]:
        """Begins the rollout. A refusal is returned, not raised: the release is there all the same."""
        services, scope = self._services, run.scope
        under_way = services.rollouts.active(scope, request.application)
        if under_way is not None and under_way.candidate == release:
            return {"rollout": under_way.id, "no_rollout": None}  # begun by an attempt that died before it said so
        reason = request.reason or f"trained by {run.id}"
        try:
            begun = services.begin_rollout(scope, release, principal=request.principal, reason=reason)
        except (InvalidInputError, ConflictError, ForbiddenError) as error:
            return {"rollout": None, "no_rollout": str(error)}
        return {"rollout": begun.id, "no_rollout": None}
