"""Scheduled reports of drift: made by a durable run of the worker, and kept as that run's result.

Invariant: a report is a run's result, written once, when the run has ended well; the newest one is that of the latest
such run. An application whose report fails has a sentence in its place, and the others have theirs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from antiphon.catalog.releases.releases import Releases
from antiphon.core.clock import Clock
from antiphon.core.errors import UnavailableError
from antiphon.core.scope import Scope
from antiphon.durable.context import RunContext
from antiphon.durable.run import Run
from antiphon.durable.runs import Runs
from antiphon.learning.outcomes.drift_report import DriftReader, DriftReport, reason_of

_log = logging.getLogger(__name__)

WORKFLOW = "drift"
"""The workflow's name in the registry."""


class DriftWarning(msgspec.Struct, frozen=True):
    """The variables that have drifted by an application's newest report, since when the first of them
    has, and since when the ``latest``."""

    application: str
    variables: tuple[str, ...]
    since: datetime
    latest: datetime
    at: datetime


@dataclass(frozen=True, kw_only=True)
class DriftReports:
    """The reports of drift that were kept, and the workflow that makes them."""

    runs: Runs
    releases: Releases
    reader: DriftReader
    clock: Clock

    def newest(self, scope: Scope, application: str) -> DriftReport | None:
        """The newest report of an application; ``None`` before the first."""
        return _kept(self._latest(scope)).get(application)

    def warnings(self, scope: Scope) -> tuple[DriftWarning, ...]:
        """A warning of each live application whose newest report says that something has drifted."""
        live = set(self.releases.applications(scope))
        found = (report for name, report in _kept(self._latest(scope)).items() if name in live and report.shifted)
        return tuple(
            DriftWarning(
                report.application,
                tuple(one.name for one in report.shifted),
                min(one.since or report.at for one in report.shifted),
                max(one.since or report.at for one in report.shifted),
                report.at,
            )
            for report in found
        )

    async def make(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """The workflow: a report of each application that is live, a step each."""
        names = await run.step("applications", self.releases.applications, run.scope)
        reports = {}
        for place, name in enumerate(names):
            run.progress(place, len(names), name)
            reports[name] = await run.step(f"report {name}", self._report, run.scope, name)
        run.progress(len(names), len(names))
        return {"reports": reports}

    async def _report(self, scope: Scope, application: str) -> Any:
        before = self.newest(scope, application)
        try:
            found = await self.reader.compare_all(scope, application)
        except UnavailableError:
            raise  # The catalog is away: the step is done again.
        except Exception as error:
            # What was known before stays, with its moment: one bad day begins no drift anew.
            known = before or DriftReport(application, self.clock.now())
            found = msgspec.structs.replace(known, problems=(f"Nothing is compared: {reason_of(error)}",))
        found = found.continuing(before)
        if found.shifted:
            names = ", ".join(one.name for one in found.shifted)
            _log.warning("%s has drifted: %s; `antiphon outcomes drift %s --kept`", application, names, application)
        return msgspec.to_builtins(found)

    def _latest(self, scope: Scope) -> Run | None:
        found = self.runs.list(scope, 1, workflow=WORKFLOW, status="succeeded")
        return found[0] if found else None


def _kept(run: Run | None) -> dict[str, DriftReport]:
    try:
        return msgspec.convert((run.result or {}).get("reports", {}), dict[str, DriftReport]) if run else {}
    except msgspec.ValidationError:
        return {}  # Another version wrote them; the next ones replace them.
