"""Judges every rollout under way, again and again, and makes the transition that the judge decides.

Invariants:
- A judgement that moves a rollout and the move are one transaction, conditional on the state it judged.
- Fail closed: evidence that cannot be judged, or that is of another model than the one that is served now, promotes
  nothing, and a rollout that decides nothing within its patience is rolled back.
- Nothing that decides is kept in memory: a worker that starts goes on from the catalog.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from antiphon.catalog.database import Database
from antiphon.catalog.doorbell import Wakeup
from antiphon.catalog.learning.outcomes import OutcomeRecord, Outcomes
from antiphon.catalog.releases.evidence import Exposures, Judgements, ShadowPairs
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.releases.rollouts import Exposure, Judgement, RolloutRecord, Rollouts, ShadowPair, described
from antiphon.core.clock import parse_duration
from antiphon.core.errors import ConflictError
from antiphon.core.pauses import wait
from antiphon.core.scope import Scope
from antiphon.definitions.application import SLO
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.definitions.own_metrics import OwnMetric, ShadowMeasure
from antiphon.learning.evaluation.pairs import PairScorer
from antiphon.releases.evidence import SignalEvidence
from antiphon.releases.rollout import RolloutTransitions
from antiphon.releases.shadow_pairs import PairedOutcome

_log = logging.getLogger("antiphon.worker")

JUDGE = "judge"
"""The principal in whose name rollouts move by themselves."""

UNITS, SECONDS = 25, 30.0
"""A decision that stays the same is written down again after so many new units, or so long."""

_OVERLAP = timedelta(minutes=5)
"""Longer than a request may take, from the moment in its evidence to the commit of it: a row that was made
earlier may be committed later than the newest one read."""

_MOST_AT_ONCE = 500
_MOST_MEASURED = 100
"""Pairs that a metric is called for at one look."""


Judge = Callable[
    [
        RolloutRecord,
        Sequence[Exposure],
        Sequence[PairedOutcome],
        datetime,
        SLO,
        ShadowMeasure,
        Sequence[SignalEvidence],
    ],
    Judgement,
]
"""Decides about a rollout from its evidence, as of a moment (``releases.judge.judge``)."""


class RolloutEvidence(msgspec.Struct, frozen=True):
    """Evidence about a rollout: exposures by id, pairs by prediction, each with the losses by the measure that decides,
    and the signals that its plan asks for."""

    exposures: tuple[Exposure, ...]
    pairs: tuple[PairedOutcome, ...]
    measure: ShadowMeasure
    signals: tuple[SignalEvidence, ...]


class EvidenceReader:
    """Reads the evidence of rollouts; what was read once is kept, as evidence only grows."""

    def __init__(self, exposures: Exposures, pairs: ShadowPairs, scorer: PairScorer, outcomes: Outcomes) -> None:
        self._exposures = exposures
        self._pairs = pairs
        self._scorer = scorer
        self._outcomes = outcomes
        self._seen: dict[str, _EvidenceCache] = {}

    def read(self, rollout: RolloutRecord) -> RolloutEvidence:
        """Reads the evidence about one rollout."""
        seen = self._seen.setdefault(rollout.id, _EvidenceCache())
        since = _last(seen.exposures.values())
        for exposure in self._exposures.of(rollout.scope, rollout.id, since=since):
            seen.exposures[exposure.id] = exposure
        application = self._scorer.application(rollout)
        signals = application.judged_signals if rollout.state == "canary" else ()
        for signal in signals:
            sent = seen.signals.setdefault(signal.name, {})
            since = _last(sent.values()) or rollout.created_at
            for one in self._outcomes.signals(rollout.scope, rollout.application, signal.name, since=since):
                sent[one.prediction or ""] = one
        measure = application.shadow_measure
        for pair in self._pairs.of(rollout.scope, rollout.id, since=_last(seen.pairs.values())):
            sampled = isinstance(measure, OwnMetric) or measure.sampled(pair.prediction)
            if sampled and pair.prediction not in seen.pairs:
                seen.pairs[pair.prediction] = pair
                seen.units[pair.prediction] = self._scorer.unit(pair)
        if isinstance(measure, OwnMetric):
            self._measure(seen, rollout, measure)
        else:
            self._await_outcomes(seen, rollout, measure, declared=application.shape is not None)
        return RolloutEvidence(
            tuple(seen.exposures[name] for name in sorted(seen.exposures)),
            tuple(seen.compared[name] for name in sorted(seen.compared)),
            measure,
            tuple(
                SignalEvidence(signal, {name: one.value for name, one in seen.signals[signal.name].items()})
                for signal in signals
            ),
        )

    def _await_outcomes(
        self, seen: _EvidenceCache, rollout: RolloutRecord, shape: OutcomeShape, *, declared: bool
    ) -> None:
        """Bounds the losses of new pairs, and scores those whose outcome is known by now."""
        for prediction in seen.pairs.keys() - seen.compared.keys():
            self._keep(seen, prediction, self._scorer.score(seen.pairs[prediction], shape, None))
        waiting = [prediction for prediction, known in seen.compared.items() if known.truth is None]
        for first in range(0, len(waiting) if declared else 0, _MOST_AT_ONCE):
            truths = self._scorer.truths(rollout.scope, shape, waiting[first : first + _MOST_AT_ONCE])
            for prediction, truth in truths.items():
                self._keep(seen, prediction, self._scorer.score(seen.pairs[prediction], shape, truth))

    def _measure(self, seen: _EvidenceCache, rollout: RolloutRecord, metric: OwnMetric) -> None:
        """Measures new pairs, the earliest first and not all at one look: a function may take its second of each."""
        new = [pair for prediction, pair in seen.pairs.items() if prediction not in seen.compared]
        for pair in sorted(new, key=lambda pair: (pair.created_at, pair.prediction))[:_MOST_MEASURED]:
            self._keep(seen, pair.prediction, self._scorer.measure(rollout, pair, metric))

    def _keep(self, seen: _EvidenceCache, prediction: str, scored: PairedOutcome) -> None:
        seen.compared[prediction] = msgspec.structs.replace(scored, unit=seen.units[prediction])

    def keep_only(self, rollouts: Sequence[RolloutRecord]) -> None:
        """Forget what is not under way any more."""
        under_way = {rollout.id for rollout in rollouts}
        self._seen = {name: seen for name, seen in self._seen.items() if name in under_way}


class RolloutKeeper:
    """Judges every rollout of a scope that is under way. Any number of workers may do so at once.

    Args:
        judge: decides; any exception from it holds the rollout where it is.
        every: seconds between two looks while a rollout is under way; longer when judging takes long, so that it never
            takes the worker over.
        poll: seconds between looks while none is.
        wakeup: rings when a rollout begins or moves.
    """

    def __init__(
        self,
        scope: Scope,
        database: Database,
        releases: Releases,
        rollouts: Rollouts,
        judgements: Judgements,
        transitions: RolloutTransitions,
        evidence: EvidenceReader,
        judge: Judge,
        *,
        every: float = 1.0,
        poll: float | None = None,
        wakeup: Wakeup | None = None,
    ) -> None:
        self._scope = scope
        self._database = database
        self._releases = releases
        self._rollouts = rollouts
        self._judgements = judgements
        self._transitions = transitions
        self._evidence = evidence
        self._judge = judge
        self._every = every
        self._poll = every if poll is None else poll
        self._wakeup = wakeup or Wakeup()

    async def run_until(self, stop: asyncio.Event) -> None:
        """Look after the rollouts until ``stop``."""
        with self._wakeup as wakeup:
            while not stop.is_set():
                began, under_way = time.monotonic(), 1
                try:
                    under_way = await asyncio.to_thread(self.look)
                except Exception:
                    _log.exception("The rollouts cannot be read; trying again.")
                if under_way:
                    await wait(stop, max(self._every, 4 * (time.monotonic() - began)))
                else:
                    await wakeup.wait_until(stop, wakeup.rested(self._poll), found=False)

    def look(self) -> int:
        """Judges each rollout under way once and makes the transition decided; returns how many there were."""
        active = self._rollouts.list_active(self._scope)
        self._evidence.keep_only(active)
        for rollout in active:
            try:
                self._look_at(rollout)
            except ConflictError as conflict:
                _log.info("The rollout %s was moved by another process: %s", rollout.id, conflict)
            except Exception:
                # The next look tries again; a rollout that cannot be looked at must not stop the worker's other work.
                _log.exception("The rollout %s cannot be looked after; trying again.", rollout.id)
        return len(active)

    def _look_at(self, rollout: RolloutRecord) -> None:
        now = self._database.clock.now()
        live = self._releases.live(self._scope, rollout.application)
        if live is None or live.id != rollout.control:
            reason = f"Its control {rollout.control} is no longer live, so that it compares with nothing."
            self._transitions.abort(self._scope, rollout.id, principal=JUDGE, reason=reason)
            _log.warning("Aborted the rollout %s: %s", rollout.id, reason)
            return
        judgement = self._judged(rollout, now)
        impatient = self._out_of_patience(rollout, now)
        if impatient is not None and judgement.decision == "hold":
            judgement = msgspec.structs.replace(judgement, decision="roll_back", sentence=impatient)
        if judgement.decision == "hold" or rollout.held:
            before = self._judgements.latest(self._scope, rollout.id)
            if differs(before, judgement):
                self._judgements.add(judgement)
            return
        self._act(rollout, judgement)

    def _judged(self, rollout: RolloutRecord, now: datetime) -> Judgement:
        try:
            evidence = self._evidence.read(rollout)
            changed = self._transitions.model_changed(rollout)
            slo = self._releases.get(self._scope, rollout.candidate).bundle.application.slo
            judgement = self._judge(
                rollout, evidence.exposures, evidence.pairs, now, slo, evidence.measure, evidence.signals
            )
            if (judgement.rollout, judgement.state, judgement.step) != (rollout.id, rollout.state, rollout.step):
                raise ValueError(f"It judged {judgement.rollout}, {judgement.state}, step {judgement.step} instead.")
        except Exception as error:
            _log.exception("The rollout %s cannot be judged; it is held where it is.", rollout.id)
            return unjudged(rollout, error, now)
        if judgement.decision == "promote" and changed is not None:
            sentence = f"Held: what was seen is of another model. {changed}"
            return msgspec.structs.replace(judgement, decision="hold", sentence=sentence)
        return judgement

    def _out_of_patience(self, rollout: RolloutRecord, now: datetime) -> str | None:
        if rollout.held:
            return None
        # Counted from the last move, so that a rollout which was held for long has its time again.
        last = self._rollouts.moves(self._scope, rollout.id)[-1].at
        if now - last <= parse_duration(rollout.plan.patience):
            return None
        return f"Rolled back: {described(rollout)}, nothing was decided for {rollout.plan.patience}."

    def _act(self, rollout: RolloutRecord, judgement: Judgement) -> None:
        move = self._transitions.advance if judgement.decision == "promote" else self._transitions.undo
        with self._database.transaction() as connection:
            self._judgements.add(judgement, within=connection)
            moved = move(
                self._scope,
                rollout.id,
                principal=JUDGE,
                reason=judgement.sentence,
                expected=(rollout.state, rollout.step),
                within=connection,
            )
        _log.info("The rollout %s is now %s: %s", rollout.id, described(moved), judgement.sentence)


class _EvidenceCache(msgspec.Struct):
    exposures: dict[str, Exposure] = {}
    pairs: dict[str, ShadowPair] = {}
    units: dict[str, str] = {}
    compared: dict[str, PairedOutcome] = {}
    signals: dict[str, dict[str, OutcomeRecord]] = {}


def differs(before: Judgement | None, now: Judgement) -> bool:
    """``True`` when a judgement that moves nothing differs enough from the last one to be recorded."""
    if before is None or (before.state, before.step, before.decision) != (now.state, now.step, now.decision):
        return True
    if abs(_units(now) - _units(before)) >= UNITS:
        return True
    return now.sentence != before.sentence and (now.created_at - before.created_at).total_seconds() >= SECONDS


def unjudged(rollout: RolloutRecord, error: Exception, now: datetime) -> Judgement:
    """The judgement of a judge that failed: hold, and say so."""
    return Judgement(
        rollout=rollout.id,
        sequence=0,
        scope=rollout.scope,
        state=rollout.state,
        step=rollout.step,
        decision="hold",
        sentence=f"Held: the evidence cannot be judged ({type(error).__name__}: {error}). Without a decision it is "
        f"rolled back {rollout.plan.patience} after its last move.",
        metrics=(),
        harm=0.0,
        harm_bound=1 / rollout.plan.alpha,
        safe_bound=1 / rollout.plan.beta,
        created_at=now,
    )


def _units(judgement: Judgement) -> int:
    return max((metric.canary_units + metric.control_units for metric in judgement.metrics), default=0)


def _last(seen: Iterable[Exposure | ShadowPair | OutcomeRecord]) -> datetime | None:
    """The moment from which evidence is read again; ``None`` before any was read."""
    latest = max((one.created_at for one in seen), default=None)
    return None if latest is None else latest - _OVERLAP
