"""Arguments and inputs of a retraining, and the arithmetic of its recipe. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from antiphon.catalog.learning.datasets import DatasetSpec
from antiphon.catalog.learning.models import ModelFile
from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import content_hash
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import Candidates, FineTune
from antiphon.learning.datasets.reader import DatasetRow
from antiphon.training.examples import Example
from antiphon.training.recipe import Arithmetic, Recipe

T = TypeVar("T")


class TrainArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of the workflow ``train``.

    Attributes:
        delta: only on what is new since the version that is live, going on from it.
        cutoff: nothing known later is learned from; the declared one, or the run's first moment, by default.
        examples: at most so many instead of the declared number.
        rows: of the evaluation set at most; ``texts``: so many of them are asked for the whole output; without any, no
            safety suite is tried. ``probes``: of each half of a suite at most so many; ``None``: all.
        rollout: send the release on its way when it passes its gates.
        candidates: settings to the values that are tried, in place of the declared ones; ``budget`` the time of
            training that they share.
        preferences: learn what people preferred, going on from the live version.
    """

    application: str
    delta: bool = False
    cutoff: datetime | None = None
    examples: int | None = None
    rows: int = 400
    texts: int = 100
    probes: int | None = None
    rollout: bool = False
    principal: str = "worker"
    reason: str = ""
    candidates: dict[str, tuple[float, ...]] | None = None
    budget: str | None = None
    preferences: bool = False


class JudgedWindow(msgspec.Struct, frozen=True):
    """Predictions with ``first < as_of <= last``, and what was known of them by ``known_until`` (event time) and said
    by ``said_until`` (wall time: what people of the house say has no other)."""

    first: datetime
    last: datetime
    known_until: datetime
    said_until: datetime


class TrainingInputs(msgspec.Struct, frozen=True):
    """Inputs pinned in a run's first step, whatever is declared, released or evaluated meanwhile.

    ``parent`` is the version that training goes on from, ``before`` its evaluation on which forgetting is measured;
    ``candidates`` are the recipes that are tried, if several are. Preferences are of predictions in the
    window ``judged``; nothing of a moment after ``learned_until`` was learned, by the version to go on from either.
    """

    application: ApplicationSpec
    cutoff: datetime
    base_sha256: str
    parent: str | None = None
    before: str | None = None
    candidates: Candidates | None = None
    judged: JudgedWindow | None = None
    learned_until: datetime | None = None


class ExamplesSummary(msgspec.Struct, frozen=True):
    """The run's file of examples: hash, counts, and the number of rows that serving would have refused; ``canaries``
    are examples that plant a made-up secret, ``unwritten`` rows whose outcome the output cannot say, ``erased`` those
    whose served prompt was erased since their dataset was built."""

    sha256: str
    new: int
    old: int
    refused: int
    canaries: int = 0
    unwritten: int = 0
    erased: int = 0


class TrainingOutput(msgspec.Struct, frozen=True):
    """The result of a training, its files stored in the ``models`` folder."""

    identity: str
    code: str
    recipe: dict[str, Any]
    adapter: ModelFile
    weights: ModelFile
    losses: tuple[tuple[int, float], ...]
    seconds: float
    environment: dict[str, str]
    notices: tuple[str, ...] = ()


class TriedCandidate(msgspec.Struct, frozen=True):
    """One recipe that was trained, or ``why`` it was not, after so many ``seconds`` of training."""

    settings: dict[str, float]
    seconds: float
    output: TrainingOutput | None = None
    why: str = ""


def plain(value: msgspec.Struct) -> dict[str, Any]:
    """Returns a value as JSON values, for the record of a step or the result of a run."""
    record: dict[str, Any] = msgspec.to_builtins(value)
    return record


def converted(value: Any, kind: type[T], where: str) -> T:
    """Plain values as what they stand for; raises ``InvalidInputError`` when they do not fit."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"{error}.", where=where) from None


def recipe(tune: FineTune, *, new: int, old: int, threads: int, arithmetic: Arithmetic) -> Recipe:
    """Every setting of the training. New examples are gone through ``epochs`` times, whatever else is in a batch."""
    replay = tune.replay if old else 0.0
    fresh = tune.batch - min(round(tune.batch * replay), tune.batch - 1)
    return Recipe(
        rank=tune.rank,
        alpha=tune.alpha,
        batch=tune.batch,
        steps=max(1, math.ceil(new * tune.epochs / fresh)),
        learning_rate=tune.learning_rate,
        replay=replay,
        precision=tune.precision,
        seed=tune.seed,
        threads=threads,
        dtype=arithmetic.dtype,
        device=arithmetic.device,
    )


def only_newer(spec: DatasetSpec, than: DatasetSpec) -> DatasetSpec:
    """The specification without what an earlier version could have known.

    The bound is the earlier cutoff and not its last example: what lies between was held out to evaluate that version,
    and must stay held out, or forgetting could not be measured on it.

    Raises:
        InvalidInputError: nothing lies between the earlier cutoff and this one.
    """
    first = max(spec.first, than.cutoff)
    if first >= spec.last:
        raise InvalidInputError(
            f"Nothing is new: the version it would go on from was trained up to {than.cutoff:%Y-%m-%d %H:%M}Z, and "
            f"the newest example may be of {spec.last:%Y-%m-%d %H:%M}Z.",
            where="cutoff",
            next_step="Wait for outcomes, give a later --cutoff, or train in full (without --delta).",
        )
    return msgspec.structs.replace(spec, first=first)


def replayed(rows: Iterable[DatasetRow], seed: int, most: int) -> tuple[DatasetRow, ...]:
    """At most so many earlier rows, by a hash, so that a rebuilt set replays the same ones."""
    single = {row.example: row for row in rows}
    drawn = sorted(single.values(), key=lambda row: content_hash(f"{seed}|replay|{row.example}".encode()))[:most]
    return tuple(sorted(drawn, key=lambda row: row.example))


def together(new: Sequence[Example], old: Sequence[Example]) -> tuple[Example, ...]:
    """New examples, then the old ones that are not among them."""
    known = {example.id for example in new}
    return (*new, *(example for example in old if example.id not in known))


def minutes(seconds: float) -> str:
    """A duration in words: ``40 s``, ``12 min``, ``3 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"
