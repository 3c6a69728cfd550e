"""Regression sets of one project: cases from predictions and files, and the gate of the sets that a release names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from antiphon.catalog.learning.regressions import Expectation, RegressionCase, SetVersion, Split
from antiphon.catalog.releases.releases import Release
from antiphon.catalog.serving.receipt import Receipt
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import set_name
from antiphon.governance.identity.principal import Principal
from antiphon.learning.workbench.asking import known_outcomes, text_of
from antiphon.learning.workbench.expectations import suggested
from antiphon.learning.workbench.regressions import CaseLine, case_of, line_of, regression_reasons, request_of
from antiphon.services.learning.workbench import Workbench
from antiphon.services.project.store import Store
from antiphon.serving.recorded import recorded_request


@dataclass(frozen=True)
class ProjectRegressions:
    """Regression sets as the gateway and the commands use them."""

    store: Store
    workbench: Workbench

    def suggestion(self, scope: Scope, receipt: Receipt) -> tuple[Expectation, ...]:
        """The expectations that outcomes and annotations of a prediction suggest; none where nothing is known."""
        bundle, text = self.workbench.bundle(scope, receipt.release), text_of(receipt, self.store.blobs)
        if bundle is None or text is None:
            return ()
        outcomes = self.store.outcomes.of_prediction(scope, receipt.prediction)
        return suggested(text, bundle.application, outcomes, self.workbench.annotations(scope, receipt.prediction))

    def add_case(
        self, scope: Scope, who: Principal, prediction: str, name: str, expect: Sequence[Expectation] = (), *,
        split: Split = "visible", note: str = "",
    ) -> tuple[SetVersion, RegressionCase]:  # fmt: skip
        """Turn a prediction into a case of a regression set, which begins with it if there is none of the name.

        Args:
            expect: what of an answer; by default what is known of the prediction suggests.

        Raises:
            NotFoundError: there is no such prediction, or a text of it is erased.
            ForbiddenError: policy keeps it, or the application's sets, from this principal.
            InvalidInputError: nothing is expected, or what no answer could show, or the set is of another application.
        """
        _check_name(name)
        receipt = self.workbench.records.require_prediction(scope, who, prediction)
        self.workbench.require(who, "train", f"application/{receipt.application}")
        application = self._application(scope, receipt.application, receipt.release)
        request = recorded_request(receipt, self.store.blobs, self.store.conversations)
        case = case_of(
            scope, name, request, expect or self.suggestion(scope, receipt),
            application, prediction=prediction, author=who.id, at=self.store.database.clock.now(), note=note,
            outcomes=known_outcomes(self.store.outcomes, scope, [prediction], application).get(prediction, {}),
        )  # fmt: skip
        return self._added(scope, who, name, [(case, split)], note or f"from {prediction}"), case

    def add_lines(self, scope: Scope, who: Principal, name: str, lines: Iterable[CaseLine], reason: str) -> SetVersion:
        """Add the cases of a file to a set, all of them or none; raises as :meth:`add_case`."""
        _check_name(name)
        cases: list[tuple[RegressionCase, Split]] = []
        known: dict[str, ApplicationSpec] = {}
        for number, line in enumerate(lines, 1):
            if line.application not in known:
                self.workbench.require(who, "train", f"application/{line.application}")
                known[line.application] = self._application(scope, line.application, None)
            try:
                case = case_of(
                    scope, name, request_of(line), line.expect, known[line.application], prediction=line.prediction,
                    author=who.id, at=self.store.database.clock.now(), note=line.note, outcomes=line.outcomes,
                )  # fmt: skip
            except InvalidInputError as error:
                raise InvalidInputError(
                    error.what, where=f"case {number}, {error.where}", next_step=error.next_step
                ) from None
            cases.append((case, line.split))
        return self._added(scope, who, name, cases, reason)

    def lines(self, version: SetVersion, split: Split | None = None) -> list[CaseLine]:
        """The cases of a set as lines of a file, without those that were erased."""
        found = self.store.regressions.cases(version, split)
        return [line_of(case, version.cases[name]) for name, case in found.items() if case is not None]

    def remove_case(
        self, scope: Scope, who: Principal, name: str, case: str, *, reason: str, erase: bool
    ) -> SetVersion:
        """Leave a case out of the next version of a set; ``erase`` also deletes what it holds."""
        application = self.store.regressions.version(scope, name).application
        self.workbench.require(who, "train", f"application/{application}")
        with self.store.database.transaction() as connection:
            version = self.store.regressions.remove_case(
                scope, name, case, author=who.id, reason=reason, erase=erase, within=connection
            )
            action = "regression.erase" if erase else "regression.remove"
            self.workbench.audit(
                scope, who, action, f"regressions/{name}", connection, version=version.version, reason=reason
            )
        return version

    def _added(
        self, scope: Scope, who: Principal, name: str, cases: Sequence[tuple[RegressionCase, Split]], reason: str
    ) -> SetVersion:
        with self.store.database.transaction() as connection:
            version = self.store.regressions.add_cases(
                scope, name, cases, author=who.id, reason=reason, within=connection
            )
            counted = {"version": version.version, "count": len(cases)}
            self.workbench.audit(scope, who, "regression.add", f"regressions/{name}", connection, **counted)
        return version

    def _application(self, scope: Scope, name: str, release: str | None) -> ApplicationSpec:
        """An application as a prediction's release has it, else as it is live, else as its newest release has it."""
        bundle = None if release is None else self.workbench.bundle(scope, release)
        if bundle is not None:
            return bundle.application
        newest = self.store.releases.live(scope, name) or next(iter(self.store.releases.list(scope, name)), None)
        if newest is None:
            raise NotFoundError(
                f"There is no application {name!r} with a release.",
                where=str(scope),
                next_step="See `antiphon releases list`; a plain model has no regression sets.",
            )
        return newest.bundle.application


def failed_regressions(store: Store, release: Release) -> list[str]:
    """Reasons why a release does not pass the regression sets that its gates name; none where it does."""
    return regression_reasons(
        release,
        lambda name: newest_version(store, release.scope, name),
        lambda name, version: store.regressions.runs(release.scope, name, release.id, version),
    )


def newest_version(store: Store, scope: Scope, name: str) -> SetVersion | None:
    """The present version of a set, if there is one."""
    try:
        return store.regressions.version(scope, name)
    except NotFoundError:
        return None


def _check_name(name: str) -> None:
    if not set_name(name):
        raise InvalidInputError(
            f"{name[:120]!r} is no name of a set.",
            where="set",
            next_step="Take lower-case letters, digits, hyphens and underscores.",
        )
