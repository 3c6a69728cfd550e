"""Validation of releases: the stage a release enters when it passes its gates.

Invariant: a release enters ``validated`` in the transaction that records the evaluation it passed by, and only while
everything it needs is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from antiphon.catalog.learning.datasets import Dataset, Datasets
from antiphon.catalog.learning.evaluations import Evaluation, Evaluations
from antiphon.catalog.learning.models import ModelVersions
from antiphon.catalog.learning.safety import SafetyReport
from antiphon.catalog.releases.releases import ModelPin, Release, Releases
from antiphon.core.errors import ConflictError, CorruptionError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.learning.evaluation.gates import check, check_safety, compares_with_live
from antiphon.learning.registry.files import ModelFiles, sha256_or_none


@dataclass(frozen=True)
class RemoteVersions:
    """Versions of models that servers elsewhere serve to a release.

    Attributes:
        present: of its own model, now; ``None`` where none is known.
        answered: of its own model, as fingerprints of answers say.
        fallbacks: of its fallbacks, now. No evaluation asks them.
    """

    present: str | None = None
    answered: frozenset[str] = frozenset()
    fallbacks: tuple[str, ...] = ()


RemoteVersion = Callable[[Release, Sequence[str]], RemoteVersions]
"""(the version of a release's remote model that is served now, the versions that fingerprints of answers name)."""


class ValidationResult(msgspec.Struct, frozen=True):
    """A release in its stage, and the reasons why it did not pass."""

    release: Release
    evaluation: Evaluation | SafetyReport
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """``True`` when the release is validated."""
        return not self.reasons


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Moves releases from ``draft`` to ``validated``.

    Attributes:
        transaction: of the catalog.
        model_files: of model versions.
        feature_exists: tells whether a definition version of a view is known here: scope, view, version.
        weights_of: path of the weights of a base model, or of one that another tenant grants to a scope; ``None`` for
            an engine whose weights are not on this machine.
        remote_version: versions of a release's models that servers elsewhere serve now, and what fingerprints say of
            its own; ``None`` where models do not change by themselves.
        regressions: why a release does not pass the regression sets that its gates name.
    """

    transaction: Callable[[], AbstractContextManager[Any]]
    releases: Releases
    evaluations: Evaluations
    datasets: Datasets
    models: ModelVersions
    feature_exists: Callable[[Scope, str, str], bool]
    model_files: ModelFiles
    weights_of: Callable[[Scope, ModelPin], Path | None]
    remote_version: RemoteVersion | None = None
    regressions: Callable[[Release], Sequence[str]] = lambda release: ()

    def validate(self, release: Release, evaluation: Evaluation, *, principal: str) -> ValidationResult:
        """Moves a draft to ``validated`` if its evaluation passed every gate; else it stays a draft, with the reasons.

        The gates are the release's own. A release that is validated already stays so, and one whose model is a server's
        is validated as of now.

        Raises:
            InvalidInputError: a view it reads is gone, or the evaluation is of something else.
            CorruptionError: its model's file is gone or is another one.
            ConflictError: it is neither a draft nor validated.
        """
        scope = release.scope
        self.require_whole(release)
        dataset = self.datasets.get(scope, evaluation.dataset)
        _require_evaluation_of(release, evaluation, dataset)
        gates = check(evaluation, release.bundle.application)
        reasons = [gate.reason for gate in gates if gate.passed is False]
        reasons += self._overlap(release, dataset)
        reasons += self.regressions(release)
        with self.transaction() as connection:
            present = self._require_draft(connection, release)
            reasons += self._changed(release, evaluation.fingerprints)
            reasons += self._uncompared(release, evaluation.against, connection)
            evaluation = self.evaluations.add(evaluation, within=connection)
            if not reasons:
                why = f"evaluation {evaluation.id} on {evaluation.dataset}: every gate passed"
                present = self._set_validated(connection, present, principal, why)
        return ValidationResult(present, evaluation, tuple(reasons))

    def validate_without_set(self, release: Release, report: SafetyReport, *, principal: str) -> ValidationResult:
        """As :meth:`validate`, by the gates that need no evaluation set."""
        self.require_whole(release)
        reasons = [one.reason for one in check_safety(report, release.bundle.application) if one.passed is False]
        reasons += self.regressions(release)
        with self.transaction() as connection:
            present = self._require_draft(connection, release)
            reasons += self._changed(release, report.fingerprints)
            # With an outcome there is nothing to compare before there is an evaluation set.
            if not release.bundle.application.shapes:
                reasons += self._uncompared(release, report.against, connection)
            if not reasons:
                why = f"safety report {report.id}: every gate passed that needs no evaluation set"
                present = self._set_validated(connection, present, principal, why)
        return ValidationResult(present, report, tuple(reasons))

    def _uncompared(self, release: Release, against: str | None, connection: Any) -> Iterator[str]:
        """The reason of a release that is to be compared with the live one, and was compared with another or none."""
        application = release.bundle.application
        live = self.releases.live(release.scope, application.name, within=connection)
        if compares_with_live(application) and live is not None and live.id not in (release.id, against):
            yield f"it was not compared with the release that is live, {live.id}"

    def _require_draft(self, connection: Any, release: Release) -> Release:
        present = self.releases.get(release.scope, release.id, within=connection)
        if present.stage not in ("draft", "validated"):
            raise ConflictError(
                f"The release is {present.stage}; only a draft can be validated.",
                where=release.id,
                next_step="See `antiphon releases list`.",
            )
        return present

    def _set_validated(self, connection: Any, release: Release, principal: str, why: str) -> Release:
        remote = self._remote(release, ())
        self.releases.set_stage(
            release.scope, release.id, "validated", principal=principal, reason=why,
            again=remote.present is not None or bool(remote.fallbacks), within=connection,
        )  # fmt: skip
        return self._require_draft(connection, release)

    def require_whole(self, release: Release) -> None:
        """Checks that everything a release needs is there; cheap enough to call before an evaluation begins.

        Raises:
            InvalidInputError: a view it reads is gone.
            CorruptionError: its model's file is gone or is another one.
        """
        scope, application = release.scope, release.bundle.application
        for view, version in application.features.items():
            if not self.feature_exists(scope, view, version):
                raise InvalidInputError(
                    f"The view {view!r} no longer exists in definition version {version}.",
                    where=f"release {release.id}",
                    next_step="Apply the definitions it was made from again, or make a new release of today's.",
                )
        pin = release.bundle.model
        path = self._weights(scope, pin)
        if path is None:
            return
        found = sha256_or_none(path)
        if found is None or pin.weights_sha256 not in (None, found):
            raise CorruptionError(
                f"The weights of {pin.name} are {'gone' if found is None else 'not those that the release pins'}.",
                where=str(path),
                next_step=f"Run `antiphon models rebuild {pin.version}`." if pin.version else "Pull them again.",
            )

    def _changed(self, release: Release, fingerprints: Sequence[str]) -> list[str]:
        """Says that answers are of a model that is not served any more under its name."""
        found = self._remote(release, fingerprints)
        if found.present is None or found.answered <= {found.present}:
            return []
        others = ", ".join(sorted(found.answered - {found.present}))
        return [
            f"{release.bundle.model.name} is {found.present} now, and rows were answered by {others}; evaluate it again"
        ]

    def _remote(self, release: Release, fingerprints: Sequence[str]) -> RemoteVersions:
        return RemoteVersions() if self.remote_version is None else self.remote_version(release, fingerprints)

    def _weights(self, scope: Scope, pin: ModelPin) -> Path | None:
        if pin.version is None:
            return self.weights_of(scope, pin)
        try:
            version = self.models.get(scope, pin.version)
        except NotFoundError as error:
            raise InvalidInputError(
                f"The release pins the model version {pin.version!r}, which is not registered.",
                where=str(scope),
                next_step="See `antiphon models list`.",
            ) from error
        return self.model_files.locate(scope, version.weights)

    def _overlap(self, release: Release, dataset: Dataset) -> list[str]:
        """Names the datasets whose moments overlap those of the evaluation set."""
        version = release.bundle.model.version
        if version is None:
            return []
        trained = self.models.get(release.scope, version)
        if trained.learned_until is not None:
            if trained.learned_until <= dataset.spec.first:
                return []
            return [
                f"it is evaluated on moments it may have learned from: up to {trained.learned_until.isoformat()}, "
                f"{dataset.id} begins at {dataset.spec.first.isoformat()}"
            ]
        seen = []
        for name in (trained.dataset, *trained.replay_datasets):
            try:
                spec = self.datasets.get(release.scope, name).spec
            except NotFoundError:
                seen.append(f"the dataset {name} it was trained on is unknown, so nothing shows that it was not seen")
                continue
            if spec.first < dataset.spec.last and dataset.spec.first < spec.last:
                seen.append(
                    f"it is evaluated on moments it was trained on: {name} reaches to {spec.last.isoformat()}, "
                    f"{dataset.id} begins at {dataset.spec.first.isoformat()}"
                )
        return seen


def _require_evaluation_of(release: Release, evaluation: Evaluation, dataset: Dataset) -> None:
    if evaluation.release != release.id or evaluation.application != release.bundle.application.name:
        raise InvalidInputError(
            f"The evaluation is of {evaluation.release}, not of this release.",
            where=release.id,
            next_step=f"Run `antiphon evaluate {release.id}`.",
        )
    if dataset.spec.kind != "evaluation":
        raise InvalidInputError(
            f"{dataset.id} is a training set, and a release is not validated by what models are trained on.",
            where=evaluation.id,
            next_step=(f"Evaluate on one of `antiphon datasets build {evaluation.application} --kind evaluation`."),
        )
