"""Regression sets: requests with what is expected of every answer to them, in versions; and how releases did on them.

Invariants: a version never changes, a change is the next one; a run names the version that it is of. A case that is
erased leaves its versions with a hole, which runs say, and no content.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import SealedRows, missing
from antiphon.catalog.serving.conversations import ConversationTurn
from antiphon.catalog.serving.receipt import FeatureReceipt
from antiphon.core.errors import ConflictError, InvalidInputError
from antiphon.core.scope import Scope

Split = Literal["visible", "held-out"]
ExpectationKind = Literal["text", "not_text", "contains", "lacks", "label", "schema", "guard", "metric"]


class Expectation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that is expected of an answer.

    Attributes:
        kind: ``text``: exactly this; ``not_text``: anything but this; ``contains`` and ``lacks``: has this in it or
            not, whatever the case of letters; ``label``: ``property`` has this value; ``schema``: the first attempt
            meets the application's schema; ``guard``: the guard of this name, or every one, lets the first attempt
            pass; ``metric``: the application's metric ``property`` is ``at least X`` or ``at most X``.
    """

    kind: ExpectationKind
    value: str = ""
    property: str = ""


class RegressionCase(msgspec.Struct, frozen=True):
    """A request that stands by itself, with what is expected.

    Attributes:
        id: hash of set, request and expectations.
        prediction: the one that it was made from.
        features: of then; those of views that are not named are read as of the moment, ``as_of`` or now.
        turns: the earlier ones of its conversation.
        outcomes: by name, that were known of the prediction: for metrics that compare with what came true.
        note: in the author's words.
    """

    id: str
    scope: Scope
    regression_set: str
    application: str
    expect: tuple[Expectation, ...]
    author: str
    created_at: datetime
    prediction: str | None = None
    entity: dict[str, str] = {}
    question: str | None = None
    inputs: dict[str, Any] = {}
    as_of: datetime | None = None
    features: tuple[FeatureReceipt, ...] = ()
    publication: int | None = None
    turns: tuple[ConversationTurn, ...] = ()
    outcomes: dict[str, str] = {}
    note: str = ""


class SetVersion(msgspec.Struct, frozen=True):
    """One version of a regression set: its cases, each in its split, in the order in which they were added."""

    name: str
    version: int
    scope: Scope
    application: str
    cases: dict[str, Split]
    author: str
    reason: str
    created_at: datetime


class CaseVerdict(msgspec.Struct, frozen=True):
    """Result of one case: ``failed`` are sentences, one for each expectation that was not met."""

    case: str
    split: Split
    passed: bool
    failed: tuple[str, ...] = ()
    prediction: str | None = None
    error: str | None = None


class RegressionRun(msgspec.Struct, frozen=True):
    """A release on a version of a regression set, or on one ``split`` of it. ``fingerprints``: of what answered."""

    id: str
    scope: Scope
    regression_set: str
    version: int
    application: str
    release: str
    results: tuple[CaseVerdict, ...]
    fingerprints: tuple[str, ...]
    author: str
    created_at: datetime
    split: Split | None = None

    @property
    def passed(self) -> bool:
        """True when every case did."""
        return all(one.passed for one in self.results)


_sets, _cases, _runs = schema.regression_sets, schema.regression_cases, schema.regression_runs


class RegressionSets:
    """Repository of regression sets, their cases and their runs."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._versions = SealedRows(database, "regression_sets.document", SetVersion)
        self._documents = SealedRows(database, "regression_cases.payload", RegressionCase)
        self._run_documents = SealedRows(database, "regression_runs.document", RegressionRun)

    def add_cases(
        self, scope: Scope, name: str, cases: Sequence[tuple[RegressionCase, Split]], *, author: str, reason: str,
        within: Connection | None = None,
    ) -> SetVersion:  # fmt: skip
        """Put cases into a set's next version, its first if there is none; cases that it has are not added again.

        Raises:
            InvalidInputError: there is no case, or one is of another application than the set.
        """
        if not cases:
            raise InvalidInputError("There is no case to add.", where=name, next_step="Name at least one.")
        application = cases[0][0].application

        def added(before: SetVersion | None, connection: Connection) -> dict[str, Split]:
            known = {} if before is None else before.cases
            whose = application if before is None else before.application
            for case, _ in cases:
                if case.application != whose:
                    raise InvalidInputError(
                        f"The set {name!r} is of the application {whose}, the case of {case.application}.",
                        where=f"set {name}",
                        next_step="Name another set, or begin one.",
                    )
                row = self._documents.row(case)
                connection.execute(upsert(_cases).values(row).on_conflict_do_nothing())
            return known | {case.id: split for case, split in cases}

        return self._next(scope, name, application, added, author=author, reason=reason, within=within)

    def remove_case(
        self, scope: Scope, name: str, case: str, *, author: str, reason: str, erase: bool,
        within: Connection | None = None,
    ) -> SetVersion:  # fmt: skip
        """Leave a case out of a set's next version; ``erase`` also deletes what it holds, for earlier versions too."""

        def without(before: SetVersion | None, connection: Connection) -> dict[str, Split]:
            known = {} if before is None else before.cases
            if case not in known:
                raise missing("case", case, scope, f"See `antiphon evaluations show {name}`.")
            if erase:
                connection.execute(delete(_cases).where(schema.owned(_cases, scope, id=case)))
            return {one: split for one, split in known.items() if one != case}

        application = self.version(scope, name, within=within).application
        return self._next(scope, name, application, without, author=author, reason=reason, within=within)

    def version(
        self, scope: Scope, name: str, version: int | None = None, *, within: Connection | None = None
    ) -> SetVersion:
        """One version of a set, the newest by default; raises ``NotFoundError``."""
        conditions = [_sets.c.name == name, *schema.given(_sets, version=version)]
        found = self._versions.find(scope, *conditions, order=(_sets.c.version.desc(),), limit=1, within=within)
        if not found:
            what = name if version is None else f"{name}@{version}"
            raise missing("regression set", what, scope, "See `antiphon evaluations sets`.")
        return found[0]

    def names(self, scope: Scope, application: str | None = None) -> list[str]:
        """Names of sets, in order."""
        conditions = schema.given(_sets, application=application)
        statement = select(_sets.c.name).where(schema.owned(_sets, scope), *conditions).distinct()
        return [row.name for row in self._database.rows(statement.order_by(_sets.c.name))]

    def cases(self, version: SetVersion, split: Split | None = None) -> dict[str, RegressionCase | None]:
        """The cases of a version by id; ``None`` for one that was erased."""
        ids = [one for one, of in version.cases.items() if split in (None, of)]
        found = {
            one.id: one
            for one in self._documents.find(version.scope, _cases.c.regression_set == version.name)
            if one.id in version.cases
        }
        return {one: found.get(one) for one in ids}

    def of_prediction(
        self, scope: Scope, prediction: str, *, within: Connection | None = None
    ) -> builtins.list[RegressionCase]:
        """The cases that were made from a prediction."""
        made = _cases.c.prediction == prediction
        return self._documents.find(scope, made, order=(_cases.c.created_at,), within=within)

    def erase_all(
        self, scope: Scope, predictions: Sequence[str], *, author: str, reason: str, within: Connection | None = None
    ) -> int:
        """Take the cases that were made from some predictions out of their sets' next versions and delete what they
        hold, for earlier versions too; how many they were."""
        erased = 0
        with self._database.writing(within) as connection:
            for prediction in dict.fromkeys(predictions):
                for case in self.of_prediction(scope, prediction, within=connection):
                    if case.id in self.version(scope, case.regression_set, within=connection).cases:
                        self.remove_case(
                            scope, case.regression_set, case.id, author=author, reason=reason, erase=True,
                            within=connection,
                        )  # fmt: skip
                    connection.execute(delete(_cases).where(schema.owned(_cases, scope, id=case.id)))
                    erased += 1
        return erased

    def add_run(self, run: RegressionRun, *, within: Connection | None = None) -> RegressionRun:
        """Record a run in the place of the answers that were kept for it; of two that did the same the first counts."""
        kept, scope = schema.evaluation_answers, run.scope
        with self._database.writing(within) as connection:
            connection.execute(upsert(_runs).values(self._run_documents.row(run)).on_conflict_do_nothing())
            connection.execute(delete(kept).where(schema.owned(kept, scope, evaluation=run.id)))
            return self.run(scope, run.id, within=connection)

    def run(self, scope: Scope, run: str, *, within: Connection | None = None) -> RegressionRun:
        """One run; raises ``NotFoundError``."""
        return self._run_documents.require(
            scope, run, "regression run", "Run `antiphon evaluations run SET RELEASE`.", within=within
        )

    def runs(
        self, scope: Scope, name: str | None = None, release: str | None = None, version: int | None = None,
        limit: int = 50,
    ) -> builtins.list[RegressionRun]:  # fmt: skip
        """Runs, latest first."""
        conditions = schema.given(_runs, regression_set=name, release=release, version=version)
        order = (_runs.c.created_at.desc(), _runs.c.id.desc())
        return self._run_documents.find(scope, *conditions, order=order, limit=limit)

    def _next(
        self, scope: Scope, name: str, application: str,
        change: Callable[[SetVersion | None, Connection], dict[str, Split]],
        *, author: str, reason: str, within: Connection | None,
    ) -> SetVersion:  # fmt: skip
        with self._database.writing(within) as connection:
            order = (_sets.c.version.desc(),)
            before = next(
                iter(self._versions.find(scope, _sets.c.name == name, order=order, limit=1, within=connection)), None
            )
            cases = change(before, connection)
            if before is not None and before.cases == cases:
                return before
            version = SetVersion(
                name=name,
                version=1 if before is None else before.version + 1,
                scope=scope,
                application=application if before is None else before.application,
                cases=cases,
                author=author,
                reason=reason,
                created_at=self._database.clock.now(),
            )
            statement = upsert(_sets).values(self._versions.row(version)).on_conflict_do_nothing()
            if not connection.execute(statement).rowcount:
                raise ConflictError(
                    f"The set {name!r} was changed meanwhile.", where=str(scope), next_step="Do it again."
                )
        return version
