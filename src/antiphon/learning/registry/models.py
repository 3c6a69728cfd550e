"""The model registry: models by id, alias or release, their cards, and comparisons of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from antiphon.catalog.database import Database
from antiphon.catalog.learning.datasets import Datasets
from antiphon.catalog.learning.evaluations import Evaluation, Evaluations
from antiphon.catalog.learning.models import AliasMove, ModelVersion, ModelVersions
from antiphon.catalog.learning.regressions import RegressionCase, RegressionSets
from antiphon.catalog.learning.safety import SafetyReport, SafetyReports
from antiphon.catalog.releases.releases import Release, Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.learning.evaluation.scores import RowResult, decode_rows
from antiphon.learning.registry.card import CardCandidate, CardDataset, ModelCard, model_card, telling
from antiphon.learning.registry.comparison import ModelComparison, common, compare


class ModelLine(msgspec.Struct, frozen=True):
    """A version in a list."""

    version: ModelVersion
    aliases: tuple[str, ...]
    releases: tuple[str, ...]
    evaluation: Evaluation | None


class ModelRegistry:
    """Model versions of one catalog with what belongs to them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._models = ModelVersions(database)
        self._evaluations = Evaluations(database)
        self._reports = SafetyReports(database)
        self._datasets = Datasets(database)
        self._releases = Releases(database)
        self._regressions = RegressionSets(database)
        self._texts = Blobs(database)

    def versions(self, scope: Scope, application: str) -> list[ModelVersion]:
        """Versions of an application's model, latest first."""
        return self._models.list(scope, application)

    def lines(self, scope: Scope, application: str | None = None) -> tuple[ModelLine, ...]:
        """Versions by application, latest first."""
        found = []
        for version in self._models.list(scope, application):
            releases = self._serving(scope, version)
            found.append(
                ModelLine(
                    version=version,
                    aliases=self._names(scope, version),
                    releases=tuple(release.id for release in releases),
                    evaluation=telling(self._evaluated(scope, releases)),
                )
            )
        return tuple(found)

    def card(self, scope: Scope, name: str) -> ModelCard:
        """The card of ``APPLICATION.vN``, ``APPLICATION:ALIAS`` or a release; raises ``NotFoundError`` when nothing has
        this name."""
        version, releases, title = self._subject(scope, name)
        evaluations = self._evaluated(scope, releases)
        datasets: dict[str, str] = {}
        if version is not None:
            if version.dataset:
                datasets[version.dataset] = "training"
            datasets |= dict.fromkeys(version.replay_datasets, "earlier examples")
            if version.held_out is not None:
                datasets[version.held_out] = "choosing among candidates"
        for evaluation in evaluations:
            datasets.setdefault(evaluation.dataset, "evaluation")
        return model_card(
            title,
            version=version,
            releases=releases,
            aliases=self._names(scope, version) if version is not None else (),
            datasets=[CardDataset(use, dataset, self._dataset(scope, dataset)) for dataset, use in datasets.items()],
            evaluations=evaluations,
            safety=self._safety(scope, releases),
            candidates=() if version is None else self._candidates(scope, version),
            cases=self._cases(scope, releases[0]) if releases else {},
            made_at=self._database.clock.now(),
        )

    def compare(self, scope: Scope, first: str, second: str) -> ModelComparison:
        """Two of what :meth:`card` takes, side by side; measures by pairs on the dataset both were evaluated on; raises
        as it."""
        cards = self.card(scope, first), self.card(scope, second)
        found = common(*cards)
        rows = None if found is None else (self._rows(scope, found[0]), self._rows(scope, found[1]))
        return compare(*cards, rows)

    def alias(self, scope: Scope, name: str, alias: str, principal: str, reason: str) -> AliasMove:
        """Let an alias of its application name a version.

        Raises:
            NotFoundError: there is no such version.
            InvalidInputError: the alias is no short lower-case word.
        """
        version = self.version(scope, name)
        return self._models.alias(scope, version.application, alias, version.id, principal, reason)

    def version(self, scope: Scope, name: str) -> ModelVersion:
        """The version of an id or ``APPLICATION:ALIAS``; raises ``NotFoundError`` when there is none."""
        application, colon, alias = name.partition(":")
        if not colon:
            return self._models.get(scope, name)
        version = self._models.aliased(scope, application, alias)
        if version is None:
            raise NotFoundError(
                f"No version of {application!r} is called {alias!r}.",
                where=str(scope),
                next_step=f"See `antiphon models list {application}`.",
            )
        return version

    def _subject(self, scope: Scope, name: str) -> tuple[ModelVersion | None, list[Release], str]:
        if not name.startswith("rel_"):
            named = self.version(scope, name)
            return named, self._serving(scope, named), named.id
        release = self._releases.get(scope, name)
        pinned = release.bundle.model.version
        version = self._models.get(scope, pinned) if pinned is not None else None
        title = f"{version.id if version else release.bundle.model.name}, release {release.number}"
        return version, [release], title

    def _serving(self, scope: Scope, version: ModelVersion) -> list[Release]:
        return [
            release
            for release in self._releases.list(scope, version.application)
            if release.bundle.model.version == version.id
        ]

    def _candidates(self, scope: Scope, version: ModelVersion) -> list[CardCandidate]:
        """The recipes that were tried for a version, measured on the examples that chose."""
        found = []
        for one in version.candidates:
            releases = [] if one.model is None else self._serving(scope, self._models.get(scope, one.model))
            evaluations = [each for each in self._evaluated(scope, releases) if each.dataset == version.held_out]
            first = releases[0].bundle.application.shape if releases else None
            measured = evaluations[0].metrics.get(first.deciding) if evaluations and first is not None else None
            found.append(CardCandidate(one, None if measured is None else measured.value))
        return found

    def _evaluated(self, scope: Scope, releases: Sequence[Release]) -> list[Evaluation]:
        """Evaluations of several releases, newest first."""
        found = [one for release in releases for one in self._evaluations.list(scope, release=release.id)]
        return sorted(found, key=lambda one: (one.created_at, one.id), reverse=True)

    def _safety(self, scope: Scope, releases: Sequence[Release]) -> SafetyReport | None:
        """The newest safety report of several releases."""
        found = [one for release in releases if (one := self._reports.latest(scope, release.id)) is not None]
        return max(found, key=lambda one: (one.created_at, one.id), default=None)

    def _cases(self, scope: Scope, release: Release) -> dict[str, list[RegressionCase]]:
        """The cases that a release was run on, by the regression sets of its application in their present versions."""
        found: dict[str, list[RegressionCase]] = {}
        for name in self._regressions.names(scope, release.bundle.application.name):
            version = self._regressions.version(scope, name)
            runs = self._regressions.runs(scope, name, release.id, version.version)
            ran = {verdict.case for run in runs for verdict in run.results}
            cases = self._regressions.cases(version) if ran else {}
            found[name] = [case for id, case in cases.items() if case is not None and id in ran]
        return found

    def _names(self, scope: Scope, version: ModelVersion) -> tuple[str, ...]:
        moves = self._models.aliases(scope, version.application)
        return tuple(alias for alias, made in moves.items() if made[-1].model == version.id)

    def _dataset(self, scope: Scope, dataset: str) -> Any:
        try:
            return self._datasets.get(scope, dataset)
        except NotFoundError:
            return None

    def _rows(self, scope: Scope, evaluation: Evaluation) -> tuple[RowResult, ...]:
        try:
            return decode_rows(self._texts.get(scope, evaluation.rows_blob)).rows
        except NotFoundError:
            return ()  # erased: there is nothing left to pair
