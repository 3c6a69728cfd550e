"""A project's streams as its gateway serves them: how far behind they may be, what they tell, and on a NATS server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.chaos.harness.chaos_project import STREAM, write_project
from tests.integration.services.test_encryption import PASSPHRASE
from tests.servers import NatsProcess, RedisProcess
from typer.testing import CliRunner

from antiphon.catalog.features.events import Event
from antiphon.catalog.features.events import Event as IncomingEvent
from antiphon.cli.main import assemble
from antiphon.core.errors import ConflictError, NotFoundError, OverloadedError
from antiphon.gateway.measurements import GatewayMetrics
from antiphon.governance.encryption import keyring
from antiphon.services.apply.apply import apply
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.streams import ProjectStreams
from antiphon.services.governance.encryption_setup import migrate
from antiphon.services.project.store import Store

NOW = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_project(tmp_path / "project", "simulated").root


class Opened:
    """A project with its platform and streams; the lag is looked at anew each time."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("antiphon.services.features.streams.LOOK_SECONDS", 0.0)
        self.store = Store.open(root)
        apply(self.store, principal="test")
        self.platform = FeaturePlatform(self.store)
        self.streams = ProjectStreams(self.store, self.platform)

    def send(self, *numbers: int) -> int:
        return self.streams.append(self.store.scope, STREAM, [order(number) for number in numbers])

    def close(self) -> None:
        self.platform.close()
        self.store.close()


@pytest.fixture
def opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    monkeypatch.setenv("ANTIPHON_FEATURES__MAX_LAG", "10")
    found = Opened(root, monkeypatch)
    yield found
    found.close()


def order(number: int) -> IncomingEvent:
    at = NOW + timedelta(seconds=number)
    row = {"order_id": f"o{number}", "shop": "shop-1", "amount": 2, "ordered": at.isoformat(), "known": at.isoformat()}
    return IncomingEvent(event_id=f"o{number}", event_time=at, available_at=at, payload=row)


def told(root: Path, *command: str) -> object:
    found = CliRunner().invoke(assemble(), [*command, "--project", str(root), "--json"])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def test_a_stream_that_is_too_far_behind_takes_no_more_until_it_is_not(opened: Opened) -> None:
    assert opened.send(*range(8)) == 8
    assert opened.send(8, 9, 10) == 11
    with pytest.raises(OverloadedError, match=r"11 events behind in stream 'orders', and at most 10") as refused:
        opened.send(11)
    assert 1.0 <= refused.value.retry_after <= 60.0
    assert opened.store.events.end(opened.store.scope, STREAM) == 11, "nothing of it is stored"
    opened.platform.consume(6)
    assert opened.send(11, 12) == 13
    # Refused again, but something moved: the wait is of the consumer's pace.
    opened.platform.consume(1)
    opened.send(*range(13, 17))
    with pytest.raises(OverloadedError):
        opened.send(17)
    with pytest.raises(NotFoundError, match="Declared streams: orders"):
        opened.streams.append(opened.store.scope, "others", [order(1)])


def test_a_bound_of_zero_takes_everything(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_FEATURES__MAX_LAG", "0")
    found = Opened(root, monkeypatch)
    assert found.send(*range(50)) == 50
    found.close()


def test_while_the_online_store_is_away_the_log_takes_events_up_to_the_bound(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = RedisProcess()
    redis.start()
    monkeypatch.setenv("ANTIPHON_FEATURES__ONLINE", redis.url)
    monkeypatch.setenv("ANTIPHON_FEATURES__MAX_LAG", "10")
    found = Opened(root, monkeypatch)
    try:
        found.send(1, 2, 3)
        found.platform.consume(100)
        found.send(4)
        redis.kill()
        assert found.send(*range(5, 14)) == 13
        with pytest.raises(OverloadedError, match="10 events behind"):
            found.send(14)
        (status,) = found.streams.status(found.store.scope)
        assert status.problem is not None
        assert "does not answer" in status.problem or "a moment ago" in status.problem
    finally:
        found.close()
        redis.remove()


def test_lag_event_time_and_rejected_events_are_told_everywhere(opened: Opened, root: Path) -> None:
    opened.send(3, 1)
    nameless = order(2).payload | {"shop": None}
    opened.store.events.append(opened.store.scope, STREAM, [Event("o2", NOW, NOW, nameless)])
    opened.platform.consume(100)
    opened.send(4)
    (status,) = told(root, "features", "streams")  # type: ignore[misc]
    assert (status["stream"], status["consumed"], status["end"], status["lag"]) == (STREAM, 3, 4, 1)
    assert 0 <= status["lag_seconds"] < 60
    assert [view["view"] for view in status["views"]] == ["counted", "summed"]
    for view in status["views"]:
        assert (view["late"], view["lateness_seconds"], view["rejected"]) == (1, 2.0, 1)
        assert datetime.fromisoformat(view["watermark"]) == NOW + timedelta(seconds=3)
    text = CliRunner().invoke(assemble(), ["features", "streams", "--project", str(root)]).stdout
    assert "event time" in text
    measured = GatewayMetrics()
    measured.watch(opened.streams.status(opened.store.scope))
    lines = measured.exposition().decode().splitlines()
    assert 'antiphon_stream_lag_events{stream="orders"} 1.0' in lines
    assert 'antiphon_stream_rejected_events_total{stream="orders",view="summed"} 1.0' in lines
    assert any(
        line.startswith('antiphon_stream_watermark_timestamp_seconds{stream="orders",view="summed"}') for line in lines
    )


def test_a_project_moves_its_log_to_a_server_and_goes_on(
    opened: Opened, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.send(*range(5))
    opened.platform.consume(3)
    nats = NatsProcess()
    nats.start()
    try:
        with monkeypatch.context() as set_by_hand:
            set_by_hand.setenv("ANTIPHON_FEATURES__LOG", nats.url)
            (before,) = told(root, "features", "streams")  # type: ignore[misc]
            assert "`antiphon migrate` moves them" in before["problem"]
        moved_log = told(root, "migrate", "--log", nats.url)
        assert [(part["part"], part["moved"]) for part in moved_log["parts"]] == [("log", 5)]
        lines = CliRunner().invoke(assemble(), ["doctor", "--project", str(root), "--json"]).stdout
        assert f"event log NATS 2.{lines.partition('event log NATS 2.')[2].partition(' ')[0]} at {nats.url}" in lines
        (after,) = told(root, "features", "streams")  # type: ignore[misc]
        assert (after["consumed"], after["end"], after["problem"]) == (3, 5, None)
        moved = Opened(root, monkeypatch)
        assert moved.send(4, 5) == 6
        moved.platform.consume(100)
        assert [view.consumed for status in moved.streams.status(moved.store.scope) for view in status.views] == [6, 6]
        moved.close()
        # What is on the server is never written anew, so the mode stays what it is; nothing was begun.
        settings = root / "antiphon.toml"
        before_it = settings.read_text()
        settings.write_text(f'{before_it}\n[encryption]\nmode = "encrypted"\nkeyring = "../ring.json"\n')
        monkeypatch.setattr(keyring, "N", 2**10)
        keyring.create(root.parent / "ring.json", PASSPHRASE["ANTIPHON_PASSPHRASE"])
        monkeypatch.setenv("ANTIPHON_PASSPHRASE", PASSPHRASE["ANTIPHON_PASSPHRASE"])
        with pytest.raises(ConflictError, match=r"on a log server, where none is ever written anew: orders"):
            migrate(root, "encrypted")
        settings.write_text(before_it)
        again = Opened(root, monkeypatch)
        assert again.send(6) == 7
        again.close()
    finally:
        nats.remove()
