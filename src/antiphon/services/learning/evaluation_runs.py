"""The durable workflow of a scheduled evaluation: a release is measured anew on the moments that are held out now."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from antiphon.catalog.learning.evaluations import Evaluation
from antiphon.core.ids import content_hash
from antiphon.durable.context import RunContext
from antiphon.learning.evaluation.gates import check
from antiphon.services.learning.training import LearningPlatform


class EvaluationOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A release of an application to evaluate on so many rows, ``texts`` of them whole, in the name of a principal."""

    application: str
    release: str
    rows: int
    texts: int
    principal: str


class EvaluationRuns:
    """The workflow with what it needs, for one project."""

    def __init__(self, learning: LearningPlatform) -> None:
        self._learning = learning

    async def run(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Evaluate a release and check its gates; its stage stays as it is. An attempt goes on with the answers of the
        one before.

        Raises:
            NotFoundError: the release is gone. InvalidInputError: nothing is held out to evaluate on.
            UnavailableError: the engine does not serve its model.
        """
        order, learning, store = msgspec.convert(arguments, EvaluationOrder), self._learning, self._learning.store
        release = await asyncio.to_thread(store.releases.get, run.scope, order.release)

        def chosen() -> str:
            return learning.held_out(run.scope, release, order.rows).id

        dataset = store.datasets.get(run.scope, await run.step("choose the evaluation set", chosen))
        await learning.serve(release)

        async def measured() -> dict[str, Any]:
            evaluation: Evaluation = await learning.evaluators.on_datasets.evaluate(
                release, dataset, mode="classes", limit=order.rows, whole=order.texts, with_safety=False,
                id=f"eval_{content_hash([run.id])[:26]}", progress=run.progress,
            )  # fmt: skip
            failed = [gate.reason for gate in check(evaluation, release.bundle.application) if gate.passed is False]
            return {"evaluation": evaluation.id, "failed_gates": failed}

        return {"release": release.id, **(await run.step("measure", measured))}
