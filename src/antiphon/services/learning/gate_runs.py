"""The durable workflow of gates: wait for features and engine, measure, validate, make live or begin the rollout.

Invariants:
- No release reaches users by it unless it passed every gate; what could not be measured does not pass.
- That is one transaction with the check that nothing took its place: another live release, a rollout, a later apply.
- A crash at any point leaves what was live alone; whoever goes on asks no answered question again.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.releases.releases import Release
from antiphon.core.errors import AntiphonError, ConflictError, CorruptionError, InvalidInputError, NotFoundError
from antiphon.core.ids import content_hash
from antiphon.durable.context import RunContext
from antiphon.learning.evaluation.asking import TRANSIENT_ERRORS, Progress
from antiphon.learning.evaluation.scores import NoProbabilityError
from antiphon.learning.evaluation.validation import ValidationResult
from antiphon.releases.candidate import NOT_PASSED, unread
from antiphon.services.features.sampled_keys import sampled_keys
from antiphon.services.learning.gate_orders import GateArguments, GatesRunResult
from antiphon.services.learning.safety import REQUESTS, sampled_requests
from antiphon.services.learning.training import LearningPlatform
from antiphon.services.rollouts import feature_exists, rollout_transitions

LOOK_SECONDS = 0.5
"""Interval of looks for features and engine that a release waits for."""

ROWS, TEXTS = 400, 100
"""Rows of an evaluation set that are asked, and those of them that are asked for the whole output."""

PROBES = 12
"""Held-out probes of each safety suite, spread over categories and languages."""

MOST_ROUNDS = 10
"""Measurements that are begun at most; each waits a minute for an engine that leaves while it is asked."""


class GateWorkflow:
    """The workflow with what it needs, for one project."""

    def __init__(self, learning: LearningPlatform) -> None:
        self._learning = learning
        self._store = learning.store

    async def run(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Hold a release against its gates; a :class:`GatesRunResult` as JSON.

        Raises:
            ConflictError: another apply took its place.
        """
        order = msgspec.convert(arguments, GateArguments)
        release = await asyncio.to_thread(self._store.releases.get, run.scope, order.release)
        await self._await_parts(run, release)
        chosen = await run.step("choose the evaluation set", evaluation_set, self._learning, release)
        for left in reversed(range(MOST_ROUNDS)):
            try:
                measured = await run.step("measure", self._measured, run, order, release, chosen)
                found = msgspec.convert(measured, GatesRunResult)
                break
            except TRANSIENT_ERRORS as error:  # The engine left while it was asked, or the request ends it each time.
                found = GatesRunResult(False, None, (f"it could not be measured: {error.what}",))
                if left:
                    await self._pause(run, f"waits: {error.what}")
                    await self._await_parts(run, release)
            except (InvalidInputError, CorruptionError) as error:
                found = GatesRunResult(False, None, (error.what,))
                break
        result: dict[str, Any] = await run.transaction(
            "conclude", partial(self._conclude, run.id, order, release, found)
        )
        return result

    async def _await_parts(self, run: RunContext, release: Release) -> None:
        """Return once everything is there that answers need, however long that takes."""
        while True:
            if gone := await asyncio.to_thread(self._unpublished, release):
                await self._pause(run, f"waits for the features {', '.join(gone)}")
                continue
            try:
                await self._learning.serve(release)
            except TRANSIENT_ERRORS as error:
                await self._pause(run, f"waits for the engine: {error.what}")
                continue
            run.progress(0, None, "begins to measure")  # It may take a while until there is a first figure.
            return

    def _unpublished(self, release: Release) -> list[str]:
        """Views that the release reads and that cannot be read yet."""
        store, scope = self._store, release.scope
        gone = unread(feature_exists(store), scope, release)
        if gone or store.publications.snapshots(scope):
            return gone
        own = release.bundle.application.own_features.items()
        kinds = {view: store.definitions.get(scope, view, version).source.kind for view, version in own}
        return sorted(view for view, kind in kinds.items() if kind != "feast")

    async def _pause(self, run: RunContext, note: str) -> None:
        run.progress(0, None, note)
        if run.stopping:
            raise asyncio.CancelledError
        await asyncio.sleep(LOOK_SECONDS)

    async def _measured(
        self, run: RunContext, order: GateArguments, release: Release, chosen: dict[str, str]
    ) -> dict[str, Any]:
        """A :class:`GatesRunResult` as JSON."""
        learning, validation, why = self._learning, self._learning.validation, chosen["why"]
        await learning.run_regressions(release, order.principal, run.progress)
        verdict: ValidationResult | None = None
        if not why:
            try:
                dataset = await asyncio.to_thread(self._store.datasets.get, release.scope, chosen["dataset"])
                evaluation = await learning.evaluators.on_datasets.evaluate(
                    release, dataset, mode="classes", limit=ROWS, whole=TEXTS, probes=PROBES, against=order.instead_of,
                    id=f"eval_{content_hash([run.id, 'gates'])[:26]}", progress=run.progress,
                )  # fmt: skip
                verdict = await asyncio.to_thread(
                    partial(validation.validate, release, evaluation, principal=order.principal)
                )
            except NoProbabilityError as error:
                why = error.what
        if verdict is None:
            verdict = await validate_without_set(learning, release, principal=order.principal, progress=run.progress)
        found: dict[str, Any] = msgspec.to_builtins(
            GatesRunResult(verdict.passed, verdict.evaluation.id, verdict.reasons, note=why)
        )
        return found

    def _conclude(
        self, run: str, order: GateArguments, release: Release, found: GatesRunResult, connection: Connection
    ) -> dict[str, Any]:
        store, scope = self._store, release.scope
        if store.runs.get(scope, run, within=connection).cancel_requested:
            raise ConflictError("The run was canceled, or another release took its place.", where=run)
        if not found.passed:
            why = f"{NOT_PASSED}: {' '.join(found.reasons)}"
            present = store.releases.get(scope, release.id, within=connection)
            if present.stage in ("draft", "validated"):
                store.releases.set_stage(
                    scope, release.id, "draft", principal=order.principal, reason=why, again=True, within=connection
                )
        elif order.goal != "validated":
            found = self._sent(order, release, found, connection)
        else:
            without = f"; without an evaluation set: {found.note}" if found.note else ""
            found = msgspec.structs.replace(found, note=f"validated; {order.held}{without}")
        outcome = "live" if found.live else "rollout" if found.rollout else "passed" if found.passed else "failed"
        detail = {"application": order.application, "state": outcome, "evaluation": found.on, "run": run}
        detail["reason"] = " ".join((*found.reasons, found.note)).strip()
        store.audit.append(scope, order.principal, "release.gates", release.id, detail, within=connection)
        result: dict[str, Any] = msgspec.to_builtins(found)
        return result

    def _sent(
        self, order: GateArguments, release: Release, found: GatesRunResult, connection: Connection
    ) -> GatesRunResult:
        store, scope = self._store, release.scope
        live = store.releases.live(scope, order.application, within=connection)
        begins = order.goal == "rollout" and live is not None
        again = (
            f"`antiphon releases rollout {order.release}` sends it on its way."
            if begins
            else f"`antiphon releases activate {order.application} {order.release} --reason …` makes it live."
        )
        if (None if live is None else live.id) not in (order.instead_of, release.id):
            assert live is not None, "a live pointer never goes away"
            note = f"validated; release {live.number} went live meanwhile. {again}"
            return msgspec.structs.replace(found, note=note)
        on = f"{found.on}; without an evaluation set: {found.note}" if found.note else found.on
        why = f"{order.reason}; passed its gates ({on})"
        transitions, by = rollout_transitions(store), order.principal
        try:
            if begins:
                begun = transitions.begin(scope, release.id, principal=by, reason=why, within=connection)
                return msgspec.structs.replace(found, rollout=begun.id)
            transitions.activate(scope, order.application, release.id, principal=by, reason=why, within=connection)
        except AntiphonError as error:  # A rollout began meanwhile, or its model changed.
            return msgspec.structs.replace(found, note=f"validated; {error.what} {again}")
        return msgspec.structs.replace(found, live=True)


def evaluation_set(learning: LearningPlatform, release: Release, rows: int = ROWS) -> dict[str, str]:
    """The ``dataset`` of rows with a known truth, where there are enough of them, or ``why`` there is none."""
    application = release.bundle.application
    if application.outcome is None:
        return {"dataset": "", "why": "no outcome is declared"}
    try:
        dataset = learning.held_out(release.scope, release, rows)
    except (InvalidInputError, NotFoundError, ConflictError) as error:
        return {"dataset": "", "why": error.what}
    few = f"{dataset.rows} rows have a known outcome, and {application.gates.rows} are needed"
    return {"dataset": dataset.id, "why": few if dataset.rows < application.gates.rows else ""}


async def validate_without_set(
    learning: LearningPlatform, release: Release, *, principal: str, progress: Progress | None = None
) -> ValidationResult:
    """Hold a release against the gates that need no evaluation set; raises as ``SafetyEvaluator.evaluate``."""
    store, reader = learning.store, learning.features.reader(release.scope)
    entities = await asyncio.to_thread(sampled_keys, store, learning.features.catalog, release, REQUESTS)
    live = await asyncio.to_thread(store.releases.live, release.scope, release.bundle.application.name)
    live = None if live is not None and live.id == release.id else live
    requests, before = await asyncio.to_thread(sampled_requests, store, release, reader, entities, live)
    report = await learning.evaluators.on_requests.evaluate(
        release, requests, reader, most=PROBES, halves=(True,), before=before, live=live, progress=progress
    )
    check = partial(learning.validation.validate_without_set, release, report, principal=principal)
    return await asyncio.to_thread(check)
