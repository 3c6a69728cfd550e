"""The small airport of the feature tests with an application that learns: what was asked, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tests.integration.features.desk import history, specs, write
from tests.integration.features.world import NOON, World
from tests.integration.learning.joining import KEY, Declared, learning_desk

from antiphon.catalog.learning.datasets import Datasets
from antiphon.catalog.learning.outcomes import Outcomes
from antiphon.catalog.releases.releases import Bundle, ModelPin, Release, Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipt import FeatureReceipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.ids import canonical, content_hash
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import FineTune, Outcome, TrainingWindow
from antiphon.definitions.source import SourceSpec
from antiphon.learning.datasets.builder import DatasetBuilder
from antiphon.learning.datasets.rows import DatasetRowBuilder
from antiphon.learning.outcomes.intake import OutcomeJoiner
from antiphon.learning.outcomes.matching import OutcomeMatcher
from antiphon.learning.outcomes.submission import OutcomeSubmission
from antiphon.serving.answering.context import subject_of

WINDOW = TrainingWindow(history="20d", maturity="6h", embargo="2d")


def asked(number: int, at: datetime, after: timedelta, label: str | None, origin: str = "EWR", **fields: Any) -> Any:
    """One row of the outcome's history."""
    row = {"event_id": f"q{number}", "origin": origin, "dest": "SFO", "asked": at, "known": at + after}
    return row | {"outlook": label} | fields


def questions(count: int = 400) -> list[dict[str, Any]]:
    """A question every two hours before noon, known three hours later; every third was delayed."""
    return [
        asked(
            number,
            NOON - timedelta(hours=2 * (number + 1)),
            timedelta(hours=3),
            "delayed" if number % 3 == 0 else "on_time",
            "EWR" if number % 2 else "LGA",
        )
        for number in range(count)
    ]


def write_questions(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    stamp = pa.timestamp("us", tz="UTC")
    schema = pa.schema(
        [
            ("event_id", pa.string()),
            ("origin", pa.string()),
            ("dest", pa.string()),
            ("asked", stamp),
            ("known", stamp),
            ("outlook", pa.string()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)


class Flown:
    """A world whose application learns."""

    def __init__(self, folder: Path) -> None:
        self.departures = folder / "departures.parquet"
        self.flown = folder / "flown.parquet"
        write(self.departures, history())
        write_questions(self.flown, questions())
        self.world = World(folder, *specs(self.departures))
        self.datasets = Datasets(self.world.database)
        self.outcomes = Outcomes(self.world.database)
        self.receipts = Receipts(self.world.database)
        self.releases = Releases(self.world.database)
        self.application = self.declare()
        self.release = self.released(self.application)
        matcher = partial(
            OutcomeMatcher,
            receipts=self.receipts,
            texts=Blobs(self.world.database),
            applications=Declared(self.application).get,
            subject_key=KEY,
            clock=self.world.database.clock,
        )
        self.joiner = OutcomeJoiner(self.world.database, self.outcomes, matcher)
        rows = DatasetRowBuilder(
            self.world.scope,
            outcomes=self.outcomes,
            receipts=self.receipts,
            texts=Blobs(self.world.database),
            releases=self.releases,
            definitions=self.world.definitions,
            log=self.world.log,
        )
        self.builder = DatasetBuilder(rows, self.datasets, self.world.lake, self.world.clock)

    def declare(self, **fields: Any) -> ApplicationSpec:
        flown = SourceSpec("flown", "table", "asked", "known", event_id="event_id", path=str(self.flown))
        given: dict[str, Any] = {
            "features": {name: spec.definition_version for name, spec in self.world.specs.items()},
            "outcome": Outcome("outlook", positive="delayed", window="24h", history=flown),
            "fine_tune": FineTune(base="tiny", window=WINDOW, examples=100),
        }
        return learning_desk(**(given | fields))

    def released(self, application: ApplicationSpec) -> Release:
        bundle = Bundle(application, ModelPin("tiny", None), "p")
        return self.releases.add(bundle, self.world.scope, "me", "a test")

    def predict(
        self, prediction: str, as_of: datetime, label: str | None, release: Release | None = None,
        created_at: datetime | None = None, **fields: Any,
    ) -> None:  # fmt: skip
        """A prediction as serving would have made it, and what became of it three hours later."""
        scope, entity = self.world.scope, {"dest": "SFO", "origin": "EWR"}
        from tests.unit.catalog.examples import receipt

        features = (
            FeatureReceipt("congestion.delay_2h", 12.5, "10", "v", None, as_of - timedelta(hours=1), 3600.0, "fresh"),
            FeatureReceipt("congestion.departures_2h", 3, None, "v", None, as_of - timedelta(hours=1), 3600.0, "fresh"),
        )
        made = receipt(
            prediction,
            scope,
            as_of=as_of,
            created_at=created_at or self.world.clock.now(),
            release=(release or self.release).id,
            subject=subject_of(KEY, scope, entity),
            entity_blob=content_hash(canonical(entity)),
            features=features,
            classes={"outlook": {"delayed": 0.25}},
            **fields,
        )
        self.receipts.add(made, [canonical(entity)])
        if label is not None:
            sent = OutcomeSubmission(
                application="desk", value=label, prediction=prediction, available_at=as_of + timedelta(hours=3)
            )
            assert self.joiner.take(scope, "me", sent).status == "joined"

    def rows(self, path: str) -> list[dict[str, Any]]:
        with self.world.lake.open(path) as file:
            found: list[dict[str, Any]] = pq.read_table(file).to_pylist()
        return found

    def close(self) -> None:
        self.world.close()
