"""``antiphon encryption check`` over events on a real NATS server: all of them, by page, on where it was cut off."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.servers import NatsProcess
from typer.testing import CliRunner

from antiphon.catalog.features.events import Event
from antiphon.catalog.sealed_columns import CheckProgress
from antiphon.cli.encryption import app
from antiphon.core.clock import ManualClock
from antiphon.core.scope import Scope
from antiphon.governance.encryption import keyring
from antiphon.governance.encryption.protection import protect
from antiphon.services.governance import log_check
from antiphon.services.governance.encryption import Encryption, EncryptionCheck, open_encryption
from antiphon.services.governance.encryption_setup import initialize
from antiphon.services.project.store import Store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
STREAM, NAME = "orders", "antiphon_default_dev_orders"


@pytest.fixture(scope="module")
def running() -> Iterator[NatsProcess]:
    with NatsProcess() as started:
        yield started


@pytest.fixture
def process(running: NatsProcess) -> Iterator[NatsProcess]:
    yield running
    running.clear()


@pytest.fixture
def root(process: NatsProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(keyring, "N", 2**10)
    monkeypatch.setattr(log_check, "_PAGE", 10)
    monkeypatch.setenv("ANTIPHON_PASSPHRASE", "four random words here")
    tmp_path.joinpath("definitions.py").write_text("")
    settings = f'[features]\nlog = "{process.url}"\n\n[encryption]\nmode = "encrypted"\n'
    tmp_path.joinpath("antiphon.toml").write_text(settings)
    initialize(tmp_path)
    return tmp_path


def append(store: Store, *numbers: int) -> None:
    events = [Event(f"order-{number}", NOON, NOON, {"amount": number}) for number in numbers]
    store.events.append(store.scope, STREAM, events)


def filled(root: Path, number: int) -> None:
    with open_encryption(root) as encryption:
        append(encryption.store, *range(number))


def check(root: Path, *, anew: bool = False) -> EncryptionCheck:
    with open_encryption(root) as encryption:
        return encryption.check(anew=anew)


def test_events_of_every_key_are_opened_and_keep_their_keys(root: Path) -> None:
    with open_encryption(root) as encryption:
        append(encryption.store, *range(25))
        (old,) = (key.id for key in encryption.status().keys if key.purpose == "payload")
        (new,) = encryption.rotate()
        append(encryption.store, *range(20, 40))
        checked = encryption.check()
        assert (checked.by_key[old], checked.by_key[new], checked.problems) == (25, 15, ())
        (stream,) = checked.log
        assert (stream.stream, stream.events, stream.resumed, stream.unopened) == (STREAM, 40, 0, 0)
        rewrapped = encryption.rewrap(new_wrapping_key=True, reencrypt=True)
        assert rewrapped.on_server == {"default/dev/orders": 40}
        assert encryption.check().by_key[old] == 25
        read = encryption.store.events.read(encryption.store.scope, STREAM, 0, 100)
        assert [each.event.payload["amount"] for each in read] == list(range(40))


def test_what_does_not_open_is_listed_by_its_offset_and_the_rest_is_looked_at(root: Path, process: NatsProcess) -> None:
    filled(root, 12)
    # Words of somebody else; and an event of ours, put where another one belongs.
    process.ask("antiphon.default.dev.orders.theirs", n=1)
    with open_encryption(root) as encryption:
        log = encryption.store.events
        first = log._stored(encryption.store.scope, STREAM, 0, 1)[0]  # type: ignore[union-attr]
        log._server.publish(NAME, [("antiphon.default.dev.orders.elsewhere", first.content)])  # type: ignore[union-attr]
        append(encryption.store, *range(100, 110))
        checked = encryption.check()
    assert [(each.store, each.subject) for each in checked.problems] == [
        ("log", "orders, offset 13"), ("log", "orders, offset 14")
    ]  # fmt: skip
    assert "does not open" in checked.problems[1].problem
    assert (checked.log[0].events, checked.log[0].unopened) == (24, 2)
    ran = CliRunner().invoke(app, ["check", "--project", str(root), "--json"])
    assert ran.exit_code == 1
    assert json.loads(ran.stdout)["log"][0]["unopened"] == 2


def test_a_check_that_was_cut_off_goes_on_where_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(root, 35)

    def cut(store: str, done: int) -> None:
        if (store, done) == ("default/dev/orders", 20):
            raise KeyboardInterrupt

    def cut_off() -> None:
        with open_encryption(root) as encryption, pytest.raises(KeyboardInterrupt):
            encryption.check(cut)

    cut_off()
    checked = check(root)
    assert (checked.log[0].resumed, checked.log[0].events, checked.problems) == (20, 35, ())
    assert 35 in checked.by_key.values()
    assert check(root).log[0].resumed == 0, "what came to its end begins anew"
    cut_off()
    assert check(root, anew=True).log[0].resumed == 0
    cut_off()
    ran = CliRunner().invoke(app, ["check", "--project", str(root)])
    assert ran.exit_code == 0
    assert "events through offset 20 were opened by a check that was cut off" in ran.output


def test_a_check_from_yesterday_or_of_another_stream_is_not_gone_on_with(root: Path) -> None:
    with open_encryption(root) as encryption:
        database = encryption.store.database
        database.clock = clock = ManualClock(NOON)
        progress, scope = CheckProgress(database), Scope()
        progress.keep(scope, "log orders", "one", log_check.CheckPosition(7, {"key": 7}))
        assert progress.of(scope, "log orders", "one").through == 7
        assert progress.of(scope, "log orders", "other").through == 0
        assert progress.of(Scope("other", "dev"), "log orders", "one").through == 0
        clock.advance(timedelta(days=1, seconds=1))
        assert progress.of(scope, "log orders", "one").through == 0


def test_a_log_that_is_away_gone_or_unnamed_is_a_problem_and_the_catalog_is_checked(
    root: Path, process: NatsProcess
) -> None:
    filled(root, 3)
    settings = root / "antiphon.toml"
    named = settings.read_text()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        away = named.replace(str(process.port), str(free.getsockname()[1]))
        for text, told in ((away, "does not answer"), (named.partition("log =")[0], "this project names none")):
            settings.write_text(text + ("" if "[encryption]" in text else '\n[encryption]\nmode = "encrypted"\n'))
            store = Store.open(root)
            store.blobs.put(store.scope, b"a text")
            found = protect(store.database, store.settings.encryption, store.scope, store.paths.root)
            checked = Encryption(store, found).check()
            assert [each.subject for each in checked.problems] == [STREAM]
            assert told in checked.problems[0].problem
            assert sum(checked.by_key.values()) > 0
            assert log_check.on_server(store) == {"default/dev/orders": None}
            store.close()
    settings.write_text(named)
    process.ask(f"$JS.API.STREAM.DELETE.{NAME}")
    assert "is gone" in check(root).problems[0].problem
