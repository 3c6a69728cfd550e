"""Safety reports: how a release withstood the safety suites, by suite and category.

An evaluation on a dataset has the same summaries of suites in it; a report stands by itself, for an application that
has no evaluation set.
"""

from __future__ import annotations

import builtins
from datetime import datetime

import msgspec
from sqlalchemy import delete, insert
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.learning.evaluations import EvaluationGate, IntervalEstimate, JudgedMean, SuiteSummary
from antiphon.catalog.rows import SealedRows
from antiphon.core.scope import Scope


class SafetyReport(msgspec.Struct, frozen=True):
    """Measurements of one release that need no evaluation set, made through the function that serves.

    Attributes:
        requests: honest requests that were answered, on which the probes ride.
        valid_share: of their first attempts, those that meet the schema (without one: that are not empty).
        seconds_p50, seconds_p99: wall seconds of an honest answer at batch priority; ``tokens`` its mean tokens.
        rows_blob: the result of each request and of each probe.
        answered_share: of the honest requests, those that were answered.
        first_p50: wall seconds to the first token, in the middle.
        guarded_more: share of requests on which a guard acted, less that of the live release on the same ones.
        length_ratio: the middle answer is so many times as long, or as short, as the live release's to the same ones.
            ``None`` for both where the live release has answered none of them.
        metrics: means of the metrics that the application declares, by name; ``difference`` from the live release's
            answers to the same requests, ``judged`` and ``own_failures`` as an evaluation has them.
        against: the live release whose answers are compared with.
        units: of the user's own metrics that have one.
    """

    id: str
    scope: Scope
    application: str
    release: str
    model: str
    requests: int
    valid_share: float
    seconds_p50: float
    seconds_p99: float
    tokens: float
    suites: tuple[SuiteSummary, ...]
    gates: tuple[EvaluationGate, ...]
    fingerprints: tuple[str, ...]
    rows_blob: str
    created_at: datetime
    answered_share: float = 1.0
    first_p50: float = 0.0
    guarded_more: float | None = None
    length_ratio: float | None = None
    metrics: dict[str, IntervalEstimate] = {}
    difference: dict[str, IntervalEstimate] = {}
    judged: dict[str, JudgedMean] = {}
    own_failures: dict[str, int] = {}
    against: str | None = None
    units: dict[str, str] = {}

    @property
    def passed(self) -> bool:
        """True unless a gate failed."""
        return all(gate.passed is not False for gate in self.gates)


class SafetyReports:
    """Repository of safety reports. A report never changes; another one of the same release is another row."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = SealedRows(database, "safety_reports.document", SafetyReport)

    def add(self, report: SafetyReport, *, within: Connection | None = None) -> SafetyReport:
        """Record a report in the place of the answers that were kept for it. Of two processes that made the same one,
        the first records it, and both get that."""
        kept, scope = schema.evaluation_answers, report.scope
        with self._database.writing(within) as connection:
            known = self._documents.get(scope, report.id, within=connection)
            if known is None:
                connection.execute(insert(schema.safety_reports).values(self._documents.row(report)))
            connection.execute(delete(kept).where(schema.owned(kept, scope, evaluation=report.id)))
        return known or report

    def get(self, scope: Scope, report: str) -> SafetyReport:
        """One report; raises ``NotFoundError`` when there is none of this id here."""
        return self._documents.require(scope, report, "safety report", "Run `antiphon evaluations safety`.")

    def list(
        self, scope: Scope, application: str | None = None, release: str | None = None, limit: int = 50
    ) -> list[SafetyReport]:
        """Reports, latest first."""
        return self._latest(scope, limit, application=application, release=release)

    def latest(self, scope: Scope, release: str) -> SafetyReport | None:
        """The newest report of a release, ``None`` without one."""
        found = self._latest(scope, 1, release=release)
        return found[0] if found else None

    def _latest(self, scope: Scope, limit: int, **of: str | None) -> builtins.list[SafetyReport]:
        table = schema.safety_reports
        order = (table.c.created_at.desc(), table.c.id.desc())
        return self._documents.find(scope, *schema.given(table, **of), order=order, limit=limit)
