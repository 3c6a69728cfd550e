"""A gateway over a catalog in which an application was trained, evaluated, rolled out and told how it came true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from tests.contract.catalog.test_datasets import dataset
from tests.contract.catalog.test_models import version
from tests.harness import fakes
from tests.harness.outcomes import pair_scorer
from tests.integration.learning.joining import Desk, learning_desk
from tests.unit.catalog.examples import DEV, NOON
from tests.unit.learning.evaluation.test_gates import GOOD

from antiphon.catalog.database import Database
from antiphon.catalog.learning.datasets import Datasets
from antiphon.catalog.learning.evaluations import Bin, Evaluation, EvaluationGate, Evaluations, IntervalEstimate
from antiphon.catalog.learning.models import ModelVersions
from antiphon.catalog.learning.outcomes import Outcomes
from antiphon.catalog.learning.safety import SafetyReport, SafetyReports
from antiphon.catalog.releases.evidence import Exposures, Judgements, ShadowPairs
from antiphon.catalog.releases.releases import Bundle, ModelPin, Release, Releases
from antiphon.catalog.releases.rollouts import Arm, Exposure, RolloutRecord, Rollouts, ShadowPair
from antiphon.core.scope import Scope
from antiphon.definitions.learning import Rollout
from antiphon.durable.dead_letters import DeadLetters
from antiphon.durable.run import Run
from antiphon.durable.runs import Runs
from antiphon.gateway.services import GatewayServices
from antiphon.governance.audit.log import AuditLog
from antiphon.learning.outcomes.submission import OutcomeSubmission
from antiphon.learning.retraining.orders import TrainingRequest
from antiphon.orchestration.rollouts import EvidenceReader, RolloutKeeper
from antiphon.releases.judge import judge
from antiphon.releases.rollout import RolloutTransitions

PLAN = Rollout(shadow=0.5, shadow_pairs=20, canary=(5, 50), step_units=50)


class DeskRuns:
    """Runs as the pages show them; whoever looks may retry those that failed."""

    def __init__(self, database: Database) -> None:
        self.runs, self.letters = Runs(database), DeadLetters(database)
        self.database = database
        self.list, self.get = self.runs.list, self.runs.get

    def waits(self, scope: Scope, runs: Sequence[Run]) -> Mapping[str, Any]:
        return {}

    def broken(self, scope: Scope) -> Sequence[Any]:
        return ()

    def peers(self, scope: Scope, here: Sequence[int]) -> Sequence[Any]:
        return ()

    def moves(self, scope: Scope, runs: Sequence[Run], by: Any) -> Mapping[str, str]:
        of = {"failed": "retry", "queued": "pause"}
        return {run.id: "resume" if run.paused_by else of[run.status] for run in runs if run.status in of}

    def pause(self, scope: Scope, run: str, by: Any, reason: str) -> Run:
        return self.runs.pause(scope, run, by.id)

    def resume(self, scope: Scope, run: str, by: Any) -> Run:
        return self.runs.resume(scope, run)

    def retry(self, scope: Scope, run: str, by: Any, reason: str = "") -> Run:
        with self.database.transaction() as connection:
            return self.letters.retry(scope, run, within=connection)


class LearnedDesk(Desk):
    """Everything the pages show, on real SQLite, with the real judge."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        database = self.database
        self.releases, self.rollouts = Releases(database), Rollouts(database)
        self.audit = AuditLog(database, fakes.SECRET)
        self.runs = Runs(database)
        self.orders: list[TrainingRequest] = []
        self.transitions = RolloutTransitions(
            database,
            self.releases,
            self.rollouts,
            audit=self.audit,
            feature_exists=lambda scope, view, version: True,
        )
        reader = EvidenceReader(Exposures(database), ShadowPairs(database), pair_scorer(database), Outcomes(database))
        self.keeper = RolloutKeeper(
            DEV, database, self.releases, self.rollouts, Judgements(database), self.transitions, reader, judge
        )

    def place(self, scope: Scope, principal: str, order: TrainingRequest, by: Any = None) -> str:
        """Implements the port ``Training`` with a run that nobody claims."""
        self.declared.get(scope, order.application)
        self.orders.append(order)
        return self.runs.submit(scope, "train", {"application": order.application}, order.key)

    def services(self) -> GatewayServices:
        return fakes.gateway_services(
            self.database,
            training=self,
            transitions=self.transitions,
            outcomes=self.outcomes,
            joiner=self.joiner,
            monitor=self.monitor,
            drift=self.drift,
            runs=DeskRuns(self.database),
        )

    def release(self, number: int, model: str | None = None, plan: Rollout = PLAN, **fields: Any) -> Release:
        """A draft on a model version, or on the base model."""
        spec = learning_desk(owner=f"owner {number}", rollout=plan, **fields)
        pin = ModelPin(model or spec.model, "ab" * 32, model)
        spec = msgspec.structs.replace(spec, model=pin.name)
        return self.releases.add(Bundle(spec, pin, "p"), DEV, "ada", f"attempt {number} <b>&</b>")

    def live(self, number: int = 1, **fields: Any) -> Release:
        made = self.release(number, **fields)
        self.transitions.activate(DEV, "desk", made.id, principal="ada", reason="it is the first", force=True)
        return made

    def validated(self, number: int, **fields: Any) -> Release:
        made = self.release(number, **fields)
        self.releases.set_stage(DEV, made.id, "validated", principal="gates", reason="all passed")
        return made

    def begin(self, plan: Rollout = PLAN, **fields: Any) -> RolloutRecord:
        """A live release and a rollout beside it."""
        self.live(1)
        candidate = self.validated(2, plan=plan, **fields)
        return self.transitions.begin(DEV, candidate.id, principal="ada", reason="it is better")

    def expose(self, rollout: RolloutRecord, users: int, bad: int = 0, first: int = 0) -> None:
        """As many users in each arm; the canary's ``bad`` ones get an error."""
        exposures = Exposures(self.database)
        with self.database.transaction() as connection:
            for number in range(first, first + users):
                for arm in _ARMS:
                    failed = arm == "canary" and number < bad
                    made = Exposure(
                        rollout=rollout.id,
                        id=f"{arm}_{number:05}",
                        scope=DEV,
                        unit=f"{arm}-{number}",
                        arm=arm,
                        step=rollout.step,
                        probability=rollout.weight,
                        error="engine_failed" if failed else None,
                        invalid=False,
                        generated=True,
                        first_byte=0.1,
                        seconds=0.4,
                        publication=7,
                        prediction=None,
                        created_at=self.clock.now(),
                    )
                    exposures.add(made, within=connection)

    def mirror(self, rollout: RolloutRecord, pairs: int, labelled: int) -> None:
        """Predictions with a shadow; the first ``labelled`` have a joined outcome."""
        for number in range(pairs):
            moment = self.clock.now()
            self.predict(f"m{number}", moment)
            pair = ShadowPair(
                rollout.id,
                DEV,
                f"m{number}",
                None,
                None,
                number % 2 == 0,
                {"late": 0.25},
                {"late": 0.2},
                0.4,
                0.5,
                moment,
            )
            ShadowPairs(self.database).add(pair)
        self.tell([(f"m{number}", "on_time") for number in range(labelled)])

    def tell(self, known: Sequence[tuple[str, str]], at: datetime | None = None) -> None:
        """What became of predictions."""
        moment = at or self.clock.now()
        arriving = [
            OutcomeSubmission(application="desk", value=value, prediction=name, available_at=moment)
            for name, value in known
        ]
        taken = self.joiner.take_many(DEV, "ada", arriving)
        assert [each.error for each in taken] == [None] * len(known)

    def look(self, seconds: int = 31) -> None:
        """Let time pass and the judge look."""
        self.clock.advance(timedelta(seconds=seconds))
        self.keeper.look()

    def train(self) -> None:
        """Two versions, each in a release with an evaluation; the second fails a gate."""
        models, datasets = ModelVersions(self.database), Datasets(self.database)
        datasets.add(dataset("data_1"))
        models.add(version(1, losses=tuple((step, 2.0 / step) for step in range(1, 20))))
        models.add(version(2, parent="desk.v1", recipe={"rank": 8, "learning_rate": 1e-3, "precision": "q8_0"}))
        models.alias(DEV, "desk", "champion", "desk.v1", "ada", "it is the best")
        for number, auc in ((1, 0.75), (2, 0.62)):
            release = self.validated(number + 10, model=f"desk.v{number}")
            Evaluations(self.database).add(evaluated(number, release.id, auc))
            SafetyReports(self.database).add(reported(number, release.id))

    def come_true(self, days: int = 3, each: int = 20) -> None:
        """Predictions with labels on some days, before the window ended."""
        live = self.live(1)
        for day in range(days):
            known = []
            for number in range(each):
                chance = 0.9 if number % 4 == 0 else 0.2
                moment = NOON + timedelta(days=day, minutes=number)
                name = f"p{day}-{number}"
                self.predict(
                    name, moment, release=live.id, classes={"outlook": {"delayed": chance, "on_time": 1 - chance}}
                )
                known.append((name, "delayed" if number % 5 == 0 else "on_time"))
            self.tell(known, NOON + timedelta(days=day, hours=2))
        self.tell([("p0-0", "delayed")], NOON + timedelta(hours=3))


def evaluated(number: int, release: str, auc: float) -> Evaluation:
    passed = auc > 0.7
    reason = f"The lower bound of the AUC is {auc - 0.05:.3f}; <b>above 0.6</b> is asked for."
    return msgspec.structs.replace(
        GOOD,
        id=f"eval_{number}",
        release=release,
        model=f"desk.v{number}",
        metrics=GOOD.metrics | {"auc": IntervalEstimate(auc, auc - 0.05, auc + 0.05)},
        reliability=(Bin(0.2, 0.15, 120), Bin(0.8, 0.7, 30)),
        gates=(
            EvaluationGate("auc", passed, auc - 0.05, 0.6, reason),
            EvaluationGate("leaked_share", None, None, None, "Switched off."),
        ),
        created_at=NOON + timedelta(hours=number),
    )


def reported(number: int, release: str) -> SafetyReport:
    return SafetyReport(
        id=f"safety_{number}", scope=DEV, application="desk", release=release, model=f"desk.v{number}", requests=4,
        valid_share=1.0, seconds_p50=0.2, seconds_p99=0.4, tokens=90.0, suites=GOOD.safety, gates=(), fingerprints=(),
        rows_blob="b", created_at=NOON + timedelta(hours=number),
    )  # fmt: skip


_ARMS: tuple[Arm, Arm] = ("canary", "control")
