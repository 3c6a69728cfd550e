"""What the gateway needs to show and move models, evaluations and rollouts; ``app`` passes the rooms' own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from antiphon.catalog.evaluations import Evaluation
from antiphon.catalog.evidence_counts import ArmCount, PairCount
from antiphon.catalog.releases import Activation
from antiphon.catalog.rollouts import Judgement, Rollout, RolloutMove
from antiphon.core.scope import Scope
from antiphon.governance.principal import Principal
from antiphon.learning.registry.card import ModelCard
from antiphon.learning.registry.comparison import Comparison
from antiphon.learning.registry.models import ModelLine
from antiphon.learning.retraining.orders import TrainOrder
from antiphon.releases.changelog import Entry, LiveAt
from antiphon.releases.rollout import Expected, RolledBack


class Rollouts(Protocol):
    """Rollouts, for reading (``catalog.rollouts.Rollouts``)."""

    def list(self, scope: Scope, application: str | None = None, limit: int = 50) -> Sequence[Rollout]:
        """Latest first."""
        ...

    def get(self, scope: Scope, rollout: str) -> Rollout:
        """Raises ``NotFoundError``."""
        ...

    def active(self, scope: Scope, application: str) -> Rollout | None:
        """The one under way."""
        ...

    def moves(self, scope: Scope, rollout: str) -> Sequence[RolloutMove]:
        """First to last."""
        ...


class Judgements(Protocol):
    """What the judge said (``catalog.evidence.Judgements``)."""

    def of(self, scope: Scope, rollout: str, limit: int | None = None) -> Sequence[Judgement]:
        """First to last; with ``limit`` only so many of the last."""
        ...


class EvidenceCounted(Protocol):
    """How much evidence there is (``catalog.evidence_counts.EvidenceCounts``)."""

    def arms(self, rollout: Rollout) -> Sequence[ArmCount]: ...

    def pairs(self, scope: Scope, rollout: str) -> PairCount: ...


class Transitions(Protocol):
    """Moves rollouts and the live pointer, with their audit entry (``releases.rollout.RolloutTransitions``)."""

    def begin(
        self,
        scope: Scope,
        release: str,
        *,
        principal: str,
        reason: str,
        force: bool = False,
        by: Principal | None = None,
    ) -> Rollout: ...

    def hold(self, scope: Scope, rollout: str, *, principal: str, reason: str) -> Rollout: ...

    def resume(self, scope: Scope, rollout: str, *, principal: str, reason: str) -> Rollout: ...

    def abort(self, scope: Scope, rollout: str, *, principal: str, reason: str) -> Rollout: ...

    def undo(
        self, scope: Scope, rollout: str, *, principal: str, reason: str, expected: Expected | None = None
    ) -> Rollout: ...

    def activate(
        self,
        scope: Scope,
        application: str,
        release: str,
        *,
        principal: str,
        reason: str,
        by: Principal | None = None,
    ) -> Activation: ...

    def rollback(self, scope: Scope, application: str, *, principal: str, reason: str) -> RolledBack: ...


class Changelog(Protocol):
    """What happened to an application's releases (``releases.changelog.Changelog``)."""

    def of(self, scope: Scope, application: str) -> Sequence[Entry]:
        """First to last."""
        ...

    def at(self, scope: Scope, application: str, moment: datetime) -> LiveAt: ...


class Registry(Protocol):
    """Model versions with what belongs to them (``learning.registry.models.Registry``)."""

    def lines(self, scope: Scope, application: str | None = None) -> Sequence[ModelLine]: ...

    def card(self, scope: Scope, name: str) -> ModelCard:
        """Of ``APPLICATION.vN``, ``APPLICATION:ALIAS`` or a release; raises ``NotFoundError``."""
        ...

    def compare(self, scope: Scope, first: str, second: str) -> Comparison: ...


class Evaluations(Protocol):
    """Evaluations, for reading (``catalog.evaluations.Evaluations``)."""

    def get(self, scope: Scope, evaluation: str) -> Evaluation: ...

    def list(
        self, scope: Scope, application: str | None = None, release: str | None = None, limit: int = 50
    ) -> Sequence[Evaluation]:
        """Latest first."""
        ...


class Training(Protocol):
    """Orders trainings (``learning.retraining.orders.TrainingOrders``)."""

    def place(self, scope: Scope, principal: str, order: TrainOrder, by: Principal | None = None) -> str:
        """The id of the run; refuses what cannot be trained."""
        ...


@dataclass(frozen=True)
class LearningServices:
    """Models and rollouts of one project."""

    rollouts: Rollouts
    judgements: Judgements
    evidence: EvidenceCounted
    changelog: Changelog
    registry: Registry
    evaluations: Evaluations
    training: Training
