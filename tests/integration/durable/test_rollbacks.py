"""Rollbacks: what a run did is undone in reverse order when it fails for good or is canceled, through crashes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.catalogs import KINDS, catalog_url, drop
from tests.unit.catalog.examples import DEV

from antiphon.catalog.database import Database
from antiphon.catalog.run_holds import RunHold, RunHolds
from antiphon.core.errors import AntiphonError, ConflictError, InvalidInputError
from antiphon.definitions.workflows import RollbackPolicy
from antiphon.durable.attempts import RunAttempts
from antiphon.durable.claims import ServedRuns
from antiphon.durable.context import RunContext
from antiphon.durable.dead_letters import DeadLetters
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.policy import WorkflowPolicy
from antiphon.durable.rollbacks import Rollback, rollback_of
from antiphon.durable.run import ENDED, LeaseLostError, Run
from antiphon.durable.runs import Runs

HOUR = timedelta(hours=1)
Body = Callable[[RunContext], Awaitable[Any]]


class WrongInputError(AntiphonError):
    """What another attempt would not mend."""

    http_status = 422


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(catalog_url(tmp_path, request.param))
    opened.migrate()
    yield opened
    drop(opened)


class Shop:
    """An outside that workflows change: what was done and undone, in order."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.broken: set[str] = set()

    def do(self, name: str) -> str:
        if name in self.broken:
            raise WrongInputError(f"{name} is broken.")
        self.did.append(name)
        return name

    def undo(self, name: str) -> None:
        self.do(f"-{name}")

    async def order(self, run: RunContext) -> dict[str, Any]:
        for name in ("reserve", "charge"):
            await run.step(name, self.do, name, undo=self.undo)
        await run.step("look", self.do, "look")
        await run.step("send", self.do, "send", undo=self.undo)
        return {}


@asynccontextmanager
async def working(
    database: Database, body: Body, policy: RollbackPolicy = "always", attempts: int = 3
) -> AsyncIterator[Callable[..., Awaitable[Run]]]:
    """An executor that knows one workflow; yields what waits until a run, which it submits without one, has ended."""
    registry, runs, stop = WorkflowRegistry(), Runs(database), asyncio.Event()

    async def call(run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        return await body(run) or {}

    registry.add("w", call, WorkflowPolicy(rollback=policy, attempts=attempts, first_wait=timedelta(milliseconds=1)))
    executor = Executor(database, registry, "w1", DEV, poll=0.02, grace=0.0)
    task = asyncio.create_task(executor.run_until(stop))

    async def ended(run: str | None = None) -> Run:
        run = run or runs.submit(DEV, "w", {})
        async with asyncio.timeout(20):
            while runs.get(DEV, run).status not in ENDED:
                await asyncio.sleep(0.005)
        return runs.get(DEV, run)

    try:
        yield ended
    finally:
        stop.set()
        await task


def rolled_back(database: Database, run: Run) -> Rollback | None:
    return rollback_of(Runs(database).steps(DEV, run.id))


async def test_steps_are_undone_in_reverse_order_when_a_run_fails_for_good(database: Database) -> None:
    shop = Shop()
    shop.broken.add("send")
    async with working(database, shop.order) as ended:
        run = await ended()
    assert shop.did == ["reserve", "charge", "look", "-charge", "-reserve"]
    assert (run.status, run.error, run.rollback, run.note) == (
        "failed",
        "send is broken.",
        "done",
        "undone: charge, reserve",
    )
    assert rolled_back(database, run) == Rollback("failed", "send is broken.", ("charge", "reserve"), ())
    assert [one.error for one in RunAttempts(database).list(DEV, run.id)] == ["send is broken."]


async def test_a_run_that_succeeds_or_is_tried_again_undoes_nothing(database: Database) -> None:
    shop, tries = Shop(), list[int]()

    async def body(run: RunContext) -> None:
        await run.step("reserve", shop.do, "reserve", undo=shop.undo)
        tries.append(1)
        if len(tries) < 3:
            raise OSError("away")

    async with working(database, body) as ended:
        run = await ended()
    assert (run.status, run.rollback, shop.did, len(tries)) == ("succeeded", None, ["reserve"], 3)


async def test_a_run_that_is_canceled_is_rolled_back_whether_it_runs_or_waits(database: Database) -> None:
    shop, runs, entered = Shop(), Runs(database), asyncio.Event()

    async def body(run: RunContext) -> None:
        await run.step("reserve", shop.do, "reserve", undo=shop.undo)
        if not run.is_rolled_back and run.attempt == 1:
            entered.set()
            await asyncio.Event().wait()

    async with working(database, body) as ended:
        first = runs.submit(DEV, "w", {})
        await entered.wait()
        runs.cancel(DEV, first)
        run = await ended(first)
        assert (run.status, run.error, run.rollback, shop.did) == ("cancelled", None, "done", ["reserve", "-reserve"])
    waits = runs.submit(DEV, "w", {})
    held = runs.claim("w2", ServedRuns("dev"), HOUR)
    assert held is not None
    runs.record(held, "reserve", 0, "reserve", held.created_at, "always")
    runs.give_back(held)
    assert (runs.cancel(DEV, waits).status, runs.cancel(DEV, waits).rollback) == ("queued", "cancelled")
    async with working(database, body) as ended:
        assert (await ended(waits)).status == "cancelled"
    assert shop.did == ["reserve", "-reserve", "-reserve"]


@pytest.mark.parametrize(
    ("policy", "fails", "cancels"),
    [("always", True, True), ("on_failure", True, False), ("on_cancel", False, True), ("never", False, False)],
)
def test_the_policy_says_at_which_end_steps_are_undone(
    database: Database, policy: RollbackPolicy, fails: bool, cancels: bool
) -> None:
    runs = Runs(database)
    for how in ("fail", "cancel"):
        run = runs.submit(DEV, "w", {})
        held = runs.claim("w1", ServedRuns("dev"), HOUR)
        assert held is not None
        runs.record(held, "reserve", 0, 1, held.created_at, policy)
        if how == "fail":
            runs.fail(held, "It is broken.")
        else:
            runs.end_cancelled(held)
        found = runs.get(DEV, run)
        assert found.is_rolled_back == (fails if how == "fail" else cancels)
        if found.status == "queued":  # Otherwise the next claim would find it.
            runs.pause(DEV, run, "ada")


def test_a_run_whose_workers_all_died_is_rolled_back_too(database: Database) -> None:
    runs = Runs(database)
    run = runs.submit(DEV, "w", {}, max_attempts=1)
    held = runs.claim("w1", ServedRuns("dev"), HOUR)
    assert held is not None
    runs.record(held, "reserve", 0, 1, held.created_at, "always")
    runs.reclaim("w1", "dev")
    again = runs.claim("w2", ServedRuns("dev"), HOUR)
    assert again is not None
    assert (again.id, again.rollback, again.attempts) == (run, "failed", 1)
    found = rolled_back(database, again)
    assert found is not None
    assert (found.left, found.error) == (("reserve",), "The run's worker died or lost its lease in each of 1 attempts.")
    with pytest.raises(LeaseLostError):
        runs.fail(held, "The worker that was slow.")  # It begins no second rollback.
    runs.reclaim("w2", "dev")
    assert runs.claim("w3", ServedRuns("dev"), HOUR) is None
    assert (runs.get(DEV, run).error or "").startswith("Its rollback failed: The run's worker died")


async def test_a_rollback_that_fails_is_a_dead_letter_that_goes_on_where_it_was(database: Database) -> None:
    shop = Shop()
    shop.broken |= {"send", "-reserve"}
    async with working(database, shop.order) as ended:
        run = await ended()
        assert (run.status, run.error, run.rollback) == (
            "failed",
            "Its rollback failed: -reserve is broken.",
            "failed",
        )
        assert [one.name for one in run.under_way] == ["undo reserve"]
        found = rolled_back(database, run)
        assert found == Rollback("failed", "send is broken.", ("charge",), ("reserve",))
        letters = DeadLetters(database)
        with database.transaction() as connection, pytest.raises(ConflictError, match="are not all undone"):
            letters.fork(DEV, run.id, "reserve", within=connection)
        with database.transaction() as connection:
            letters.retry(DEV, run.id, within=connection)
        again = await ended(run.id)
        assert [one.error for one in RunAttempts(database).list(DEV, run.id)] == [
            "send is broken.",
            "-reserve is broken.",
            "-reserve is broken.",
        ]
        with database.transaction() as connection, pytest.raises(ConflictError, match="no step 'undo charge' left"):
            letters.skip(DEV, again.id, "undo charge", None, "ada", within=connection)
        with database.transaction() as connection:
            letters.skip(DEV, again.id, "undo reserve", None, "ada", within=connection)
        done = await ended(run.id)
    assert (done.status, done.error, done.rollback) == ("failed", "send is broken.", "done")
    assert shop.did == ["reserve", "charge", "look", "-charge"]
    assert rolled_back(database, done) == Rollback("failed", "send is broken.", ("charge", "reserve"), ())


async def test_a_run_that_was_rolled_back_is_begun_anew_and_not_from_what_was_undone(database: Database) -> None:
    shop = Shop()
    shop.broken.add("send")
    async with working(database, shop.order) as ended:
        run = await ended()
        letters = DeadLetters(database)
        with database.transaction() as connection, pytest.raises(ConflictError, match="Step 'reserve' was undone"):
            letters.fork(DEV, run.id, "charge", within=connection)
        shop.broken.clear()
        with database.transaction() as connection:
            queued = letters.retry(DEV, run.id, within=connection)
        assert (queued.forked_from, Runs(database).steps(DEV, queued.id)) == (run.id, [])
        assert (await ended(queued.id)).status == "succeeded"
    assert shop.did[-4:] == ["reserve", "charge", "look", "send"]
    assert Runs(database).get(DEV, run.id).status == "failed"


async def test_a_fork_undoes_what_it_did_itself_and_not_what_it_began_with(database: Database) -> None:
    shop = Shop()
    async with working(database, shop.order) as ended:
        run = await ended()
        assert run.status == "succeeded"
        shop.broken.add("send")
        with database.transaction() as connection:
            fork = DeadLetters(database).fork(DEV, run.id, "charge", within=connection)
        assert (await ended(fork.id)).rollback == "done"
    assert shop.did == ["reserve", "charge", "look", "send", "charge", "look", "-charge"]


async def test_a_freeze_holds_no_rollback_and_a_pause_does(database: Database) -> None:
    shop, runs = Shop(), Runs(database)
    run = runs.submit(DEV, "w", {})
    held = runs.claim("w2", ServedRuns("dev"), HOUR)
    assert held is not None
    runs.record(held, "reserve", 0, "reserve", held.created_at, "always")
    now = database.clock.now()
    RunHolds(database).add(DEV, RunHold("f", "freeze", "f", ("w",), now, now + HOUR, "the launch", "ada"))
    runs.fail(held, "It is broken.")
    runs.pause(DEV, run, "ada")
    assert runs.claim("w2", ServedRuns("dev"), HOUR) is None
    runs.resume(DEV, run)
    async with working(database, shop.order) as ended:
        assert (await ended(run)).rollback == "done"
    assert shop.did == ["-reserve"]


async def test_steps_past_one_that_failed_and_was_caught_are_undone_too(database: Database) -> None:
    shop = Shop()
    shop.broken.add("charge")

    async def body(run: RunContext) -> None:
        await run.step("reserve", shop.do, "reserve", undo=shop.undo)
        try:
            await run.step("charge", shop.do, "charge", undo=shop.undo)
        except WrongInputError:
            await run.step("bill", shop.do, "bill", undo=shop.undo)
        await asyncio.gather(*(run.step(f"pack {n}", shop.do, f"pack {n}", undo=shop.undo) for n in range(2)))
        raise WrongInputError("The address is unknown.")

    async with working(database, body) as ended:
        run = await ended()
    assert (run.rollback, run.error) == ("done", "The address is unknown.")
    assert shop.did[-2:] == ["-bill", "-reserve"]
    assert set(shop.did[-4:-2]) == {"-pack 0", "-pack 1"}


@pytest.mark.parametrize("bills_in", ["step", "transaction"])
async def test_a_failure_that_was_gone_past_stays_one_in_attempts_that_follow(
    database: Database, bills_in: str
) -> None:
    shop, seen = Shop(), list[str]()
    shop.broken.add("charge")

    async def body(run: RunContext) -> None:
        try:
            await run.step("charge", shop.do, "charge")
        except WrongInputError as error:
            seen.append(str(error))
            if bills_in == "step":
                await run.step("bill", shop.do, "bill", undo=shop.undo)
            else:
                await run.transaction("bill", lambda connection: shop.do("bill"))
        shop.broken.clear()
        if len(seen) == 1:
            raise OSError("away")

    async with working(database, body) as ended:
        run = await ended()
    # In the second attempt it would have succeeded, and the bill would stand beside the charge.
    assert (run.status, shop.did, seen) == ("succeeded", ["bill"], ["charge is broken."] * 2)


async def test_a_workflow_that_no_more_says_how_a_step_is_undone_is_a_dead_letter(database: Database) -> None:
    shop = Shop()

    async def body(run: RunContext) -> None:
        how = None if run.is_rolled_back else shop.undo
        await run.step("reserve", shop.do, "reserve", undo=how)
        raise WrongInputError("It is broken.")

    async with working(database, body) as ended:
        run = await ended()
    assert "does not come to how the step 'reserve' is undone: it ended with It is broken." in (run.error or "")
    assert (run.status, run.rollback, shop.did) == ("failed", "failed", ["reserve"])


@pytest.mark.parametrize(
    ("name", "undo", "why"),
    [
        ("undo it", None, "cannot be named 'undo it'"),
        ("roll back", None, "cannot be named 'roll back'"),
        ("failure of it", None, "cannot be named 'failure of it'"),
        ("reserve", lambda: None, "is no function of its result"),
        ("reserve", lambda a, b: None, "is no function of its result"),
        ("reserve", "release", "is no function of its result"),
    ],
)
async def test_a_step_that_could_not_be_undone_is_refused_before_it_is_done(
    tmp_path: Path, name: str, undo: Any, why: str
) -> None:
    database = Database.open(catalog_url(tmp_path))
    database.migrate()
    runs = Runs(database)
    runs.submit(DEV, "w", {})
    held = runs.claim("w1", ServedRuns("dev"), HOUR)
    assert held is not None
    context = RunContext(held, runs, database.clock, {})
    with pytest.raises(InvalidInputError, match=why):
        await context.step(name, lambda: 1, undo=undo)
    assert runs.steps(DEV, held.id) == []
    drop(database)


class _Crashes:
    """Lets workers die at drawn calls of the outside: just before it is changed, or just after, before the record."""

    def __init__(self, shop: Shop, at: set[int], runs: Runs) -> None:
        self._shop, self._at, self._runs, self._calls = shop, at, runs, 0

    def do(self, name: str) -> str:
        self._calls += 1
        if 2 * self._calls in self._at:
            self._die()
        done = self._shop.do(name)
        if 2 * self._calls + 1 in self._at:
            self._die()
        return done

    def _die(self) -> None:
        self._runs.reclaim("w1", "dev")  # Its lease is over.
        raise LeaseLostError("The worker died.")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.sets(st.integers(2, 40), max_size=6),
    st.integers(0, 5),
)
async def test_through_crashes_every_recorded_step_is_undone_after_those_that_came_later(
    tmp_path_factory: pytest.TempPathFactory, undoable: list[bool], crashes: set[int], broken: int
) -> None:
    database = Database.open(catalog_url(tmp_path_factory.mktemp("rollback"), "sqlite"))
    database.migrate()
    shop, runs = Shop(), Runs(database)
    outside = _Crashes(shop, crashes, runs)
    shop.broken.add(f"{broken}")

    async def body(run: RunContext) -> None:
        for number, can in enumerate(undoable):
            undo = (lambda done: outside.do(f"-{done}")) if can else None
            await run.step(f"step {number}", outside.do, f"{number}", undo=undo)
        raise WrongInputError("At the end.")

    async with working(database, body, attempts=50) as ended:
        run = await ended()
    drop(database)
    reached = undoable[:broken]
    assert (run.status, run.rollback) == ("failed", "done" if any(reached) else None)
    assert run.error == ("At the end." if broken >= len(undoable) else f"{broken} is broken.")
    done = [name for name in shop.did if not name.startswith("-")]
    undone = [name for name in shop.did if name.startswith("-")]
    assert list(dict.fromkeys(done)) == [f"{n}" for n in range(len(reached))]
    assert list(dict.fromkeys(undone)) == [f"-{n}" for n in reversed(range(len(reached))) if reached[n]]
    assert shop.did == done + undone  # Nothing is done once undoing began.


async def test_a_rollback_is_given_back_at_its_next_step_and_goes_on_elsewhere(tmp_path: Path) -> None:
    database = Database.open(catalog_url(tmp_path))
    database.migrate()
    shop, runs = Shop(), Runs(database)
    run = runs.submit(DEV, "w", {})
    held = runs.claim("w2", ServedRuns("dev"), HOUR)
    assert held is not None
    for name in ("reserve", "charge"):
        runs.record(held, name, 0, name, held.created_at, "always")
    runs.fail(held, "It is broken.")
    began = asyncio.Event()

    async def slowly(name: str) -> None:
        began.set()
        await asyncio.sleep(0.05)
        shop.undo(name)

    async def body(run: RunContext) -> None:
        for name in ("reserve", "charge"):
            await run.step(name, shop.do, name, undo=slowly)

    async with working(database, body):
        await began.wait()
        runs.pause(DEV, run, "ada")
        async with asyncio.timeout(20):
            while runs.get(DEV, run).status != "queued":
                await asyncio.sleep(0.01)
    found = runs.get(DEV, run)
    assert (found.rollback, found.attempts) == ("failed", 0)
    runs.resume(DEV, run)
    async with working(database, body) as ended:
        assert (await ended(run)).rollback == "done"
    assert list(dict.fromkeys(shop.did)) == ["-charge", "-reserve"]
    assert msgspec.json.encode(rolled_back(database, found))
    drop(database)
