"""Rollouts of one project, wired: who moves them."""

from __future__ import annotations

from functools import partial

from antiphon.catalog.releases.rollouts import Rollouts
from antiphon.core.clock import parse_duration
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.granted import owner_of
from antiphon.learning.evaluation.pairs import PairScorer
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.orchestration.rollouts import EvidenceReader, RolloutKeeper
from antiphon.releases.candidate import FeatureExists
from antiphon.releases.judge import judge
from antiphon.releases.rollout import RolloutTransitions
from antiphon.services.engines.remote_models import changed_since
from antiphon.services.governance.policies import promotion_policy
from antiphon.services.project.store import Store


def feature_exists(store: Store) -> FeatureExists:
    """Tells whether a definition version of a view is known here and, once anything is published, published."""

    def exists(scope: Scope, view: str, version: str) -> bool:
        if owner_of(view) is not None:
            return store.granted.published(scope, view, version)
        within = store.database.writer  # definitions may be applied in the transaction that asks
        try:
            spec = store.definitions.get(scope, view, version, within=within)
        except NotFoundError:
            return False
        current = store.publications.current(scope, within=within)
        return current is None or spec.source.kind == "feast" or spec.key in current.snapshots

    return exists


def rollout_transitions(store: Store) -> RolloutTransitions:
    """Moves this project's rollouts; every move leaves an audit entry in its transaction."""
    return RolloutTransitions(
        store.database,
        store.releases,
        Rollouts(store.database),
        audit=store.audit,
        feature_exists=feature_exists(store),
        promotion=promotion_policy(store),
        model_change=partial(changed_since, store),
    )


def rollout_keeper(store: Store, scorer: AnswerScorer) -> RolloutKeeper:
    """Lets the judge move this project's rollouts; ``scorer`` is for metrics that decide in shadow."""
    database = store.database
    return RolloutKeeper(
        store.scope,
        database,
        store.releases,
        store.rollouts,
        store.judgements,
        rollout_transitions(store),
        EvidenceReader(
            store.exposures,
            store.pairs,
            PairScorer(
                store.outcomes.values,
                store.receipts,
                store.blobs,
                store.releases,
                store.conversations,
                scorer,
            ),
            store.outcomes,
        ),
        judge,
        poll=parse_duration(store.settings.worker.poll).total_seconds(),
        wakeup=database.doorbell.wakeup(store.scope.environment, "releases"),
    )
