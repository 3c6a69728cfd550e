"""Releases, rollouts, models, datasets and outcomes of one project, as the gateway and the commands use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.learning.datasets import Datasets
from antiphon.catalog.learning.evaluations import Evaluations
from antiphon.catalog.learning.outcomes import Outcomes
from antiphon.catalog.learning.regressions import RegressionSets
from antiphon.catalog.learning.trials import Trials
from antiphon.catalog.releases.evidence import Exposures, Judgements, ShadowPairs
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.releases.rollouts import Rollouts
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.engine.api.port import Engine
from antiphon.governance.identity.principal import Principal
from antiphon.learning.outcomes.drift_runs import DriftReports
from antiphon.learning.outcomes.intake import OutcomeJoiner
from antiphon.learning.outcomes.monitoring import Monitor
from antiphon.learning.registry.models import ModelRegistry
from antiphon.learning.retraining.orders import TrainingRequest
from antiphon.releases.changelog import Changelog
from antiphon.releases.notes import ReleaseNotes
from antiphon.releases.rollout import RolloutTransitions
from antiphon.services.changes import release_notes
from antiphon.services.governance.policy_versions import records
from antiphon.services.learning.gate_orders import GateCheck, gate_checks
from antiphon.services.learning.outcomes import drift_reports, monitor, outcome_joiner
from antiphon.services.learning.regressions import ProjectRegressions
from antiphon.services.learning.workbench import Workbench
from antiphon.services.learning.workbench_orders import WorkbenchOrders
from antiphon.services.project.store import Store
from antiphon.services.rollouts import rollout_transitions

if TYPE_CHECKING:
    from antiphon.services.features.platform import FeaturePlatform


@dataclass(frozen=True)
class LearningServices:
    """Releases, rollouts, models, datasets and outcomes of one project.

    Attributes:
        transitions: moves rollouts and live pointers, with their audit entries.
        joiner: joins arriving outcomes to predictions. ``monitor``: quality by them.
        drift: what is asked and answered beside earlier times.
        gates: the latest run of gates of each application. ``notes``: release notes of a scope.
    """

    releases: Releases
    transitions: RolloutTransitions
    rollouts: Rollouts
    judgements: Judgements
    exposures: Exposures
    pairs: ShadowPairs
    changelog: Changelog
    registry: ModelRegistry
    evaluations: Evaluations
    training: ProjectTrainingOrders
    datasets: Datasets
    outcomes: Outcomes
    joiner: OutcomeJoiner
    monitor: Monitor
    drift: DriftReports
    gates: Callable[[Scope], Sequence[GateCheck]]
    notes: Callable[[Scope], ReleaseNotes]
    workbench: Workbench
    trials: Trials
    regressions: ProjectRegressions
    regression_sets: RegressionSets
    workbench_orders: WorkbenchOrders


def learning_services(store: Store, engine: Engine, commit: GroupCommit, features: FeaturePlatform) -> LearningServices:
    """Builds the services over a project's stores; trainings are ordered here and run by the worker."""
    database, workbench = store.database, Workbench(store, records(store))
    return LearningServices(
        releases=store.releases,
        transitions=rollout_transitions(store),
        rollouts=store.rollouts,
        judgements=store.judgements,
        exposures=store.exposures,
        pairs=store.pairs,
        changelog=Changelog(store.releases, store.rollouts),
        registry=ModelRegistry(database),
        evaluations=store.evaluations,
        training=ProjectTrainingOrders(store, engine, commit, features),
        datasets=store.datasets,
        outcomes=store.outcomes,
        joiner=outcome_joiner(store),
        monitor=monitor(store),
        drift=drift_reports(store),
        gates=partial(gate_checks, store),
        notes=partial(release_notes, store),
        workbench=workbench,
        trials=store.trials,
        regressions=ProjectRegressions(store, workbench),
        regression_sets=store.regressions,
        workbench_orders=WorkbenchOrders(store, workbench),
    )


class ProjectTrainingOrders:
    """Training orders, made on first use: a gateway that nobody asks to train does not wire what trains."""

    def __init__(self, store: Store, engine: Engine, commit: GroupCommit, features: FeaturePlatform) -> None:
        self._resources = (store, engine, commit, features)

    def place(self, scope: Scope, principal: str, order: TrainingRequest, by: Principal | None = None) -> str:
        from antiphon.services.learning.training import LearningPlatform

        store = self._resources[0]
        if scope != store.scope:
            # Datasets, lake and models of this project are its own tenant's.
            raise NotFoundError(
                f"There is no application {order.application!r}.", where="application", next_step="Applied here: none."
            )
        return LearningPlatform(*self._resources).orders.place(scope, principal, order, by)
