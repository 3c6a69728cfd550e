"""Identity across processes: a key revoked in one opens nothing in the others; one first key, however many start."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import time
from pathlib import Path

import pytest
from benchmarks.governance.identity import GOAL_SECONDS, SETTINGS, gateways, revoke_all
from tests.harness.ports import free_port

from antiphon.app.wiring import ProcessServices
from antiphon.core.errors import SetupError
from antiphon.governance.identity import revocation
from antiphon.governance.identity.principal import REVOKED
from antiphon.services.governance.identity import first_key
from antiphon.services.project.store import Store


def test_a_revoked_key_opens_nothing_in_any_gateway_within_a_second(tmp_path: Path) -> None:
    with gateways(tmp_path) as ports:
        took = asyncio.run(revoke_all(tmp_path, ports, 4))
    assert max(took) < GOAL_SECONDS
    assert revocation.LEASE_SECONDS < GOAL_SECONDS


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "antiphon.toml").write_text(SETTINGS.format(port=free_port()))
    Store.open(tmp_path).close()
    return tmp_path


async def test_work_in_the_name_of_a_revoked_key_stops_within_a_second_also_without_a_gateway(project: Path) -> None:
    """As the worker and commands in process answer: nobody authenticates there, the principal came with the job."""
    working, elsewhere = ProcessServices(Store.open(project), "test"), Store.open(project)
    text, record = elsewhere.keys.create("default", "bot", "service")
    who = elsewhere.keys.authenticate(text)
    decide = working.answerer._services.decide
    asked = (who, "answer", "application/desk", {"purpose": "", "path": "online"})
    assert decide(*asked).allowed
    elsewhere.keys.revoke("default", record.id)
    revoked_at = time.monotonic()
    while (decision := decide(*asked)).allowed:
        assert time.monotonic() - revoked_at < GOAL_SECONDS
        await asyncio.sleep(0.01)
    assert decision.policies == (REVOKED,)
    elsewhere.close()
    await working.close()


def _start(root: str, ready: object, go: object, made: object) -> None:
    store = Store.open(Path(root))
    ready.release()  # type: ignore[attr-defined]
    go.wait(30)  # type: ignore[attr-defined]
    found = first_key(store)
    made.put(None if found is None else found[0])  # type: ignore[attr-defined]
    store.close()


def test_two_that_start_at_once_make_one_key(project: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, go, made = context.Semaphore(0), context.Event(), context.Queue()
    started = [context.Process(target=_start, args=(str(project), ready, go, made)) for _ in range(2)]
    for process in started:
        process.start()
    for _ in started:
        assert ready.acquire(timeout=60)
    go.set()
    found = [made.get(timeout=60) for _ in started]
    for process in started:
        process.join(30)
    assert found.count(None) == 1
    file = project / ".antiphon" / "keys" / "admin.key"
    assert file.stat().st_mode & 0o777 == 0o600
    (text,) = (one for one in found if one is not None)
    assert file.read_text() == text + "\n"
    store = Store.open(project)
    assert store.keys.authenticate(text).role == "admin"
    assert len(store.keys.list("default")) == 1
    store.close()


def test_a_first_key_whose_record_was_lost_in_a_crash_is_made_again(project: Path) -> None:
    store = Store.open(project)
    file = store.paths.keys / "admin.key"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)
    file.write_text("ak_" + "x" * 43 + "\n")  # on disk, and its transaction never committed
    made = first_key(store)
    assert made is not None
    assert store.keys.authenticate(file.read_text().strip()).id == "admin"
    assert first_key(store) is None
    file.unlink()
    assert first_key(store) is None  # shown once: whoever took the file away keeps it
    store.close()


def test_a_first_key_that_others_may_read_is_refused(project: Path) -> None:
    store = Store.open(project)
    first_key(store)
    (store.paths.keys / "admin.key").chmod(0o644)
    with pytest.raises(SetupError, match="Others may read"):
        first_key(store)
    store.close()
    shutil.rmtree(project / ".antiphon")
