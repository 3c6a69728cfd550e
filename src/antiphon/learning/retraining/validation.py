"""What a new version must show: served, evaluated, held against its gates and, when that is asked for, sent on its way.

Invariant: a release enters ``validated`` by its evaluation alone (``gates.Validation``); an evaluation that crashes
leaves it a draft.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from antiphon.catalog.datasets import Dataset
from antiphon.catalog.evaluations import Evaluation
from antiphon.catalog.releases import Release
from antiphon.core.errors import ConflictError, ForbiddenError, InvalidInputError
from antiphon.core.ids import content_hash
from antiphon.learning.retraining.plan import TrainArguments, TrainingInputs, converted
from antiphon.learning.retraining.ports import Run
from antiphon.learning.retraining.steps import RetrainingServices


class CandidateValidation:
    """The second half of a retraining, which needs the engine."""

    def __init__(self, services: RetrainingServices) -> None:
        self._services = services

    async def show(
        self, run: Run, wanted: TrainArguments, pinned: TrainingInputs, dataset: Dataset, release: Release
    ) -> dict[str, Any]:
        """Everything that needs the engine: serve, evaluate, measure forgetting, hold against the gates, begin."""
        services, scope = self._services, run.scope
        live = await asyncio.to_thread(services.releases.live, scope, release.bundle.application.name)
        against = live.id if live is not None and live.id != release.id else None
        evaluation = await self._evaluate(run, "evaluate", release, dataset, against, wanted.texts)
        forgotten = await self._forgetting(run, pinned, release)
        verdict = await run.step("validate", self._validate, release, evaluation, wanted.principal)
        begun: dict[str, Any] = {"rollout": None, "no_rollout": "It was not asked for."}
        if wanted.rollout:
            begun = await run.step("begin rollout", self._begin, run, wanted, release.id)
        run.progress(1, 1, f"{release.bundle.model.name} is {verdict['stage']}")
        return {
            **verdict,
            "evaluation_set": dataset.id,
            "evaluation": evaluation.id,
            "auc": msgspec.to_builtins(evaluation.auc),
            "brier": msgspec.to_builtins(evaluation.brier),
            "gates": msgspec.to_builtins(evaluation.gates),
            "forgetting": forgotten,
            **begun,
        }

    async def _evaluate(
        self, run: Run, step: str, release: Release, dataset: Dataset, against: str | None, texts: int
    ) -> Evaluation:
        async def evaluate() -> Any:
            def tell(done: int, total: int, note: str) -> None:
                run.progress(done, total, f"{step}: {note}")

            # Not a step of its own: the engine may have been started anew since it was told to serve this model.
            run.progress(0, None, f"loading {release.bundle.model.name}")
            await self._services.serve(release)
            evaluation = await self._services.evaluate(
                release,
                dataset,
                id=f"eval_{content_hash([run.id, step])[:26]}",
                against=against,
                texts=texts,
                progress=tell,
            )
            return msgspec.to_builtins(evaluation)

        return converted(await run.step(step, evaluate), Evaluation, step)

    async def _forgetting(self, run: Run, pinned: TrainingInputs, release: Release) -> dict[str, Any] | None:
        """How a version that went on from another one does on what that one was evaluated on."""
        services = self._services
        if pinned.before is None:
            return None
        before = await asyncio.to_thread(services.evaluation, run.scope, pinned.before)
        old = await asyncio.to_thread(services.dataset, run.scope, before.dataset)
        after = await self._evaluate(run, "measure forgetting", release, old, before.release, 0)
        return {
            "evaluation_set": old.id,
            "evaluation": after.id,
            "before": {"auc": msgspec.to_builtins(before.auc), "brier": msgspec.to_builtins(before.brier)},
            "after": {"auc": msgspec.to_builtins(after.auc), "brier": msgspec.to_builtins(after.brier)},
            "difference": msgspec.to_builtins(after.difference),
        }

    def _validate(self, release: Release, evaluation: Evaluation, principal: str) -> dict[str, Any]:
        verdict = self._services.validate(release, evaluation, principal=principal)
        return {"stage": verdict.release.stage, "reasons": list(verdict.reasons)}

    def _begin(self, run: Run, wanted: TrainArguments, release: str) -> dict[str, Any]:
        """Send it on its way; what stands against that is said, not raised: the release is there all the same."""
        services, scope = self._services, run.scope
        under_way = services.under_way(scope, wanted.application)
        if under_way is not None and under_way.candidate == release:
            return {"rollout": under_way.id, "no_rollout": None}  # begun by an attempt that died before it said so
        reason = wanted.reason or f"trained by {run.id}"
        try:
            begun = services.begin(scope, release, principal=wanted.principal, reason=reason)
        except (InvalidInputError, ConflictError, ForbiddenError) as error:
            return {"rollout": None, "no_rollout": str(error)}
        return {"rollout": begun.id, "no_rollout": None}
