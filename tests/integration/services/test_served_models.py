"""What the engine has to serve follows the catalog: a real database, and an engine that says what it was told."""

import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select
from tests.unit.catalog.examples import DEV, NOON, bundle, open_database

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.learning.models import ModelFile, ModelVersion, ModelVersions
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.catalog.releases.releases import ModelPin, Release, Releases
from antiphon.catalog.releases.rollouts import Rollouts
from antiphon.core.clock import ManualClock
from antiphon.core.errors import CorruptionError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions.learning import Rollout
from antiphon.engine.api.messages import EngineDescription, ServedModel
from antiphon.governance.identity.grants import Grants, TenantGrant
from antiphon.governance.identity.tenants import Tenants
from antiphon.services.learning.served_models import LINGER_SECONDS, RETRY_SECONDS, ServedModels
from antiphon.services.learning.wanted_models import LEASE_SECONDS, want
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration


class Engine(ScriptedEngine):
    """Refuses the models named in ``broken``; ``restart`` makes it forget what it was told."""

    def __init__(self) -> None:
        super().__init__([ScriptedGeneration("yes")])
        self.broken: set[str] = set()
        self.calls = 0

    async def serve(self, models: Any) -> EngineDescription:
        self._require_reachable()
        self.calls += 1
        self.declared.append(tuple(model for model in models if model.name not in self.broken))
        for model in models:
            if model.name in self.broken:
                raise CorruptionError("The weights are other ones.", where=model.path)
        return await self.describe()

    def restart(self) -> None:
        self.declared.clear()

    @property
    def served(self) -> list[str]:
        return [model.name for model in self.declared[-1]] if self.declared else []


class WeightsShelf:
    """Where weights are published; away as long as a test says so."""

    def __init__(self) -> None:
        self.published: list[str] = []
        self.needed: set[str] = set()
        self.away = False

    def publish(self, model: Any) -> None:
        if self.away:
            raise UnavailableError("The lake is away.")
        self.published.append(model.name)

    def prune(self, needed: set[str]) -> None:
        self.needed = needed

    def locate(self, model: ServedModel) -> ServedModel:
        if self.away:
            raise UnavailableError("The lake is away.")
        return ServedModel(model.name, f"/fetched/{model.sha256}", model.sha256)


class Desk:
    """A catalog, an engine, and what keeps the one what the other needs."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(NOON)
        self.database: Database = open_database(folder, self.clock)
        self.releases, self.models = Releases(self.database), ModelVersions(self.database)
        self.rollouts, self.grants = Rollouts(self.database), Grants(self.database)
        self.engine = Engine()
        self.folder = folder / "models"
        self.served_models = self.again()

    def again(self) -> ServedModels:
        return ServedModels(
            DEV, self.releases, self.models, self.rollouts, self.grants, Tenants(self.database), self.engine,
            self.folder, self.clock, ProcessLeases(self.database, DEV.environment), every=0.001,
        )  # fmt: skip

    def release(
        self, number: int, application: str = "desk", *, stage: Any = None, live: bool = False, scope: Scope = DEV
    ) -> Release:
        """A release that pins the application's model version of this number."""
        version = f"{application}.v{number}"
        self.models.add(msgspec.structs.replace(model_version(version, application, number), scope=scope))
        made = self.releases.add(
            msgspec.structs.replace(bundle(application), model=ModelPin(version, f"sha-{version}", version)),
            scope,
            "me",
            "trained",
        )
        if stage is not None:
            self.releases.set_stage(scope, made.id, stage, principal="me", reason="")
        if live:
            self.releases.activate(scope, application, made.id, "me", "")
        return made

    def grant(self, version: str, grantee: str, owner: Scope = DEV, until: Any = None) -> None:
        grant = TenantGrant(owner, "model", version, grantee, "internal", "shared", "ann", self.clock.now(), until)
        with self.database.transaction() as connection:
            self.grants.create(grant, within=connection)

    async def settled(self) -> list[str]:
        """What is served once what lingers is gone."""
        await self.served_models.reconcile()
        self.clock.advance(timedelta(seconds=LINGER_SECONDS + 1))
        await self.served_models.reconcile()
        return self.engine.served


def model_version(name: str, application: str, number: int) -> ModelVersion:
    return ModelVersion(
        id=name,
        scope=DEV,
        application=application,
        number=number,
        base="smollm2-135m",
        base_sha256="b",
        dataset="ds_1",
        dataset_hash="d",
        replay_datasets=(),
        parent=None,
        recipe={},
        identity=f"identity of {name}",
        code="c",
        adapter=ModelFile(f"{application}/{name}.safetensors", "a", 1),
        weights=ModelFile(f"{application}/{name}.gguf", f"sha-{name}", 1),
        losses=(),
        seconds=1.0,
        environment={},
        run=None,
        created_at=NOON,
    )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.database.close()


async def test_the_live_release_and_the_one_before_are_served(desk: Desk) -> None:
    for number in (1, 2, 3):
        desk.release(number, live=True)
    assert await desk.settled() == ["default/desk.v2", "default/desk.v3"]
    assert desk.engine.declared[-1][0] == ServedModel(
        "default/desk.v2", str(desk.folder / "desk/desk.v2.gguf"), "sha-desk.v2"
    )
    desk.releases.rollback(DEV, "desk", "me", "worse")
    assert await desk.settled() == ["default/desk.v1", "default/desk.v2"]


async def test_a_rollout_and_the_newest_that_waits_are_served_for_every_application(desk: Desk) -> None:
    control = desk.release(1, live=True)
    candidate = desk.release(2, stage="canary")
    desk.release(3, stage="validated")
    desk.release(4)
    desk.release(5, stage="retired")
    desk.release(1, "other", stage="validated")
    rollout = desk.rollouts.start(
        DEV, "desk", candidate.id, control.id, Rollout(canary=(5,)), "me", "better", state="canary"
    )
    assert await desk.settled() == ["default/desk.v1", "default/desk.v2", "default/desk.v4", "default/other.v1"]
    desk.rollouts.move(
        DEV,
        rollout.id,
        state="rolled_back",
        step=0,
        held=False,
        reason="worse",
        principal="judge",
        expected=("canary", 0),
    )
    assert await desk.settled() == ["default/desk.v1", "default/desk.v4", "default/other.v1"]


async def test_a_release_of_an_untrained_model_needs_nothing(desk: Desk) -> None:
    made = desk.releases.add(bundle(), DEV, "me", "")
    desk.releases.activate(DEV, "desk", made.id, "me", "")
    assert await desk.settled() == []
    assert desk.engine.calls == 1


async def test_the_engine_is_asked_only_when_something_changed_or_it_forgot(desk: Desk) -> None:
    desk.release(1, live=True)
    for _ in range(3):
        await desk.served_models.reconcile()
    assert desk.engine.calls == 1
    desk.release(2)
    await desk.served_models.reconcile()
    assert (desk.engine.calls, desk.engine.served) == (2, ["default/desk.v1", "default/desk.v2"])
    desk.engine.restart()
    await desk.served_models.reconcile()
    assert (desk.engine.calls, desk.engine.served) == (3, ["default/desk.v1", "default/desk.v2"])
    # A worker that starts cannot know what the engine was told before.
    await desk.again().reconcile()
    assert desk.engine.calls == 4


async def test_what_is_needed_no_more_is_served_as_long_as_a_request_may_take(desk: Desk) -> None:
    first = desk.release(1)
    await desk.served_models.reconcile()
    desk.releases.set_stage(DEV, first.id, "retired", principal="me", reason="")
    desk.clock.advance(timedelta(seconds=LINGER_SECONDS - 1))
    await desk.served_models.reconcile()
    assert desk.engine.served == ["default/desk.v1"]
    desk.clock.advance(timedelta(seconds=2))
    await desk.served_models.reconcile()
    assert desk.engine.served == []


async def test_a_model_that_cannot_be_loaded_is_tried_again_later_and_holds_up_no_other(desk: Desk) -> None:
    desk.release(1, live=True)
    desk.release(2)
    desk.engine.broken = {"default/desk.v2"}
    with pytest.raises(CorruptionError):
        await desk.served_models.reconcile()
    assert desk.engine.served == ["default/desk.v1"]
    await desk.served_models.reconcile()
    assert desk.engine.calls == 1
    await desk.served_models.require("default/desk.v1")
    with pytest.raises(UnavailableError, match=r"desk\.v2"):
        await desk.served_models.require("default/desk.v2")
    desk.release(3)  # Something new is asked for at once.
    with pytest.raises(CorruptionError):
        await desk.served_models.require("default/desk.v2")
    assert desk.engine.calls == 2
    await desk.served_models.require("default/desk.v3")
    desk.engine.broken.clear()
    desk.clock.advance(timedelta(seconds=RETRY_SECONDS + 1))
    await desk.served_models.require("default/desk.v2")


async def test_an_engine_that_is_away_is_told_as_soon_as_it_is_back(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    desk.release(1, live=True)
    desk.engine.away = True
    stop = asyncio.Event()
    running = asyncio.create_task(desk.served_models.run_until(stop))
    async with asyncio.timeout(10):
        while "cannot be reached" not in caplog.text:
            await asyncio.sleep(0.001)
        desk.engine.away = False
        while desk.engine.served != ["default/desk.v1"]:
            await asyncio.sleep(0.001)
        stop.set()
        await running
    assert caplog.text.count("cannot be reached") == 1


async def test_a_pinned_model_that_is_not_registered_is_left_out_and_named(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.release(1, live=True)
    ghost = msgspec.structs.replace(bundle(), model=ModelPin("desk.v9", "x", "desk.v9"))
    desk.releases.add(ghost, DEV, "me", "")
    await desk.served_models.reconcile()
    assert desk.engine.served == ["default/desk.v1"]
    assert "The model desk.v9 of default/dev is needed, and is not registered" in caplog.text


async def test_weights_are_published_before_engines_are_told_and_again_when_that_failed(desk: Desk) -> None:
    shelf = WeightsShelf()
    desk.served_models.lake = shelf
    desk.release(1, live=True)
    shelf.away = True
    with pytest.raises(UnavailableError, match="lake is away"):
        await desk.served_models.reconcile()
    assert desk.engine.served == ["default/desk.v1"], "an engine that has the file serves it nevertheless"
    shelf.away = False
    await desk.served_models.reconcile()
    assert shelf.published == ["default/desk.v1"]


async def test_a_granted_version_is_served_while_its_grant_holds_whatever_its_owner_needs(desk: Desk) -> None:
    for number in (1, 2, 3):
        desk.release(number, live=True)
    desk.grant("desk.v1", "rival")
    desk.grant("desk.v1", "gone")
    assert await desk.settled() == ["default/desk.v1", "default/desk.v2", "default/desk.v3"]
    with desk.database.transaction() as connection:
        desk.grants.revoke(DEV, "model", "desk.v1", "rival", within=connection)
    tenants = Tenants(desk.database)
    with desk.database.transaction() as connection:
        tenants.create("gone", by="ann", within=connection)
        tenants.change("gone", "deleted", reason="-", by="ann", within=connection)
    assert await desk.settled() == ["default/desk.v2", "default/desk.v3"]


async def test_versions_of_all_tenants_whose_files_are_here_are_served_under_their_tenants_names(desk: Desk) -> None:
    rival = Scope("rival", "dev")
    desk.release(1, live=True)
    desk.release(1, live=True, scope=rival)
    desk.release(1, live=True, scope=Scope("rival", "prod"))
    assert await desk.settled() == ["default/desk.v1"], "its file is in another project's folder"
    (desk.folder / "desk").mkdir(parents=True)
    (desk.folder / "desk/desk.v1.gguf").write_bytes(b"GGUF")
    assert await desk.settled() == ["default/desk.v1", "rival/desk.v1"]
    with desk.database.transaction() as connection:
        Tenants(desk.database).create("rival", by="ann", within=connection)
        Tenants(desk.database).change("rival", "suspended", reason="-", by="ann", within=connection)
    assert await desk.settled() == ["default/desk.v1"]


async def test_workers_of_two_tenants_declare_the_same_to_engines_that_they_share(desk: Desk) -> None:
    rival = Scope("rival", "dev")
    desk.release(1, live=True)
    desk.release(1, live=True, scope=rival)
    theirs = desk.again()
    for worker in (desk.served_models, theirs):
        worker.shared = True
    theirs.scope, theirs.folder = rival, desk.folder.parent / "rival"
    await desk.served_models.reconcile()
    await theirs.reconcile()
    assert desk.engine.served == ["default/desk.v1", "rival/desk.v1"]
    await desk.served_models.reconcile()
    assert desk.engine.calls == 2, "neither takes away what the other needs"


async def test_a_model_that_is_granted_to_this_project_comes_from_the_lake_and_its_copy_goes_with_the_grant(
    desk: Desk,
) -> None:
    owner, shelf = Scope("acme", "dev"), WeightsShelf()
    desk.served_models.lake = shelf
    desk.release(1, live=True, scope=owner)
    assert await desk.settled() == []
    desk.grant("desk.v1", "default", owner)
    shelf.away = True
    await desk.served_models.reconcile()
    assert [model.path for model in desk.engine.declared[-1]] == [str(desk.folder / "desk/desk.v1.gguf")]
    shelf.away = False
    await desk.settled()
    assert desk.engine.declared[-1] == (ServedModel("acme/desk.v1", "/fetched/sha-desk.v1", "sha-desk.v1"),)
    assert shelf.published == [], "only its owner publishes it"
    assert shelf.needed == {"sha-desk.v1"}
    with desk.database.transaction() as connection:
        desk.grants.revoke(owner, "model", "desk.v1", "default", within=connection)
    assert await desk.settled() == []
    assert shelf.needed == set()


async def test_an_older_draft_is_served_while_somebody_asks_it(desk: Desk) -> None:
    for number in (1, 2, 3):
        desk.release(number)
    assert await desk.settled() == ["default/desk.v3"]
    asked = asyncio.Event()

    async def asks() -> None:
        for _ in range(3):
            await want(desk.database, DEV, "desk.v1")
        await asked.wait()

    asking = asyncio.create_task(asks())
    async with asyncio.timeout(10):
        while not desk.database.first(select(schema.leases)):
            await asyncio.sleep(0.001)
    await desk.served_models.reconcile()
    assert desk.engine.served == ["default/desk.v1", "default/desk.v3"]
    assert len(desk.database.rows(select(schema.leases))) == 1, "who asks again wants it once"
    asked.set()
    await asking
    async with asyncio.timeout(10):
        while desk.database.first(select(schema.leases)):
            await asyncio.sleep(0.001)
    assert await desk.settled() == ["default/desk.v3"]


async def test_what_a_process_wanted_that_is_gone_is_served_no_longer(desk: Desk) -> None:
    for number in (1, 2):
        desk.release(number)
    ProcessLeases(desk.database, DEV.environment).acquire("serving/default/desk.v1/killed", "killed", LEASE_SECONDS)
    await desk.served_models.reconcile()
    assert "default/desk.v1" in desk.engine.served
    desk.clock.advance(timedelta(seconds=LEASE_SECONDS))
    assert await desk.settled() == ["default/desk.v2"]
