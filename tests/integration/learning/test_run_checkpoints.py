"""Trainings on several hosts: each goes on from what any has kept, and none is stopped by what cannot be read."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import catalog_url, drop
from tests.integration.learning.training_hosts import (
    LEASE,
    SECONDS_OF_STEP,
    STEPS,
    TrainingHost,
    checkpoint,
    value_in,
    weights_of,
)
from tests.servers import S3Process
from tests.unit.catalog.examples import DEV, NOON, open_database
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.catalog.database import Database
from antiphon.catalog.ledger import Ledger
from antiphon.core.clock import ManualClock
from antiphon.core.errors import UnavailableError
from antiphon.durable.context import RunContext
from antiphon.durable.run import LeaseLostError
from antiphon.features.lake.bucket import S3Place
from antiphon.features.lake.local import LocalLake
from antiphon.features.lake.s3 import S3Lake
from antiphon.governance.encryption.sealing import AesGcmCodec
from antiphon.learning.retraining.checkpoints import MOST_SHARE, checkpoint_path
from antiphon.training.recipe import Recipe

WEIGHTS = hashlib.sha256(weights_of(STEPS)).hexdigest()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def database(tmp_path: Path, clock: ManualClock) -> Iterator[Database]:
    opened = open_database(tmp_path, clock)
    yield opened
    drop(opened)


class Hosts:
    """Two hosts with one catalog and one lake, and a run that the first one trains up to a step."""

    def __init__(self, database: Database, clock: ManualClock, folder: Path) -> None:
        self.clock, self.lake = clock, LocalLake(folder / "lake", database.codec)
        self.first, self.second = (TrainingHost(database, self.lake, folder / name) for name in ("a", "b"))
        self.run = self.first.runs.submit(DEV, "train", {})

    async def trained(self, host: TrainingHost, steps: int) -> RunContext:
        """The host takes the run and is told to stop after a step; its lease is over then. No training is quicker than
        its first checkpoint is kept."""
        run = host.claim()

        async def one_is_kept(step: int) -> None:
            async with asyncio.timeout(30):
                while not host.kept(run.id):
                    await asyncio.sleep(0.001)

        host.trainer.after_step = one_is_kept
        host.trainer.before_step = lambda step: run.stop_at_next_step() if step + 1 == steps else None
        with pytest.raises(asyncio.CancelledError):
            await host.work(run)
        self.clock.advance(LEASE * 2)
        return run


@pytest.fixture
def hosts(database: Database, clock: ManualClock, tmp_path: Path) -> Hosts:
    return Hosts(database, clock, tmp_path)


async def test_another_host_goes_on_from_the_newest_and_leaves_nothing(hosts: Hosts) -> None:
    await hosts.trained(hosts.first, 7)
    newest, before = hosts.first.kept(hosts.run)
    assert (newest.step, before.step < 7) == (7, True), "the last one was kept as it was told to stop"
    assert len(list(hosts.lake.files(DEV))) == 2
    run = hosts.second.claim()
    assert await hosts.second.work(run) == {"weights": WEIGHTS, "steps": list(range(7, STEPS))}
    assert hosts.second.kept(run.id) == []
    assert list(hosts.lake.files(DEV)) == []
    assert list((hosts.second.folder / run.id).glob("*")) == []


async def test_a_host_that_is_further_itself_fetches_nothing_and_one_that_is_behind_does(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    await hosts.trained(hosts.first, 4)
    for path in list(hosts.lake.files(DEV)):
        (hosts.lake.path(path)).write_bytes(b"not to be read")
    await hosts.trained(hosts.first, 5)
    assert (hosts.first.trainer.steps, "is not used" in caplog.text) == ([0, 1, 2, 3, 4], False)
    run = await hosts.trained(hosts.second, 9)
    assert hosts.second.trainer.steps[0] == 5
    newest = hosts.first.local(run).newest()
    assert newest is not None
    assert newest[0] == 5
    assert (await hosts.first.work(hosts.first.claim()))["weights"] == WEIGHTS
    assert hosts.first.trainer.steps == [0, 1, 2, 3, 4, *range(9, STEPS)]


async def test_what_every_host_computed_is_charged_once(hosts: Hosts) -> None:
    await hosts.trained(hosts.first, 7)
    await hosts.trained(hosts.second, 9)
    await hosts.first.work(hosts.first.claim())
    steps = len(hosts.first.trainer.steps) + len(hosts.second.trainer.steps)
    found = Ledger(hosts.first.database).of_work(DEV, [hosts.run])
    used = {one.resource: one.quantity for one in found if one.resource == "training_processor"}
    assert used == {"training_processor": round(steps * SECONDS_OF_STEP * 1e6)}


def _lost(hosts: Hosts, path: str) -> None:
    hosts.lake.remove(path)


def _damaged(hosts: Hosts, path: str) -> None:
    place = hosts.lake.path(path)
    place.write_bytes(bytes([place.read_bytes()[0] ^ 1]) + place.read_bytes()[1:])


@pytest.mark.parametrize("harm", [_lost, _damaged])
@pytest.mark.parametrize("harmed", [1, 2])
async def test_one_that_cannot_be_read_is_told_and_the_one_before_is_taken(
    hosts: Hosts, harm: Callable[[Hosts, str], None], harmed: int, caplog: pytest.LogCaptureFixture
) -> None:
    await hosts.trained(hosts.first, 7)
    kept = hosts.first.kept(hosts.run)
    for one in kept[:harmed]:
        harm(hosts, checkpoint_path(one))
    begins = kept[1].step if harmed == 1 else 0
    run = await hosts.trained(hosts.second, 8)
    assert hosts.second.trainer.steps[0] == begins
    assert "The checkpoint of step 7 is not used" in caplog.text
    assert ("No checkpoint is left: training begins from the start" in caplog.text) is (begins == 0)
    made = hosts.second.kept(run.id)
    assert made[0].step == 8
    for one in made:
        hosts.lake.verify(checkpoint_path(one), one.sha256)
    assert (await hosts.first.work(hosts.first.claim()))["weights"] == WEIGHTS


async def test_one_of_other_code_is_not_used(hosts: Hosts, caplog: pytest.LogCaptureFixture) -> None:
    await hosts.trained(hosts.first, 7)
    run = hosts.second.claim()
    hosts.second.local(run).put(9, checkpoint("of other code", 9, b""))
    assert hosts.second.local(run).newest() is None
    await hosts.second.checkpoints(run, Recipe(steps=STEPS, seed=2)).fetch()
    assert hosts.second.local(run).newest() is None
    assert "of other code" in caplog.text
    assert hosts.second.kept(run.id) == []


async def test_a_lake_that_is_away_is_waited_for(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    await hosts.trained(hosts.first, 7)
    kept = hosts.first.kept(hosts.run)

    def away(path: str) -> Any:
        raise UnavailableError("The lake is away.")

    with monkeypatch.context() as patched:
        patched.setattr(hosts.lake, "open", away)
        with pytest.raises(UnavailableError):
            await hosts.second.checkpoints(hosts.second.claim()).fetch()
    assert hosts.second.kept(hosts.run) == kept


async def test_a_worker_that_lost_the_run_moves_nothing_and_leaves_only_garbage(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    late = hosts.first.claim()
    hosts.first.local(late).put(9, checkpoint(hosts.first.order(late).identity, 9, b"of the late one"))
    hosts.clock.advance(LEASE * 2)
    await hosts.trained(hosts.second, 5)
    before = hosts.second.kept(hosts.run)
    await hosts.first.checkpoints(late).keep_latest()
    assert "another worker has it" in caplog.text
    assert hosts.second.kept(hosts.run) == before
    assert len(list(hosts.lake.files(DEV))) == 2
    with pytest.raises(LeaseLostError):
        await hosts.first.services.checkpoints.forget(late)
    assert hosts.second.kept(hosts.run) == before


async def test_what_keeping_costs_is_bounded_whatever_the_lake_takes(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes 4 s, the first upload 10 s, the others a tenth."""
    began: list[float] = []
    write, recipe = hosts.lake.writing, Recipe(steps=100)

    def slow(*given: Any) -> Any:
        began.append(hosts.clock.monotonic())
        hosts.clock.advance(timedelta(seconds=10 if len(began) == 1 else 0.1))
        return write(*given)

    monkeypatch.setattr(hosts.lake, "writing", slow)
    host = TrainingHost(hosts.first.database, hosts.lake, hosts.first.folder, every=30.0)
    run = host.claim()
    host.runs.heartbeat(run._run, LEASE * 1_000)
    checkpoints, identity = host.checkpoints(run, recipe), host.order(run, recipe).identity
    local = checkpoints._local

    async def training() -> None:
        for step in range(recipe.steps):
            hosts.clock.advance(timedelta(seconds=4))
            local.put(step + 1, checkpoint(identity, step + 1, b""))
            checkpoints.look()
            while checkpoints._stepped.is_set() or not checkpoints._stepped._waiters:  # until the keeper waits again
                await asyncio.sleep(0.001)

    async with asyncio.timeout(60):
        await checkpoints.keep_while(training())
    first, *others = (after - before for before, after in pairwise(began))
    assert 10.0 / MOST_SHARE <= first < 10.0 / MOST_SHARE + 8
    assert others
    assert all(30 <= gap < 38 for gap in others), "where the lake is quick it is every half minute"


async def test_in_an_encrypted_project_nothing_clear_is_on_any_disk(
    database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    database.codec = AesGcmCodec(Keys())
    hosts = Hosts(database, clock, tmp_path)
    await hosts.trained(hosts.first, 7)
    assert len(list(hosts.lake.files(DEV))) == 2
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert weights_of(7) not in stored
    assert weights_of(6) not in stored
    run = hosts.second.claim()
    await hosts.second.checkpoints(run).fetch()
    step, content = hosts.second.local(run).newest() or (0, b"")
    assert (step, value_in(content)) == (7, weights_of(7)), "under a key of this folder's own"
    assert not any(weights_of(7) in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


async def test_checkpoints_of_runs_that_ended_otherwise_are_swept(hosts: Hosts) -> None:
    run = await hosts.trained(hosts.first, 7)
    store = hosts.first.services.checkpoints
    store.sweep(DEV, lambda scope, name: False)
    assert len(list(hosts.lake.files(DEV))) == 2
    store.sweep(DEV, lambda scope, name: name == run.id)
    assert (hosts.first.kept(run.id), list(hosts.lake.files(DEV))) == ([], [])


@pytest.fixture(scope="module")
def objects() -> Iterator[S3Process]:
    with S3Process() as process:
        process.make_bucket()
        yield process


@pytest.mark.parametrize(
    ("bucket", "secret", "said"),
    [
        ("lake", "wrong", "refuses access: SignatureDoesNotMatch. Set the environment variables"),
        ("nowhere", None, "There is no bucket 'nowhere'"),
        ("lake", "none", "refuses access: no credentials. Set the environment variables"),
    ],
)
async def test_a_bucket_that_takes_nothing_is_told_and_the_training_goes_on(
    hosts: Hosts, objects: S3Process, tmp_path: Path, bucket: str, secret: str | None, said: str,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    lake = S3Lake(
        S3Place(bucket, "p", objects.endpoint),
        scratch=tmp_path / "scratch",
        access_key=None if secret == "none" else objects.access_key,
        secret_key=None if secret == "none" else secret or objects.secret_key,
    )
    host = TrainingHost(hosts.first.database, lake, tmp_path / "c")
    assert (await host.work(host.claim()))["weights"] == WEIGHTS
    assert "cannot be kept in the lake" in caplog.text
    assert said in caplog.text
    lake.close()


def _worked(folder: Path, name: str, point: str, lake: str) -> int:
    host = [sys.executable, "-m", "tests.integration.learning.training_hosts", str(folder), name, point]
    done = subprocess.run(
        host, cwd=Path(__file__).parents[3], timeout=60, capture_output=True,
        env={
            **os.environ, "TEST_LAKE": lake, "LAKE_ACCESS_KEY": S3Process.access_key,
            "LAKE_SECRET_KEY": S3Process.secret_key,
        },
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


def test_hosts_that_are_killed_one_after_another_end_with_the_same_weights(tmp_path: Path, objects: S3Process) -> None:
    """In the middle of an upload, between the upload and its row, and in a step; each on another host."""
    database = Database.open(catalog_url(tmp_path, "postgresql"))
    database.migrate()
    host = TrainingHost(database, LocalLake(tmp_path / "unused"), tmp_path / "here")
    run = host.runs.submit(DEV, "train", {})
    lake = objects.url.replace("features", "killed")
    steps: list[int] = []
    for name, point in (("a", "upload:3"), ("b", "row:3"), ("a", "step:9"), ("c", "none")):
        code = _worked(tmp_path, name, point, lake)
        assert code == (0 if point == "none" else -signal.SIGKILL), point
        if point != "none":
            (newest, *_) = host.kept(run)
            steps.append(newest.step)
    ended = host.runs.get(DEV, run)
    assert (ended.status, ended.result["weights"]) == ("succeeded", WEIGHTS)
    assert steps == [2, 4, 9], "each went on from what the one before had kept"
    assert ended.result["steps"] == list(range(9, STEPS))
    assert host.kept(run) == []
    drop(database)
