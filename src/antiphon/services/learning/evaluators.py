"""Evaluators of releases, wired for one project: on datasets, and on requests where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial

import msgspec

from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.learning.datasets import Dataset
from antiphon.catalog.releases.releases import Release
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.engine.api.port import Engine, GenerationEngine
from antiphon.features.documents.retrieval import RetrievalRequest, RetrievalResult
from antiphon.learning.evaluation.asking import AnswerFunction, EvaluatedReleases
from antiphon.learning.evaluation.evaluator import ReleaseEvaluator, SampledRequests
from antiphon.learning.evaluation.safety.evaluator import SafetyEvaluator
from antiphon.learning.evaluation.safety.requests import OverlaidReader
from antiphon.learning.evaluation.safety.suites import SafetySuites
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.services.answering import judge_engines, serving_services, user_functions
from antiphon.services.engines.remote_models import evaluated_now
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.learning.safety import memorization_of, probes_of, sampled_requests
from antiphon.services.project.store import Store
from antiphon.serving.answerer import Answerer
from antiphon.serving.answering.deduplication import DeduplicatingEngine
from antiphon.serving.ports import EntityReader


@dataclass(frozen=True)
class ProjectEvaluators:
    """Each is made on first use; attributes as of ``LearningPlatform``."""

    store: Store
    engine: Engine
    commit: GroupCommit
    features: FeaturePlatform
    standbys: Mapping[str, GenerationEngine]

    @cached_property
    def on_datasets(self) -> ReleaseEvaluator:
        store = self.store
        return ReleaseEvaluator(
            answering=self._answering,
            releases=store.releases,
            files=self.features.lake,
            receipts=store.receipts,
            conversations=store.conversations,
            evaluations=store.evaluations,
            texts=store.blobs,
            clock=store.database.clock,
            suites=self._suites,
            scorer=self.scorer,
            annotations=store.annotations.of_predictions,
            current=partial(evaluated_now, store),
            trained_on=partial(trained_on, store),
            sampled=self._sampled,
            concurrency=store.settings.gateway.batch_concurrency,
        )

    @cached_property
    def on_requests(self) -> SafetyEvaluator:
        """Evaluates what has no evaluation set."""
        store = self.store
        return SafetyEvaluator(
            answering=self._answering,
            evaluations=store.evaluations,
            reports=store.safety_reports,
            texts=store.blobs,
            clock=store.database.clock,
            suites=self._suites,
            scorer=self.scorer,
            annotations=store.annotations.of_predictions,
            concurrency=store.settings.gateway.batch_concurrency,
        )

    def _sampled(self, release: Release, live: Release | None) -> SampledRequests:
        return sampled_requests(self.store, release, self.features.reader(release.scope), (), live)

    @cached_property
    def scorer(self) -> AnswerScorer:
        return AnswerScorer(
            self.store.blobs,
            embedders=self.features.embedders,
            functions=user_functions(self.store),
            engines=judge_engines(self.store, self.engine, self.standbys),
        )

    @cached_property
    def _suites(self) -> SafetySuites:
        """The package's safety suites and the project's own."""
        store = self.store
        return SafetySuites(
            probes=partial(probes_of, store),
            view_keys=lambda scope, view, version: store.definitions.get(scope, view, version).entity.keys,
            memorization=partial(memorization_of, store, self.engine),
            scorer=self.scorer,
        )

    def _answering(self, features: EntityReader, releases: EvaluatedReleases, once: bool) -> AnswerFunction:
        wired = serving_services(
            self.store,
            DeduplicatingEngine(self.engine) if once else self.engine,
            self.commit,
            releases,
            self.features,
            reader=lambda scope: features,
            retrieve=partial(self._retrieve, features),
        )
        return Answerer(wired).answer

    def _retrieve(self, features: EntityReader, scope: Scope, request: RetrievalRequest) -> RetrievalResult:
        """Retrieves for an evaluation: what is published now, whenever its rows were, since documents have no other
        history; with a probe in it where one was put."""
        now = msgspec.structs.replace(request, past=False, publication=None, minimum=None)
        found = self.features.retrieve(scope, now)
        return features.retrieved(request, found) if isinstance(features, OverlaidReader) else found


def trained_on(store: Store, release: Release) -> Sequence[Dataset]:
    """The datasets that a release's model and those that it goes on from were trained on, as far as they are known."""
    found: dict[str, Dataset] = {}
    version = release.bundle.model.version
    with suppress(NotFoundError):  # a granted model, whose datasets are another tenant's
        while version is not None:
            trained = store.models.get(release.scope, version)
            for name in filter(None, (trained.dataset, *trained.replay_datasets)):
                with suppress(NotFoundError):
                    found[name] = store.datasets.get(release.scope, name)
            version = trained.parent
    return tuple(found.values())
