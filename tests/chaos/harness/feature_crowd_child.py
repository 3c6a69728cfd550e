"""The processes that the kill harness lets work at once: publishers, a consumer, collectors, a reader and others.

Each life has a role and says what it does line by line, as ``feature_chaos_child`` does; besides, ``acked BATCH``,
``read JSON``, ``answered PREDICTION`` and ``built DATASET``. A life that settles begins when all others are dead: it
reads what is served, takes over what they left open, and tries what was pinned: predictions are explained and made
again, datasets built again, earlier releases read.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
from tests.chaos.harness import feature_crowd_broken
from tests.chaos.harness.feature_chaos_child import KEPT, Life, _Fixed, operation, say, serve_announced, zygote
from tests.chaos.harness.feature_chaos_project import SHOPS, moments, write_stock
from tests.chaos.harness.feature_crowd_evidence import watch_syncs
from tests.chaos.harness.feature_crowd_project import APPLICATION

from antiphon.catalog.features.publications import Publication
from antiphon.catalog.group_commit import GroupCommit
from antiphon.core.errors import AntiphonError, ConflictError, NotFoundError
from antiphon.core.ids import content_hash
from antiphon.definitions.learning import TrainingWindow
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED
from antiphon.engine.api.messages import GenerationRequest
from antiphon.features.offline.refresh import WORKFLOW
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.online.overlay_records import view_prefix
from antiphon.governance.identity.principal import Principal
from antiphon.releases.live import LiveReleases
from antiphon.services.answering import serving_services
from antiphon.services.apply.apply import apply
from antiphon.services.features.feature_services import FeatureRollback
from antiphon.services.features.refreshing import finish_apply
from antiphon.services.learning.outcomes import dataset_builder, declared_applications
from antiphon.services.predictions import ProjectPredictions
from antiphon.services.rollouts import rollout_transitions
from antiphon.serving.answerer import Answerer
from antiphon.serving.request import AnswerRequest
from antiphon.testing.scripted_engine import MODEL, ScriptedEngine, ScriptedGeneration

ROLES = ("orders", "again", "stock", "clients", "consumer", "collector", "pruner", "back", "reader", "desk")
"""``orders`` and ``again`` publish the same view, ``stock`` another one, ``back`` rolls back, holds and releases from
embargoes, ``desk`` answers, moves the live release and builds datasets."""

GRACE = 8.0
"""Seconds for which collections spare what was written: longer than a round, as an hour is than a publication."""

_LEASE = timedelta(seconds=4)
_ASKER = Principal("chaos", "default", "admin", "person", "restricted")
_WINDOW = TrainingWindow(history="24h", maturity="1s")
_PATIENCE = 3.0
"""Seconds within which a reading must be answered."""


class Role(Life):
    """One process of the crowd."""

    def __init__(self, root: Path, order: dict[str, Any]) -> None:
        if order.get("power"):
            watch_syncs(root)
        super().__init__(root, order)
        self._root = root
        self._name = str(order.get("role", "settle"))
        self._chance = random.Random(f"{self._seed} {order['life']} {self._name}")
        self._turn = 0
        feature_crowd_broken.switch_off(order.get("unsafe"), self.platform, self.store)

    def work(self) -> None:
        """Its role's work, again and again, until it is killed."""
        roles: dict[str, Callable[[], None]] = {
            "orders": lambda: self._publish(()),
            "again": lambda: self._publish(("counted",)),
            "stock": self._restock,
            "clients": self._send,
            "consumer": self._follow,
            "collector": self._collect_young,
            "pruner": self._collect_young,
            "back": self._take_back,
            "reader": self._read,
            "desk": self._serve,
        }
        while True:
            with operation(self._name):
                roles[self._name]()
            self._turn += 1

    def first(self) -> None:
        """What the others go on from: everything published once, a dataset, some predictions."""
        self._publish(())
        self._restock()
        self._serve()

    def _publish(self, views: Sequence[str]) -> None:
        reason = f"{self._name} {self._order['life']}-{self._turn}"
        wanted = views or sorted({view.name for view in self.platform.views().values()} - {"stocked"})
        self._finish(self.platform.refresh(self.store.scope, views=wanted, reason=reason))
        time.sleep(0.2 * self._chance.random())

    def _restock(self) -> None:
        write_stock(self._root, self._seed, self._base, 1_000 * int(self._order["life"]) + self._turn)
        reason = f"stock {self._order['life']}-{self._turn}"
        self._finish(self.platform.refresh(self.store.scope, views=["stocked"], reason=reason))
        time.sleep(0.2 * self._chance.random())

    def _send(self) -> None:
        number = int(self._order["batch"]) + self._turn
        if self._turn < 8:
            self._append(number)
            say(f"acked {number}")
        time.sleep(0.05 + 0.1 * self._chance.random())

    def _follow(self) -> None:
        if not self.platform.consume(7):
            time.sleep(0.02)

    def _collect_young(self) -> None:
        self.platform.pruner.prune(keep=KEPT, grace=timedelta(seconds=GRACE))
        time.sleep(0.1 * self._chance.random())

    def _take_back(self) -> None:
        """Whatever is refused here is refused to an operator too: somebody else was faster, or nothing is earlier."""
        scope, rollback = self.store.scope, FeatureRollback(self.store, self.platform)
        view = self._chance.choice(("counted", "summed", "stocked"))
        current = self.store.publications.current(scope)
        number = current.number if current is not None else 0
        reason = f"back {self._order['life']}-{self._turn}"
        with suppress(NotFoundError, ConflictError):
            match self._chance.randrange(5):
                case 0:
                    rollback.view(scope, view, None, reason=reason, principal="chaos")
                case 1:
                    rollback.view(scope, view, None, reason=reason, principal="chaos", hold=True)
                case 2 if number > KEPT + 1:
                    self.platform.publisher.rollback(number - KEPT - 1, reason=reason, principal="chaos")
                case 3:
                    self.platform.refresher.release_staged()
                case _:
                    self._let_go()
        time.sleep(0.1 * self._chance.random())

    def _let_go(self) -> None:
        rollback = FeatureRollback(self.store, self.platform)
        for held in list(rollback.held(self.store.scope)):
            with suppress(ConflictError):
                rollback.resume(self.store.scope, held, reason="go on", principal="chaos")

    def _read(self) -> None:
        reader = self.platform.reader(self.store.scope)
        assert isinstance(reader, FeatureReader)
        publication = reader.publication()
        if publication is None:
            return
        views = self._chance.choice(self._version_sets(publication))
        as_of = self._chance.choice(list(moments(self._base)))
        began = time.monotonic()
        while True:
            before = self._offsets(views)
            try:
                read = reader.read_many(views, [{"shop": shop} for shop in SHOPS], as_of)
                break
            except AntiphonError as error:
                if time.monotonic() - began > _PATIENCE:
                    said = {"publication": publication.number, "as_of": as_of.isoformat(), "failed": str(error)}
                    say("read " + json.dumps(said))
                    return
                say("refused")
                time.sleep(0.02)
        said = self._said(views, as_of.isoformat(), read)
        say("read " + json.dumps({**said, "offsets": [before, self._offsets(views)]}))
        time.sleep(0.02)

    def _serve(self) -> None:
        for _ in range(3):
            request = AnswerRequest(
                self.store.scope, _ASKER, APPLICATION, {"shop": self._chance.choice(SHOPS)},
                question=f"{self._order['life']}-{self._turn}", as_of=next(moments(self._base)),
            )  # fmt: skip
            with suppress(AntiphonError):  # Nothing published yet, or a rollback is restoring its events.
                say(f"answered {self._runner.run(self._answerer.answer(request)).prediction}")
        if self._turn % 4 == 0:
            self._activate(self._chance.choice(self._releases()))
        if self._turn % 2 == 0:
            application = declared_applications(self.store)(self.store.scope, APPLICATION)
            builder = dataset_builder(self.store)
            spec = builder.plan(
                application, _WINDOW, cutoff=self._base, origins=("history",), examples=50,
                seed=self._chance.randrange(1_000),
            )  # fmt: skip
            say(f"built {builder.build(spec).id}")
        time.sleep(0.05)

    def _releases(self) -> list[str]:
        return [release.id for release in self.store.releases.list(self.store.scope, APPLICATION)]

    def _activate(self, release: str) -> None:
        rollout_transitions(self.store).activate(
            self.store.scope, APPLICATION, release, principal="chaos", reason="chaos", by=_ASKER
        )

    @cached_property
    def _runner(self) -> asyncio.Runner:
        return asyncio.Runner()

    @cached_property
    def _engine(self) -> ScriptedEngine:
        return ScriptedEngine(_paced, (msgspec.structs.replace(MODEL, name="simulated"),))

    @cached_property
    def _answerer(self) -> Any:
        store = self.store
        live = LiveReleases(store.releases, store.database.clock, rollouts=store.rollouts)
        self._commit = GroupCommit(store.database)
        return Answerer(serving_services(store, self._engine, self._commit, live, self.platform))

    def _finish(self, run: str) -> None:
        """Work until a run has ended; others may do the work, and theirs may be done here."""
        self._runner.run(self._work_until(lambda: self.store.runs.get(self.store.scope, run).status in ENDED))

    async def _work_until(self, done: Callable[[], bool]) -> None:
        registry, stop = WorkflowRegistry(), asyncio.Event()
        registry.add(WORKFLOW, self.platform.refresher.refresh)
        executor = Executor(
            self.store.database, registry, self._name, self.store.scope, concurrency=1, poll=0.02,
            lease=_LEASE,
            backoff=timedelta(seconds=0.1),
        )  # fmt: skip
        working = asyncio.create_task(executor.run_until(stop))
        give_up, said = time.monotonic() + 150, time.monotonic()
        while not done() and time.monotonic() < give_up:
            await asyncio.sleep(0.02)
            if time.monotonic() > said + 5:  # So that whoever listens knows that it lives.
                said = time.monotonic()
                say("waiting")
        stop.set()
        await working

    def settle(self) -> dict[str, Any]:
        """What is served at once, and after everything open was finished; what became of what was pinned."""
        scope = self.store.scope
        found: dict[str, Any] = {"at_once": self._served(1)}
        self._append(int(self._order["batch"]))  # the client's last one again: it had no answer
        while self.platform.consume(1_000):
            pass
        self._let_go()
        for name in ROLES:
            self.store.runs.reclaim(name, "dev")
        self._runner.run(self._work_until(lambda: all(run.status in ENDED for run in self.store.runs.list(scope, 500))))
        runs = [run for run in self.store.runs.list(scope, 500) if run.status != "succeeded"]
        found["runs"] = {run.id: f"{run.status}: {run.error}" for run in runs}
        if self._order["collect"]:
            serve_announced(self.store)
            found["cutoff"] = time.time()
            self._collect()
        found["pins"] = self._try_pins()
        found["settled"] = self._served(KEPT)
        found["consumed"] = {
            view.view: [view.consumed, stream.end]
            for stream in self.platform.consumer.status(datetime.now(UTC))
            for view in stream.views
        }
        return found

    def _try_pins(self) -> list[str]:
        """Predictions explained and made again, datasets built again, earlier releases read; what went wrong."""
        scope, explaining, wrong = self.store.scope, ProjectPredictions(self.store), []
        for prediction in self._order["predictions"]:
            try:
                features = explaining.explain(scope, prediction)["features"]
                wrong += [
                    f"{prediction}: {one['name']} is made again as {one['made_again']}"
                    for one in features
                    if one["made_again"] != "the same"
                ]
                if not self._runner.run(explaining.replay(self._engine, scope, prediction))["identical"]:
                    wrong.append(f"{prediction}: its text comes out otherwise")
            except AntiphonError as error:
                wrong.append(f"{prediction}: {error}")
        for dataset in self._order["datasets"]:
            try:
                dataset_builder(self.store).rebuild(dataset)
            except AntiphonError as error:
                wrong.append(str(error))
        for release in self._releases():
            try:
                self._activate(release)
                bundle = self.store.releases.get(scope, release).bundle.application
                self.platform.reader(scope).read(bundle.features, {"shop": SHOPS[0]}, next(moments(self._base)))
            except AntiphonError as error:
                wrong.append(f"release {release}: {error}")
        return wrong

    def _served(self, kept: int) -> list[dict[str, Any]]:
        scope, found = self.store.scope, []
        for publication in self.store.publications.list(scope, kept):
            reader = FeatureReader(
                scope, publications=_Fixed(publication, self.store.publications), online=self.platform.online,
                clock=self.store.database.clock, overlay=self.platform.overlay, lease=0.0,
            )  # fmt: skip
            for views in self._version_sets(publication):
                for as_of in moments(self._base):
                    try:
                        read = reader.read_many(views, [{"shop": shop} for shop in SHOPS], as_of)
                    except AntiphonError as error:
                        said = {"publication": publication.number, "as_of": as_of.isoformat(), "failed": str(error)}
                        found.append(said)
                        continue
                    found.append(self._said(views, as_of.isoformat(), read))
                    found[-1]["publication"] = publication.number
        return found

    @staticmethod
    def _said(views: dict[str, str], as_of: str, read: Sequence[Any]) -> dict[str, Any]:
        values = {
            shop: {name: one.value for name, one in vector.values.items()}
            for shop, vector in zip(SHOPS, read, strict=True)
        }
        number = read[0].publication
        return {"publication": number, "read": number, "as_of": as_of, "views": views, "values": values}

    @staticmethod
    def _version_sets(publication: Publication) -> list[dict[str, str]]:
        """Every published definition version, in as few readings as there are versions of a view."""
        sets: list[dict[str, str]] = []
        for key in publication.snapshots:
            view, _, version = key.partition("@")
            for one in sets:
                if view not in one:
                    one[view] = version
                    break
            else:
                sets.append({view: version})
        return sets

    def _offsets(self, views: dict[str, str]) -> dict[str, int]:
        keys = [f"{view}@{version}" for view, version in views.items()]
        reading = self.platform.overlay.read([view_prefix(key) for key in keys])
        return {key: reading.offsets[view_prefix(key)] for key in keys}

    def close(self) -> None:
        if "_answerer" in self.__dict__:
            self._runner.run(self._answerer.close())
            self._commit.close()
        if "_runner" in self.__dict__:
            self._runner.close()
        super().close()


def _paced(request: GenerationRequest) -> ScriptedGeneration:
    """An answer that depends on the whole request and on nothing else."""
    busy = content_hash([request.prompt, request.messages])[0] < "8"
    return ScriptedGeneration(json.dumps({"pace": "busy" if busy else "quiet"}))


def live(order: dict[str, Any]) -> None:
    """One life, as it is ordered."""
    life = Role(Path(order["root"]), order)
    try:
        if order["do"] == "apply":
            applied = apply(life.store, principal="chaos", activate=True)
            if applied.run is not None:  # Views that are published are so in their new version first.
                finish_apply(life.store, applied.run, platform=life.platform)
            keys = [f"{view.name}@{view.definition_version}" for view in life.platform.views().values()]
            say("applied " + json.dumps([keys, [release.id for release in applied.releases]]))
        elif order["do"] == "first":
            life.first()
        elif order["do"] == "settle":
            say("settled " + json.dumps(life.settle()))
        else:
            say("working")
            life.work()
    finally:
        life.close()


if __name__ == "__main__":
    joins = "antiphon.features.offline.point_in_time.view_columns"
    for late in ("cedarpy", "jsonschema", "pandas", "pyarrow.compute", joins):
        import_module(late)  # Before the forks, so that a life's first answer and dataset take no second.
    zygote(live)
