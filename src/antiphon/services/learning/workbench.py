"""The prompt workbench of one project: prompt versions and their requests, comparison of trials, and annotations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.learning.annotations import Annotation, annotation_id
from antiphon.catalog.learning.evaluations import IntervalEstimate
from antiphon.catalog.learning.trials import AnswerFigures, Trial
from antiphon.catalog.releases.releases import Bundle, Release
from antiphon.catalog.serving.receipt import SEEN_ROLES, Receipt
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.prompt import Prompt
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import Action
from antiphon.learning.evaluation.metrics import wilson
from antiphon.learning.evaluation.requests import result_of
from antiphon.learning.evaluation.scores import RowResult
from antiphon.learning.workbench.agreement import Agreement, agreements
from antiphon.learning.workbench.asking import known_outcomes, text_of
from antiphon.learning.workbench.comparison import (
    AnswerPair,
    Comparison,
    FigureDifference,
    TrialSide,
    answered_by_both,
    compare,
    shown_first,
)
from antiphon.learning.workbench.submission import AnnotationSubmission, checked
from antiphon.learning.workbench.trial_metrics import ComparedAnswers, compare_metrics
from antiphon.learning.workbench.trials import prompt_version
from antiphon.services.learning.drafts import DRAFT
from antiphon.services.project.store import Store
from antiphon.serving.records import Records

_SCANNED = 1_000
"""Outcomes and annotations that are looked through for complaints."""
LIVE = "live"
"""Names, in a comparison, what users got."""


class PromptVersion(msgspec.Struct, frozen=True):
    """One prompt of an application, and what was made with it.

    Attributes:
        version: hash of template, system text and examples.
        releases: that have it, latest first; ``live``: whether the live one has.
        requests: that users were answered with it, the latest at ``latest``.
    """

    version: str
    application: str
    prompt: Prompt
    releases: tuple[str, ...]
    live: bool
    requests: int
    latest: datetime | None
    since: datetime


class Complaint(msgspec.Struct, frozen=True):
    """A thumb down, another bad signal or a correction of a prediction, and who said so."""

    prediction: str
    kind: str
    value: str
    by: str
    at: datetime


class PreferenceCounts(msgspec.Struct, frozen=True):
    """Counts of what annotators preferred of two sides; ``share``: the second's of those that preferred one."""

    first: int = 0
    second: int = 0
    ties: int = 0
    share: IntervalEstimate | None = None


@dataclass(frozen=True)
class Workbench:
    """Use cases that need no engine. ``records`` decides who may read predictions."""

    store: Store
    records: Records

    # Prompt versions and their requests.

    def versions(self, scope: Scope, application: str) -> list[PromptVersion]:
        """The prompts that releases of an application have, the newest first."""
        counts = self.store.receipt_search.by_release(scope, application)
        live = self.store.releases.live(scope, application)
        found: dict[str, list[Release]] = {}
        for release in self.store.releases.list(scope, application):
            found.setdefault(prompt_version(release.bundle.application), []).append(release)
        return [
            PromptVersion(
                version=version,
                application=application,
                prompt=releases[0].bundle.application.prompt,
                releases=tuple(one.id for one in releases),
                live=live is not None and live.id in {one.id for one in releases},
                requests=sum(counts[one.id].requests for one in releases if one.id in counts),
                latest=max((counts[one.id].latest for one in releases if one.id in counts), default=None),
                since=releases[-1].created_at,
            )
            for version, releases in found.items()
        ]

    def version(self, scope: Scope, version: str, application: str | None = None) -> PromptVersion:
        """One prompt, of any application by default; raises ``NotFoundError``."""
        names = {one.bundle.application.name for one in self.store.releases.list(scope, application)}
        for name in sorted(names):
            for one in self.versions(scope, name):
                if one.version == version:
                    return one
        raise NotFoundError(
            f"There is no prompt version {version!r}.", where=str(scope), next_step="See `antiphon prompts list`."
        )

    def requests(
        self, scope: Scope, version: PromptVersion, before: datetime | None = None, limit: int = 50
    ) -> list[Receipt]:
        """Requests that users were answered with a prompt, latest first."""
        return self.store.receipts.list(
            scope, version.application, before=before, limit=limit, roles=SEEN_ROLES, releases=version.releases
        )

    def version_of(self, scope: Scope, receipt: Receipt) -> str | None:
        """The version of the prompt that a prediction was made with; ``None`` of a plain model."""
        bundle = self.bundle(scope, receipt.release)
        return None if bundle is None else prompt_version(bundle.application)

    # Comparison.

    def comparison(self, scope: Scope, first: str, second: str | None = None) -> Comparison:
        """Compare two trials, or a trial with what users got.

        Args:
            first, second: a trial, a release (its newest trial), or ``live``; without a second one, ``live`` and this.

        Raises:
            NotFoundError: there is no such trial. InvalidInputError: they are of two applications, or share no request.
        """
        if second is None:
            first, second = LIVE, first
        trials = [None if name == LIVE else self._trial(scope, name) for name in (first, second)]
        known = [one for one in trials if one is not None]
        if not known or len({one.application for one in known}) > 1:
            raise InvalidInputError(
                "Two trials of one application are compared, or one with what users got.",
                where="compare",
                next_step="See `antiphon prompts trials`.",
            )
        ours, theirs = (self._side(scope, one, known[-1]) for one in trials)
        shared = [one for one in ours.answers if one in theirs.answers]
        if not shared:
            raise InvalidInputError(
                "The two trials have no request in common.",
                where=f"{first}, {second}",
                next_step=f"Try one on the other's requests: `antiphon prompts try … --same-as {known[0].id}`.",
            )
        users = {one: self.store.receipts.get(scope, one).user or one for one in shared}
        return compare(
            ours,
            theirs,
            users=users,
            identical={one: self._alike(scope, ours.answers[one], theirs.answers[one]) for one in shared},
            metrics=self._metrics(scope, _measured_application(known), (ours, theirs), users),
        )

    def _metrics(
        self, scope: Scope, application: ApplicationSpec, sides: tuple[TrialSide, TrialSide], users: Mapping[str, str]
    ) -> tuple[FigureDifference, ...]:
        both = answered_by_both(*sides)
        outcomes = known_outcomes(self.store.outcomes, scope, both, application)
        first, second = (
            {
                one: self._row(scope, application, one, users[one], side.answers[one], outcomes.get(one, {}))
                for one in both
            }
            for side in sides
        )
        named = [row.prediction for rows in (first, second) for row in rows.values() if row.prediction is not None]
        said = self.store.annotations.of_predictions(scope, named) if application.judge_metrics else ()
        answers = ComparedAnswers((sides[0].name, sides[1].name), first, second, tuple(said))
        return compare_metrics(application, answers)

    def _row(
        self, scope: Scope, application: ApplicationSpec, request: str, user: str, figures: AnswerFigures,
        outcomes: Mapping[str, str],
    ) -> RowResult:  # fmt: skip
        """An answer beside the outcomes of its request; a text that is erased says nothing of them."""
        receipt = self.store.receipts.get(scope, str(figures.prediction))
        text = text_of(receipt, self.store.blobs) if outcomes else None
        shapes = [] if text is None else [one for one in application.shapes if one.name in outcomes]
        return RowResult(
            request,
            "",
            prediction=figures.prediction,
            text=receipt.text_blob,
            further={one.name: result_of(one, outcomes[one.name], receipt, text or "") for one in shapes},
            own=figures.own,
            own_failed=figures.own_failed,
            user=user,
        )

    def texts(self, scope: Scope, predictions: Iterable[str | None]) -> dict[str, str | None]:
        """Prediction to the text as it was served; ``None`` once it is erased."""
        found: dict[str, str | None] = {}
        for one in predictions:
            if one is not None and one not in found:
                found[one] = text_of(self.store.receipts.get(scope, one), self.store.blobs)
        return found

    def prefer(self, scope: Scope, who: Principal, shown: Comparison, request: str, choice: str) -> Annotation:
        """Record which of two answers that were shown blind is better: ``left``, ``right`` or ``tie``.

        Raises:
            NotFoundError: the comparison has no such request. InvalidInputError: it is no such choice.
        """
        pair = next((one for one in shown.pairs if one.request == request), None)
        if pair is None or pair.first is None or pair.second is None:
            raise NotFoundError(
                f"The comparison has no answers to {request!r} on both sides.",
                where="request",
                next_step="Take a request of the list.",
            )
        if choice not in ("left", "right", "tie"):
            raise InvalidInputError(f"{choice!r} is no choice.", where="prefer", next_step="Say left, right or tie.")
        first = (choice == "left") == shown_first(request, shown.first, shown.second)
        value = "tie" if choice == "tie" else "this" if first else "other"
        return self.annotate(scope, who, AnnotationSubmission(pair.first, "preference", value, other=pair.second))

    def preferred_by(self, scope: Scope, who: Principal, pairs: Iterable[AnswerPair]) -> set[str]:
        """Requests of the pairs that a principal has said a preference about, in either order."""
        places = {frozenset((pair.first, pair.second)): pair.request for pair in pairs}
        names = [name for place in places for name in place if name is not None]
        said = [one for one in self.store.annotations.of_predictions(scope, names) if one.annotator == who.id]
        found = (places.get(frozenset((one.prediction, one.other))) for one in said if one.kind == "preference")
        return {request for request in found if request is not None}

    def preferences(self, scope: Scope, shown: Comparison) -> PreferenceCounts:
        """Counts what annotators preferred of a comparison's pairs, whichever of the two they were asked about."""
        pairs = {(one.first, one.second) for one in shown.pairs if one.first and one.second}
        counts = {"first": 0, "second": 0, "tie": 0}
        for one in self.store.annotations.of_predictions(scope, [name for pair in pairs for name in pair if name]):
            if one.kind != "preference":
                continue
            if (one.prediction, one.other) in pairs:
                counts[{"this": "first", "other": "second"}.get(one.value, "tie")] += 1
            elif (one.other, one.prediction) in pairs:
                counts[{"this": "second", "other": "first"}.get(one.value, "tie")] += 1
        first, second = counts["first"], counts["second"]
        return PreferenceCounts(first, second, counts["tie"], wilson(second, first + second))

    # Annotations.

    def annotate(self, scope: Scope, who: Principal, sent: AnnotationSubmission) -> Annotation:
        """Record an annotation, in the place of what its annotator had said before about the same.

        Raises:
            NotFoundError: there is no such prediction.
            ForbiddenError: policy keeps the prediction, or feedback on its application, from this principal.
            InvalidInputError: the value is none of its kind.
        """
        receipt = self.records.require_prediction(scope, who, sent.prediction)
        self.require(who, "feedback", f"application/{receipt.application}")
        if sent.other is not None:
            self.records.require_prediction(scope, who, sent.other)
        bundle = self.bundle(scope, receipt.release)
        sent = checked(sent, None if bundle is None else bundle.application)
        annotator = sent.annotator or who.id
        annotation = Annotation(
            id=annotation_id(sent.prediction, annotator, sent.kind, sent.criterion, sent.other),
            scope=scope,
            prediction=sent.prediction,
            application=receipt.application,
            annotator=annotator,
            kind=sent.kind,
            value=sent.value,
            created_at=self.store.database.clock.now(),
            criterion=sent.criterion,
            other=sent.other,
            note=sent.note,
        )
        with self.store.database.transaction() as connection:
            self.store.annotations.put(annotation, within=connection)
            self.audit(scope, who, "annotation.put", f"prediction/{sent.prediction}", connection, kind=sent.kind)
        return annotation

    def erase_annotations(self, scope: Scope, who: Principal, prediction: str, annotator: str | None = None) -> int:
        """Delete what annotators said about a prediction, or what one of them did; how many says it was.

        Raises:
            NotFoundError, ForbiddenError: as :meth:`annotate`.
        """
        receipt = self.records.require_prediction(scope, who, prediction)
        self.require(who, "feedback", f"application/{receipt.application}")
        gone = [one for one in self.annotations(scope, prediction) if annotator in (None, one.annotator)]
        with self.store.database.transaction() as connection:
            for one in gone:
                self.store.annotations.remove(scope, one.id, within=connection)
            self.audit(scope, who, "annotation.erase", f"prediction/{prediction}", connection, count=len(gone))
        return len(gone)

    def annotations(self, scope: Scope, prediction: str) -> list[Annotation]:
        """Every annotator's say about a prediction, oldest first."""
        return self.store.annotations.of_predictions(scope, [prediction])

    def complaints(self, scope: Scope, application: str, limit: int = 20) -> list[Complaint]:
        """Predictions of an application with a thumb down, another bad signal or a correction, latest first: from
        outside and of the house."""
        applied = self.store.applied.current(scope)
        declared = None if applied is None else applied.project.applications.get(application)
        bad = {("thumbs", "down")}
        bad |= {(one.name, value) for one in (declared.signals or () if declared else ()) for value in one.bad}
        found = [
            Complaint(
                one.prediction,
                one.outcome if one.kind == "signal" else one.kind,
                one.value,
                one.principal,
                one.created_at,
            )
            for one in self.store.outcomes.list(scope, application, limit=_SCANNED)
            if one.prediction is not None
        ]
        found += [
            Complaint(one.prediction, one.kind, one.value, one.annotator, one.created_at)
            for one in self.store.annotations.list(scope, application, limit=_SCANNED)
        ]
        complaints = [one for one in found if one.kind == "correction" or (one.kind, one.value) in bad]
        return sorted(complaints, key=lambda one: one.at, reverse=True)[:limit]

    def agreement(self, scope: Scope, application: str) -> tuple[Agreement, ...]:
        """Agreement of the annotators of an application, with what they contradict each other about."""
        return agreements(self.store.annotations.list(scope, application, limit=100_000))

    def require(self, who: Principal, action: Action, resource: str) -> None:
        """Let policy decide; ``ForbiddenError`` if it denies."""
        self.store.decider.require(who, action, resource, {"environment": self.store.scope.environment})

    def audit(
        self, scope: Scope, who: Principal, action: str, subject: str, connection: Connection, **detail: object
    ) -> None:
        """Record an act with the transaction that it is done in."""
        self.store.audit.append(scope, who.id, action, subject, detail, within=connection)

    def _trial(self, scope: Scope, name: str) -> Trial:
        if name.startswith("trial_"):
            return self.store.trials.get(scope, name)
        found = self.store.trials.list(scope, release=name, limit=1)
        if not found:
            raise NotFoundError(
                f"There is no trial of {name!r}.",
                where=str(scope),
                next_step="Make one with `antiphon prompts try`, or see `antiphon prompts trials`.",
            )
        return found[0]

    def _side(self, scope: Scope, trial: Trial | None, other: Trial) -> TrialSide:
        if trial is not None:
            answers = {one.request: one.draft for one in trial.answers}
            return TrialSide(trial.id, trial.bundle, answers)
        live = self.store.releases.live(scope, other.application)
        users = {one.request: one.live for one in other.answers}
        return TrialSide(LIVE, None if live is None else live.bundle, users)

    def _alike(self, scope: Scope, first: AnswerFigures, second: AnswerFigures) -> bool:
        if first.prediction is None or second.prediction is None:
            return False
        one, other = (self.store.receipts.get(scope, name) for name in (first.prediction, second.prediction))
        return one.text_blob == other.text_blob

    def bundle(self, scope: Scope, release: str) -> Bundle | None:
        """The bundle of a release, or of a draft that was tried; ``None`` of one that is not known any more."""
        if release.startswith(DRAFT):
            tried = self.store.trials.list(scope, release=release, limit=1)
            return tried[0].bundle if tried else None
        try:
            return self.store.releases.get(scope, release).bundle
        except NotFoundError:
            return None


def _measured_application(trials: Sequence[Trial]) -> ApplicationSpec:
    """The application of the last trial, with those metrics alone that each of them was scored by."""
    application = trials[-1].bundle.application
    each = [one.bundle.application.user_metrics for one in trials]
    own = [one for one in application.own_metrics or () if all(of.get(one.name) == one for of in each)]
    judges = [one for one in application.judge_metrics or () if all(of.get(one.name) == one for of in each)]
    return msgspec.structs.replace(application, own_metrics=tuple(own), judge_metrics=tuple(judges))
