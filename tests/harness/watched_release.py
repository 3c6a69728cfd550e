"""A live release with one before it in a real catalog, and what users get of it: requests, outcomes, answers, features.

Nothing here knows how it is watched: it writes the rows that gateways, intake and refreshes write.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.catalogs import catalog_url
from tests.harness.outcomes import LATE
from tests.unit.catalog.examples import NOON, bundle, manifest, receipt

from antiphon.catalog.database import Database
from antiphon.catalog.features.publications import Hold
from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.catalog.measurements import Amount, Measurements
from antiphon.catalog.serving.receipt import FeatureReceipt, Receipt
from antiphon.core.clock import ManualClock
from antiphon.core.paths import ProjectPaths
from antiphon.core.scope import Scope
from antiphon.core.settings import Settings
from antiphon.definitions.application import Decoding
from antiphon.definitions.project import load
from antiphon.governance.audit.log import AuditLog
from antiphon.services.project.store import Store
from antiphon.services.watching.report import ProjectWatches
from antiphon.services.watching.watcher import ReleaseWatcher

DESK = """
from antiphon import Application, Entity, Prompt, Source, Watch, count, feature_view

flights = Source.table("flights", path="flights.csv", event_time="at", event_id="id")


@feature_view(entity=Entity("origin", keys=["origin"]), source=flights, watch="{view}")
class Congestion:
    departures = count(window="2h")


desk = Application("desk", features=[Congestion], entities=[Congestion.entity], purpose="inform",
    prompt=Prompt("{{{{ question }}}}"), model="tiny")
Watch(desk{settings})
"""


class ViewRollbacks:
    """Records what is asked of views, and holds them as the real one does."""

    def __init__(self) -> None:
        self.moves: list[tuple[str, str | int | None]] = []
        self.holds: dict[str, Hold] = {}

    def view(self, scope: Scope, view: str | None, to: str | int | None, **options: Any) -> None:
        assert view is not None
        assert options["hold"]
        self.moves.append((view, to))
        self.hold(scope, view, reason=options["reason"], principal=options["principal"])

    def hold(self, scope: Scope, view: str, *, reason: str, principal: str) -> None:
        self.holds[view] = Hold(view, reason, principal, NOON)

    def held(self, scope: Scope) -> dict[str, Hold]:
        return self.holds


class WatchedRelease:
    """A project, an older and a live release of it, and its watcher.

    Attributes:
        clock: of everything; :meth:`hour` moves it on.
    """

    def __init__(
        self, folder: Path, settings: str = "", view: str = "tell", at: datetime = NOON, **fields: Any
    ) -> None:
        self.clock = ManualClock(at)
        folder.mkdir(exist_ok=True)
        known = (folder / "definitions.py").exists()
        if not known:
            text = DESK.format(settings=f", {settings}" if settings else "", view=view)
            (folder / "definitions.py").write_text(text)
        self.store = Store(Settings(), ProjectPaths(root=folder, directory=folder / ".antiphon"))
        self.store.database = Database.open(catalog_url(folder), clock=self.clock)
        self.store.database.migrate()
        self.store.__dict__["audit"] = AuditLog(self.store.database, b"s" * 32)
        self.scope = self.store.scope
        self.views = ViewRollbacks()
        self.made = 0
        project = load(folder)
        self.version = project.views["congestion"].definition_version
        if known:  # By the process before.
            self.before, self.live = (one.id for one in reversed(self.store.releases.list(self.scope, "desk")))
            return
        self.store.applied.apply(self.scope, project, principal="ada")
        own = {**LATE, "features": {"congestion": self.version}, **fields}
        self.before, self.live = (
            self.store.releases.add(bundle(decoding=Decoding(max_tokens=n), **own), self.scope, "me", "r").id
            for n in (1, 2)
        )
        self.store.releases.activate(self.scope, "desk", self.before, "me", "first")
        self.clock.advance(timedelta(hours=1))

    def go_live(self) -> None:
        """Make the newer one live."""
        self.store.releases.activate(self.scope, "desk", self.live, "me", "better")
        self.clock.advance(timedelta(minutes=1))

    @property
    def watcher(self) -> ReleaseWatcher:
        """A worker that has just started."""
        return ReleaseWatcher(self.store, self.views)  # type: ignore[arg-type]

    @property
    def report(self) -> ProjectWatches:
        return ProjectWatches(self.store, self.scope)

    def answering(self) -> str:
        found = self.store.releases.live(self.scope, "desk")
        assert found is not None
        return found.id

    def requests(self, total: int, release: str | None = None, **events: int) -> None:
        """Requests of one moment, of which some failed or were late."""
        name = release or self.live
        counted = {"requests": total, "generated": total, **events}
        measured = {
            ("antiphon_release_requests", ("desk", name, event)): Amount(float(count))
            for event, count in counted.items()
            if count
        }
        self.store.measurements.append("gateway", self.clock.now(), {self.scope.tenant: Measurements(measured)})
        self.clock.advance(timedelta(seconds=20))

    def outcomes(self, forecasts: Sequence[tuple[float, bool]], release: str | None = None) -> None:
        """What became of answers, each with the probability that it was late and whether it was."""
        with self.store.database.transaction() as connection:
            for probability, late in forecasts:
                self.made += 1
                self.clock.advance(timedelta(milliseconds=1))
                now = self.clock.now()
                self.store.outcomes.add(
                    OutcomeRecord(
                        f"out_{self.made:07}", self.scope, "desk", "label", "joined", "late" if late else "on time",
                        now, now, prediction=f"pred_{self.made:07}", release=release or self.live, role="live",
                        as_of=now, outcome="late", probabilities={"late": probability}, principal="me",
                    ),
                    within=connection,
                )  # fmt: skip
        self.clock.advance(timedelta(seconds=1))

    def answers(
        self, values: Sequence[tuple[float, int]], role: str = "live", snapshot: str = "snap_1", spread: float = 0.001
    ) -> None:
        """Answers with the probability that each said, and the feature that its prompt saw."""
        with self.store.database.transaction() as connection:
            for probability, departures in values:
                self.made += 1
                self.clock.advance(timedelta(seconds=spread))
                self.store.receipts.add(
                    self._receipt(probability, departures, role, snapshot, self.clock.now()), within=connection
                )
        self.clock.advance(timedelta(minutes=1))

    def _receipt(self, probability: float, departures: int, role: str, snapshot: str, now: datetime) -> Receipt:
        feature = FeatureReceipt(
            "congestion.departures", departures, str(departures), self.version, snapshot, NOON, 1.0, "fresh"
        )
        return receipt(
            f"pred_{self.made:07}", self.scope, now, release=self.live, role=role, features=(feature,),
            classes={"late": {"late": probability, "on time": 1 - probability}},
        )  # fmt: skip

    def publish(self, snapshot: str) -> None:
        """Publish a snapshot of the view, as a refresh does."""
        key = f"congestion@{self.version}"
        current = self.store.publications.current(self.scope)
        made = manifest(snapshot, self.scope, view="congestion", definition_version=self.version)
        self.store.snapshots.add(made)
        number = 0 if current is None else current.number
        published = self.store.publications.publish(
            self.scope, {key: snapshot}, expected=number, reason="refresh", principal="worker"
        )
        self.store.publications.serve_known(published)

    def hour(self, hours: float = 1.0) -> None:
        self.clock.advance(timedelta(hours=hours))

    def close(self) -> None:
        self.store.database.close()
