"""A view whose source begins to export cents, over the real feature platform: it passes its gates and drifts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec
from tests.harness import fakes
from tests.integration.services.watched_project import DEFINITIONS, Project

from antiphon.catalog.releases.watches import WatchDecision
from antiphon.catalog.serving.receipt import FeatureReceipt, Role
from antiphon.core.ids import new_id
from antiphon.governance.identity.principal import Principal
from antiphon.services.features.feature_services import FeatureRollback
from antiphon.services.watching.watcher import ReleaseWatcher
from antiphon.serving.request import AnswerRequest

_SHOPS = ("tea", "cake")


@dataclass(frozen=True)
class DriftResult:
    """What became of a view that drifts.

    Attributes:
        answers: with the bad snapshot, until it was decided. seconds: of the look that decided, until the view was
            back.
        snapshots: of the view: before, with the drift, after it was back, after one more refresh.
    """

    decision: WatchDecision | None
    answers: int
    seconds: float
    snapshots: tuple[str, ...]
    held: bool


class DriftingView:
    """The project, with answers of its live release that read the view as it is."""

    def __init__(self, folder: Path, action: str) -> None:
        option = 'source=orders, refresh="15m"'
        declared = DEFINITIONS.replace(option, f'{option}, watch="{action}"')
        assert declared != DEFINITIONS
        self.project = Project(folder, declared)
        store = self.project.store
        release = store.releases.live(store.scope, "desk")
        assert release is not None
        self.release = release
        self.watcher = ReleaseWatcher(store, FeatureRollback(store, self.project.platform), lag=timedelta(0))

    def export(self, factor: int, first: int) -> None:
        """Forty orders, priced in euros or in cents."""
        rows = [
            f"{first + n},{_SHOPS[n % 2]},2026-01-01T10:{n:02}:{first % 60:02}Z,{factor * (n % 20) + 0.5}"
            for n in range(40)
        ]
        self.project.write(*rows)

    def answer(self, count: int, role: Role = "live") -> None:
        """Answers that read the published values."""
        store, platform = self.project.store, self.project.platform
        views = {spec.name: spec.definition_version for spec in platform.views().values()}
        with store.database.transaction() as connection:
            for number in range(count):
                now = store.database.clock.now()
                shop = {"shop": _SHOPS[number % 2]}
                vector = platform.reader(store.scope).read(views, shop, now)
                asker = Principal(id="asker", tenant=store.scope.tenant, role="service")
                request = AnswerRequest(store.scope, asker, "desk", shop, question="?", as_of=now)
                receipt, texts = fakes.make_receipt(request, "Yes.", store.database.clock)
                features = tuple(
                    FeatureReceipt(
                        name, value.value, str(value.value), value.definition_version, value.snapshot, value.event_time,
                        1.0, "fresh", value.stream_offset,
                    )
                    for name, value in vector.values.items()
                )  # fmt: skip
                made = msgspec.structs.replace(
                    receipt, prediction=new_id("pred"), features=features, release=self.release.id, role=role
                )
                store.receipts.add(made, texts, within=connection)

    @property
    def snapshot(self) -> str:
        """The one that is published."""
        current = self.project.store.publications.current(self.project.store.scope)
        assert current is not None
        return next(snapshot for key, snapshot in current.snapshots.items() if key.startswith("today@"))

    async def run(self, most: int = 20, a_look: int = 10) -> DriftResult:
        """Publish good values, answer, export cents, refresh, answer until something is decided, and refresh again."""
        project, watches = self.project, self.project.store.watches
        self.export(1, 0)
        await project.refresh()
        project.consume()
        self.answer(200, "evaluation")
        self.answer(60)
        self.watcher.look()
        seen = [self.snapshot]
        self.export(100, 100)
        await project.refresh("today")
        seen.append(self.snapshot)
        answers, seconds = 0, 0.0
        for _ in range(most):
            self.answer(a_look)
            answers += a_look
            began = time.monotonic()
            if self.watcher.look():
                seconds = time.monotonic() - began
                break
        seen.append(self.snapshot)
        self.export(100, 200)
        await project.refresh("today")
        seen.append(self.snapshot)
        decisions = watches.decisions(project.store.scope, "desk")
        held = "today" in project.store.holds.of(project.store.scope)
        return DriftResult(decisions[0] if decisions else None, answers, seconds, tuple(seen), held)


@contextmanager
def drifting_view(folder: Path, action: str) -> Iterator[DriftingView]:
    made = DriftingView(folder, action)
    try:
        yield made
    finally:
        made.project.close()
