"""Responses of ``/admin`` about models, evaluations and rollouts."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from antiphon.catalog.evaluations import Evaluation, EvaluationGate, IntervalEstimate
from antiphon.catalog.evidence import ArmCount, PairCount
from antiphon.catalog.models import ModelVersion
from antiphon.catalog.rollouts import JudgedMetric, RolloutRecord
from antiphon.definitions.learning import Rollout
from antiphon.gateway.admin.shapes import ReleaseLine
from antiphon.learning.registry.card import CardDataset, CardRelease, ModelCard
from antiphon.learning.registry.models import ModelLine
from antiphon.releases.bundle import FieldChange


class EvaluationLine(msgspec.Struct, frozen=True):
    """An evaluation in a list; figures are values with their 95 % intervals."""

    id: str
    application: str
    release: str
    model: str
    dataset: str
    mode: str
    rows: int
    positives: int
    auc: IntervalEstimate | None
    brier: IntervalEstimate
    base_rate_brier: float
    against: str | None
    passed: bool
    gates: tuple[EvaluationGate, ...]
    created_at: datetime


class EvaluationList(msgspec.Struct, frozen=True):
    """Latest first."""

    evaluations: tuple[EvaluationLine, ...]


class ModelVersionItem(msgspec.Struct, frozen=True):
    """A model version in a list; ``evaluation`` is the newest of a release that serves it."""

    id: str
    application: str
    number: int
    base: str
    dataset: str
    parent: str | None
    weights_sha256: str
    seconds: float
    created_at: datetime
    aliases: tuple[str, ...]
    releases: tuple[str, ...]
    evaluation: EvaluationLine | None


class VersionList(msgspec.Struct, frozen=True):
    """By application, latest first."""

    versions: tuple[ModelVersionItem, ...]


class ModelDetail(msgspec.Struct, frozen=True):
    """A model with its lineage (dataset, parent, code), recipe, losses and aliases, as its card has them."""

    name: str
    application: str
    purpose: str
    owner: str
    outcome: str | None
    positive: str | None
    version: ModelVersion | None
    aliases: tuple[str, ...]
    releases: tuple[CardRelease, ...]
    datasets: tuple[CardDataset, ...]
    evaluation: Evaluation | None
    earlier: tuple[EvaluationLine, ...]
    limits: tuple[str, ...]


class RolloutLine(msgspec.Struct, frozen=True):
    """A rollout; ``weight`` is the share of users in each arm now."""

    id: str
    application: str
    candidate: str
    control: str
    plan: Rollout
    state: str
    step: int
    weight: float
    held: bool
    reason: str
    principal: str
    created_at: datetime
    entered_at: datetime
    ended_at: datetime | None


class RolloutList(msgspec.Struct, frozen=True):
    """Latest first."""

    rollouts: tuple[RolloutLine, ...]


class MoveLine(msgspec.Struct, frozen=True):
    """A rollout entering a state or step, and why."""

    sequence: int
    state: str
    step: int
    held: bool
    reason: str
    principal: str
    at: datetime


class JudgementLine(msgspec.Struct, frozen=True):
    """The judge's decision in a sentence, with the e-values and the bounds that they are held against."""

    sequence: int
    state: str
    step: int
    decision: Literal["promote", "hold", "roll_back"]
    sentence: str
    metrics: tuple[JudgedMetric, ...]
    harm: float
    harm_bound: float
    safe_bound: float
    created_at: datetime


class RolloutDetail(msgspec.Struct, frozen=True):
    """A rollout with its evidence: moves and judgements first to last, and what it can decide, in words."""

    rollout: RolloutLine
    moves: tuple[MoveLine, ...]
    judgements: tuple[JudgementLine, ...]
    arms: tuple[ArmCount, ...]
    pairs: PairCount
    declaration: str


class ChangeLine(msgspec.Struct, frozen=True):
    """One change of an application's releases, in a sentence."""

    at: datetime
    principal: str
    release: str
    sentence: str


class ChangeList(msgspec.Struct, frozen=True):
    """First to last."""

    changes: tuple[ChangeLine, ...]


class LiveReleaseResponse(msgspec.Struct, frozen=True):
    """The live release at an instant; ``candidate`` answered the share ``weight`` of users, or none in shadow."""

    at: datetime
    release: ReleaseLine | None
    rollout: str | None
    candidate: ReleaseLine | None
    state: str | None
    weight: float


class ReleaseDiff(msgspec.Struct, frozen=True):
    """Every field in which two releases' bundles differ, and that in words."""

    before: str
    after: str
    changes: tuple[FieldChange, ...]
    summary: str


class WentBack(msgspec.Struct, frozen=True):
    """The effect of a rollback: ``rollout`` was undone, or where it is ``None`` the live pointer moved."""

    application: str
    release: str
    left: str
    rollout: str | None


def evaluation_line(evaluation: Evaluation) -> EvaluationLine:
    return msgspec.convert(evaluation, EvaluationLine, from_attributes=True)


def version_line(line: ModelLine) -> ModelVersionItem:
    version = line.version
    return ModelVersionItem(
        id=version.id,
        application=version.application,
        number=version.number,
        base=version.base,
        dataset=version.dataset,
        parent=version.parent,
        weights_sha256=version.weights.sha256,
        seconds=version.seconds,
        created_at=version.created_at,
        aliases=line.aliases,
        releases=line.releases,
        evaluation=None if line.evaluation is None else evaluation_line(line.evaluation),
    )


def model_detail(card: ModelCard) -> ModelDetail:
    return msgspec.convert(card, ModelDetail, from_attributes=True)


def rollout_line(rollout: RolloutRecord) -> RolloutLine:
    return msgspec.convert(rollout, RolloutLine, from_attributes=True)
