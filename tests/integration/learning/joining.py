"""A catalog with an application that learns from outcomes, and predictions to have outcomes of."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from tests.harness.embedders import WORDS
from tests.unit.catalog.examples import DEV, NOON, application, open_database, receipt

from antiphon.catalog.learning.datasets import Datasets
from antiphon.catalog.learning.outcomes import Outcomes
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.conversations import Conversations
from antiphon.catalog.serving.receipt import Receipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import ManualClock
from antiphon.core.errors import NotFoundError
from antiphon.core.ids import canonical, content_hash
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import Outcome as DeclaredOutcome
from antiphon.definitions.signals import Signal
from antiphon.durable.claims import ServedRuns
from antiphon.durable.runs import Runs
from antiphon.learning.evaluation.scorer import AnswerScorer
from antiphon.learning.outcomes.drift_report import DriftReader, DriftReport
from antiphon.learning.outcomes.drift_runs import WORKFLOW, DriftReports
from antiphon.learning.outcomes.intake import OutcomeJoiner
from antiphon.learning.outcomes.matching import OutcomeMatcher
from antiphon.learning.outcomes.monitoring import Monitor
from antiphon.serving.answering.context import subject_of

KEY = b"k" * 32
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"outlook": {"enum": ["on_time", "delayed"]}, "notice": {"type": "string"}},
        "required": ["outlook", "notice"],
        "additionalProperties": False,
    }
)


def learning_desk(name: str = "desk", **fields: Any) -> ApplicationSpec:
    given: dict[str, Any] = {
        "output_schema": SCHEMA,
        "classes": ("outlook",),
        "entity_keys": ("origin", "dest"),
        "outcome": DeclaredOutcome("outlook", positive="delayed", window="24h"),
    }
    return application(name, **(given | fields))


SIGNALS = (
    Signal("resolved", good="yes", bad="no", neutral="unclear", window="2h"),
    Signal("copied", good="yes"),
)


class Declared:
    """Applications as they are declared."""

    def __init__(self, *applications: ApplicationSpec) -> None:
        self.known = {each.name: each for each in applications}

    def get(self, scope: Scope, name: str) -> ApplicationSpec:
        if name not in self.known:
            raise NotFoundError(f"There is no application {name!r}.")
        return self.known[name]


class Desk:
    """Everything that joining needs, on real SQLite."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(NOON + timedelta(days=10))
        self.database = open_database(folder, self.clock)
        self.outcomes = Outcomes(self.database)
        self.receipts = Receipts(self.database)
        self.declared = Declared(learning_desk(signals=SIGNALS), learning_desk("mute", outcome=None, signals=SIGNALS))
        self.joiner = self.new_joiner()

    def new_joiner(self) -> OutcomeJoiner:
        matcher = partial(
            OutcomeMatcher,
            receipts=self.receipts,
            texts=Blobs(self.database),
            applications=self.declared.get,
            subject_key=KEY,
            clock=self.database.clock,
        )
        return OutcomeJoiner(self.database, self.outcomes, matcher)

    @property
    def monitor(self) -> Monitor:
        return Monitor(
            outcomes=self.outcomes,
            receipts=self.receipts,
            applications=self.declared.get,
            clock=self.clock,
        )

    @property
    def drift(self) -> DriftReports:
        releases = Releases(self.database)
        reader = DriftReader(
            receipts=self.receipts,
            releases=releases,
            datasets=Datasets(self.database),
            applications=self.declared.get,
            lake=None,  # type: ignore[arg-type]
            texts=Blobs(self.database),
            conversations=Conversations(self.database),
            scorer=AnswerScorer(Blobs(self.database), embedders=WORDS),
            clock=self.clock,
        )
        return DriftReports(runs=Runs(self.database), releases=releases, reader=reader, clock=self.clock)

    def keep_drift(self, *reports: DriftReport) -> None:
        """A scheduled run that found these."""
        runs = Runs(self.database)
        runs.submit(DEV, WORKFLOW, {})
        claimed = runs.claim("worker", ServedRuns(DEV.environment, (WORKFLOW,)), timedelta(minutes=1))
        assert claimed is not None
        runs.end(claimed, {"reports": {one.application: msgspec.to_builtins(one) for one in reports}})

    def predict(
        self, prediction: str, as_of: datetime = NOON, origin: str = "EWR", dest: str = "SFO", **fields: Any
    ) -> Receipt:
        entity = canonical({"dest": dest, "origin": origin})
        made = receipt(
            prediction,
            as_of=as_of,
            created_at=self.clock.now(),
            subject=(subject := subject_of(KEY, DEV, {"origin": origin, "dest": dest})),
            exposure_unit=subject,  # nobody is named
            entity_blob=content_hash(entity),
            classes={"outlook": {"on_time": 0.75, "delayed": 0.25}},
        )
        made = msgspec.structs.replace(made, **fields)
        self.receipts.add(made, [entity])
        return made

    def close(self) -> None:
        self.database.close()
