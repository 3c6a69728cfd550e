"""What looking after rollouts needs from other rooms. ``app`` passes the implementations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from antiphon.catalog.rollouts import Exposure, Judgement, RolloutRecord, ShadowPair
from antiphon.core.scope import Scope
from antiphon.definitions.application import SLO
from antiphon.releases.evidence import PairedOutcome


class PairOutcomes(Protocol):
    """Whether predictions turned out positive; those without a joined label are left out."""

    def __call__(self, scope: Scope, predictions: Sequence[str]) -> Mapping[str, bool]: ...


class Pair(Protocol):
    """Makes what the judge scores of a shadow pair and its outcome (``releases.evidence.paired``)."""

    def __call__(self, pair: ShadowPair, positive: bool | None) -> PairedOutcome: ...


class Judge(Protocol):
    """Decides about a rollout from everything known about it (``releases.judge.judge``)."""

    def __call__(
        self,
        rollout: RolloutRecord,
        exposures: Sequence[Exposure],
        pairs: Sequence[PairedOutcome],
        now: datetime,
        slo: SLO,
    ) -> Judgement: ...
