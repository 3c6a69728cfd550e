"""Durable runs of one project: reading, canceling, and starting a refresh."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from antiphon.batch.orders import WORKFLOW as TABLE_JOB
from antiphon.batch.request_batches import WORKFLOW as OPENAI_BATCH
from antiphon.catalog.batch.batches import Batches
from antiphon.core.errors import ConflictError
from antiphon.core.scope import Scope
from antiphon.durable.run import Run
from antiphon.governance.identity.principal import Principal
from antiphon.learning.workbench.optimizer import WORKFLOW as OPTIMIZE
from antiphon.orchestration.conductor.waiting import RunWait
from antiphon.services.conducting.run_waits import RunWaits
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.governance.policies import require_cancel
from antiphon.services.learning.workbench_orders import kept_under
from antiphon.services.project.store import Store


class ProjectRuns:
    """Durable runs, and starting a refresh."""

    def __init__(self, store: Store, features: FeaturePlatform) -> None:
        self._store = store
        self._features = features
        self._waits = RunWaits(store)

    def get(self, scope: Scope, run: str) -> Any:
        return self._store.runs.get(scope, run)

    def list(self, scope: Scope, limit: int = 50) -> Any:
        return self._store.runs.list(scope, limit=limit)

    def waits(self, scope: Scope, runs: Iterable[Run]) -> Mapping[str, RunWait]:
        """The wait of those of these runs that have not begun, by id."""
        return self._waits.of(scope, runs)

    def cancel(self, scope: Scope, run: str, by: Principal) -> Any:
        require_cancel(self._store, by, self._store.runs.get(scope, run))
        with self._store.database.transaction() as connection:
            found = self._store.runs.get(scope, run, within=connection)
            if found.workflow == OPENAI_BATCH:
                # Its worker ends it, with the files of what was done.
                Batches(self._store.database).cancel(scope, str(found.arguments["batch"]), within=connection)
                return found
            cancelled = self._store.runs.cancel(scope, run, within=connection)
            if cancelled.workflow == OPTIMIZE and cancelled.status == "cancelled":
                # One under way forgets them itself, once it has stopped.
                self._store.evaluations.forget_answers(scope, kept_under(run), within=connection)
            job = cancelled.arguments.get("job") if cancelled.workflow == TABLE_JOB else None
            if job is not None:
                with contextlib.suppress(ConflictError):  # it ended before
                    self._store.jobs.set_status(scope, str(job), "cancelled", within=connection)
        return cancelled

    def refresh(
        self, scope: Scope, views: Sequence[str], as_of: datetime | None, key: str | None = None, whole: bool = False
    ) -> Any:
        run = self._features.refresh(
            scope, views=views, as_of=as_of, reason="requested", principal="admin", key=key, whole=whole
        )
        return self._store.runs.get(scope, run)
