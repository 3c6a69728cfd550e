"""A project moves while processes have it open: all of it is moved, or everything goes on as before."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from tests.harness.moved_project import moves_on_record
from tests.servers import until
from typer.testing import CliRunner

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.features.events import Event, EventLog
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.cli.main import assemble
from antiphon.core import supervision
from antiphon.core.clock import SystemClock
from antiphon.core.errors import (
    ConflictError,
    DeadlineExceededError,
    InvalidInputError,
    ProjectMovedError,
    SetupError,
    UnavailableError,
)
from antiphon.operations.processes import ProcessIdentity
from antiphon.services.moving import catalog, following, live, project, settings_file
from antiphon.services.moving.following import MoveWatch, open_following, problem_with
from antiphon.services.moving.live import move_live
from antiphon.services.moving.order import MoveOrder, MoveOrders
from antiphon.services.moving.project import copy_ahead, move
from antiphon.services.moving.settings_file import edited
from antiphon.services.moving.sides import sides
from antiphon.services.project.store import Store, open_store

SETTINGS = """# Pumps of a plant.
[project]
name = "pumps"

[engine]
kind = "simulated"
models = ["simulated"]
"""
STREAM = "readings"


class Plant:
    """A project in a folder, and the settings that name another catalog."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.file = root / "antiphon.toml"
        self.file.write_text(SETTINGS)
        self.there = root.parent / "there.db"
        self.settings = edited(SETTINGS, {"catalog": f"sqlite:///{self.there}"})
        with open_store(root) as store:
            self.here = store.backend.place
            store.secret("online")
        self.read_in("first")

    def read_in(self, *ids: str) -> None:
        """Append events."""
        with open_store(self.root) as store:
            now = SystemClock().now()
            store.events.append(store.scope, STREAM, [Event(one, now, now, {}) for one in ids])

    @property
    def place(self) -> str:
        """Place of the catalog that a process which starts works with."""
        with closing(open_following(self.root, "gateway")) as store:
            return store.backend.place

    @property
    def events(self) -> list[str]:
        with open_store(self.root) as store:
            return [one.event.event_id for one in store.events.read(store.scope, STREAM, 0, 100)]

    def order(self, **changes: Any) -> MoveOrder:
        """The order of a command that runs on this machine."""
        own = ProcessIdentity.own()
        with sides(self.root, self.settings, dry=True) as (_, target):
            order = MoveOrder("move_1", str(own), own.boot, self.settings, target.places)
        return msgspec.structs.replace(order, **changes)

    def order_in_force(self) -> MoveOrder | None:
        with open_store(self.root) as store:
            return MoveOrders(store).find()


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    for module in (following, live):
        monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    return Plant(tmp_path / "plant")


@pytest.fixture
def ended() -> Iterator[str]:
    """Identity of a process of this machine that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        own = ProcessIdentity.own()
        yield str(msgspec.structs.replace(own, pid=process.pid, started_ticks=1))


class Gateway:
    """Stands in for a process that serves: what it opened, and whether it leaves when it is to."""

    def __init__(self, plant: Plant, leaves: bool = True) -> None:
        self.plant, self.leaves = plant, leaves
        self.opened: list[tuple[str, bool]] = []
        self.stop = asyncio.Event()

    async def run(self) -> None:
        while not self.stop.is_set():
            store = await asyncio.to_thread(open_following, self.plant.root, "gateway")
            self.opened.append((store.backend.place, store.waited))
            leases, process = ProcessLeases(store.database, store.scope.environment), str(ProcessIdentity.own())
            await asyncio.to_thread(leases.acquire, f"gateway/{process}", process, 60.0)
            watch = MoveWatch(store, "gateway", lambda: None)
            await watch.run_until(self.stop)
            if not self.leaves:
                await self.stop.wait()
            await asyncio.to_thread(leases.release, f"gateway/{process}", process)
            now = SystemClock().now()  # What is accepted is written before it has left.
            EventLog(store.database).append(store.scope, STREAM, [Event(f"last of {len(self.opened)}", now, now, {})])
            store.close()
            watch.finish(supervision.Supervision(UNDER_A_SUPERVISOR))


UNDER_A_SUPERVISOR: Any = object()
"""Stands for the socket of a supervisor, which begins the process again itself."""


@asynccontextmanager
async def serving(plant: Plant, **options: Any) -> AsyncIterator[Gateway]:
    gateway = Gateway(plant, **options)
    task = asyncio.create_task(gateway.run())
    try:
        async with asyncio.timeout(20):
            while not gateway.opened:
                await asyncio.sleep(0.01)
        yield gateway
    finally:
        gateway.stop.set()
        await asyncio.wait_for(task, 20)


async def test_a_process_leaves_and_goes_on_with_the_new_stores(plant: Plant) -> None:
    stale = Store.open(plant.root)
    async with serving(plant) as gateway:
        moved = await asyncio.to_thread(move_live, plant.root, plant.settings)
    assert gateway.opened == [(plant.here, False), (str(plant.there), True)]
    assert (len(moved.processes), moved.missing) == (1, ())
    assert moved.processes[0].startswith("gateway ")
    with open_store(plant.root) as store:
        (recorded,) = moves_on_record(store)
    assert (recorded["kind"], recorded["from"]) == ("live", [f"catalog {plant.here}"])
    assert moved.frozen_seconds > 0
    assert plant.file.read_text() == plant.settings
    assert plant.events == ["first", "last of 1", "last of 2"]
    with pytest.raises(ProjectMovedError, match=f"was moved to {plant.there} while"):
        stale.events.append(stale.scope, STREAM, [Event("late", SystemClock().now(), SystemClock().now(), {})])
    stale.close()
    # And back, into a catalog that a process still had open before.
    async with serving(plant) as gateway:
        await asyncio.to_thread(move_live, plant.root, SETTINGS)
    assert [place for place, _ in gateway.opened] == [str(plant.there), plant.here]
    assert plant.file.read_text() == SETTINGS
    assert plant.events == ["first", "last of 1", "last of 2"]


async def test_a_process_that_does_not_leave_ends_the_move_and_all_goes_on(plant: Plant) -> None:
    async with serving(plant, leaves=False) as gateway:
        with pytest.raises(DeadlineExceededError, match=r"gateway [0-9]+ on .* did not end within"):
            await asyncio.to_thread(move_live, plant.root, plant.settings, freeze_at_most=1.0)
    assert gateway.opened == [(plant.here, False)]
    assert plant.order_in_force() is None
    assert plant.place == plant.here


def test_a_freeze_that_lasts_too_long_changes_nothing(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Store.unprotected(plant.root)) as store, monkeypatch.context() as patched:
        orders = MoveOrders(store)
        patched.setattr(project, "_require_ends", lambda *_: until(lambda: orders.find() is None))
        with pytest.raises(DeadlineExceededError, match="lasted longer than it may"):
            move_live(plant.root, plant.settings, freeze_at_most=0.5)
    assert plant.place == plant.here
    assert plant.file.read_text() == SETTINGS
    with pytest.raises(DeadlineExceededError, match="What is written while the project runs"):
        move_live(plant.root, plant.settings, freeze_at_most=0.0)
    move_live(plant.root, plant.settings)
    assert plant.events == ["first"]


def test_a_command_that_was_killed_is_not_waited_for(plant: Plant, ended: str) -> None:
    def waited(order: MoveOrder, seconds: float) -> bool:
        with open_store(plant.root) as store:
            MoveOrders(store).put(order, seconds)
        with closing(open_following(plant.root, "gateway")) as opened:
            assert opened.backend.place == plant.here
            return opened.waited

    assert not waited(plant.order(leaving=("gateway",), holder=ended), 10)
    assert not waited(plant.order(leaving=("worker",), id="move_2"), 10), "a gateway that starts meanwhile serves"
    elsewhere = plant.order(leaving=("gateway",), holder="elsewhere/boot/box/1/1", id="move_2")
    assert waited(elsewhere, 0.3), "of a command on another host its time alone is known"


def test_a_process_that_is_cut_off_while_it_waits_goes_on_waiting(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else starts a process again that no supervisor keeps."""
    find, cut = MoveOrders.find, iter([False, True, True, False, True])

    def found(self: MoveOrders, *more: Any) -> MoveOrder | None:
        if next(cut, False):
            raise UnavailableError("The catalog is away.")
        return find(self, *more)

    with open_store(plant.root) as store:
        MoveOrders(store).put(plant.order(leaving=("gateway",), holder="elsewhere/boot/box/1/1"), 0.5)
    monkeypatch.setattr(MoveOrders, "find", found)
    with closing(open_following(plant.root, "gateway")) as opened:
        assert (opened.backend.place, opened.waited) == (plant.here, True)
    cut = iter([True])
    with pytest.raises(UnavailableError):  # One that was just started says at once what is wrong.
        open_following(plant.root, "gateway")
    cut = iter([True])
    monkeypatch.setenv(supervision.BEGUN_AGAIN, "yes")
    open_following(plant.root, "gateway").close()
    assert supervision.BEGUN_AGAIN not in os.environ


@pytest.mark.parametrize("cut", ["end_move", "replace"])
def test_a_move_that_was_killed_after_the_switch_is_followed_by_what_starts(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    class Killed(BaseException):
        pass

    def dies(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(catalog if cut == "end_move" else settings_file, cut, dies)
        with pytest.raises(Killed):
            move_live(plant.root, plant.settings)
    with pytest.raises(SetupError, match="was moved to"):
        Store.open(plant.root)
    assert plant.place == str(plant.there)
    assert plant.file.read_text() == plant.settings
    assert plant.events == ["first"]


def test_a_host_that_was_away_follows_also_while_the_project_is_on_its_way_back(plant: Plant) -> None:
    move_live(plant.root, plant.settings)
    copy_ahead(plant.root, SETTINGS)
    plant.file.write_text(SETTINGS)
    assert plant.place == str(plant.there)
    assert plant.file.read_text() == plant.settings
    move_live(plant.root, SETTINGS)
    assert plant.place == plant.here
    with open_store(plant.root) as store:
        assert MoveOrders(store).settings_after() is None, "it leads nobody away again"


def test_a_host_with_other_settings_is_told_where_the_project_is(plant: Plant) -> None:
    move_live(plant.root, plant.settings)
    plant.file.write_text(SETTINGS.replace("pumps", "fans", 2))
    with pytest.raises(SetupError, match=r"was moved to .*there.db. The section \[project\] differs"):
        open_following(plant.root, "gateway")


def test_an_order_that_was_changed_in_the_catalog_is_not_followed(plant: Plant) -> None:
    """Who may write to the catalog alone must not have hosts send what their variables hold to a server of theirs."""

    def changed(database: Database) -> None:
        theirs = sa.func.replace(schema.leases.c.detail, "there.db", "theirs.db")
        database.write(sa.update(schema.leases).values(detail=theirs))

    with closing(Store.unprotected(plant.root, moved=True)) as store:
        orders, order = MoveOrders(store), plant.order()
        orders.put(order, 600)
        assert orders.find() is not None
        changed(store.database)
        assert orders.find() is None
    move_live(plant.root, plant.settings)
    plant.file.write_text(SETTINGS)
    with closing(Store.unprotected(plant.root, moved=True)) as store:
        assert MoveOrders(store).settings_after() == plant.settings
        changed(store.database)
    with pytest.raises(SetupError, match="was moved to"):
        open_following(plant.root, "gateway")
    assert plant.file.read_text() == SETTINGS


def test_a_stopped_move_waits_for_the_end_of_a_live_one(plant: Plant) -> None:
    with open_store(plant.root) as store:
        MoveOrders(store).put(plant.order(), 600)
        with pytest.raises(ConflictError, match="Another move is under way"):
            move(plant.root, plant.settings)
        with pytest.raises(ConflictError, match="Another move is under way"):
            move_live(plant.root, plant.settings)
    assert plant.place == plant.here


async def test_nothing_leaves_when_one_could_not_go_on(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(following, "problem_with", lambda *_: "PASSWORD is not set.")
    async with serving(plant) as gateway:
        with pytest.raises(ConflictError, match="could not go on with the new stores: PASSWORD"):
            await asyncio.to_thread(move_live, plant.root, plant.settings)
    assert gateway.opened == [(plant.here, False)]
    with open_store(plant.root) as store:
        leases = ProcessLeases(store.database, store.scope.environment)
        leases.acquire("gateway/one", "elsewhere/boot/box/17/1", 60.0)
    with pytest.raises(ConflictError, match="do not answer: gateway 17 on elsewhere"):
        move_live(plant.root, plant.settings)


def test_a_process_says_why_it_could_not_go_on(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(plant.root) as store:
        assert problem_with(store, plant.order()) == ""
        assert not plant.there.exists(), "a look makes nothing"
        assert "folder of another host" in problem_with(store, plant.order(boot="another"))
        files = '[batch]\nfiles = "s3://files/x?endpoint=http://127.0.0.1:1"\nfiles_access_key_variable = "NOT_SET"\n'
        assert "NOT_SET" in problem_with(store, plant.order(settings=f"{SETTINGS}\n{files}"))
        other = plant.order(settings=plant.settings.replace('"pumps"', '"fans"'))
        assert "[project] differs" in problem_with(store, other)
        order = plant.order()
        monkeypatch.setenv("ANTIPHON_CATALOG__URL", f"sqlite:///{plant.root}/own.db")
        assert "Remove the variables" in problem_with(store, order)


def test_the_command_tells_what_it_would_do_and_what_it_cannot(plant: Plant) -> None:
    def run(*words: str) -> Any:
        url = f"sqlite:///{plant.there}"
        return CliRunner().invoke(assemble(), ["migrate", "--catalog", url, *words, "--project", str(plant.root)])

    assert isinstance(run("--live", "--ahead").exception, InvalidInputError)
    assert isinstance(run("--live", "--freeze-at-most", "soon").exception, InvalidInputError)
    planned = run("--live", "--dry-run", "--json")
    assert planned.exit_code == 0, planned.exception
    assert msgspec.json.decode(planned.stdout)["expected_seconds"] is None
    assert run("--ahead").exit_code == 0
    assert msgspec.json.decode(run("--live", "--dry-run", "--json").stdout)["expected_seconds"] > 0
    assert run("--live").exit_code == 0
    assert plant.place == str(plant.there)
