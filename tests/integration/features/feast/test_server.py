"""What stands where Feast's server should and is not one: late, silent, wrong, or too much. Real sockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from antiphon.core.errors import AntiphonError, FeatureUnavailableError, InvalidInputError, UnavailableError
from antiphon.features.feast.server import FeastServer, OnlineValue

ASKED = [("stats", "rate")]
ENTITIES = {"driver_id": ["1", "2"]}


def answer(value: Any = 0.5, status: str = "PRESENT", at: str = "2024-05-01T10:00:00.123456789Z") -> dict[str, Any]:
    column = {"values": [value] * 2, "statuses": [status] * 2, "event_timestamps": [at] * 2}
    keys = {"values": [1, 2], "statuses": ["PRESENT"] * 2, "event_timestamps": ["1970-01-01T00:00:00Z"] * 2}
    return {"results": [keys, column], "metadata": {"feature_names": ["driver_id", "stats__rate"]}}


class Told:
    """A server that answers what it is told to."""

    def __init__(self) -> None:
        self.status, self.body = 200, json.dumps(answer()).encode()
        self.dripping = self.asked = 0
        self.answered_before_it_hangs_up = 1
        self.stop = threading.Event()
        told = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            answered = 0

            def do_POST(self) -> None:
                told.asked += 1
                self.rfile.read(int(self.headers["content-length"]))
                if self.answered >= told.answered_before_it_hangs_up:
                    self.close_connection = True
                    return
                self.answered += 1
                self.send_response(told.status)
                self.send_header("content-length", str(len(told.body) + told.dripping))
                self.end_headers()
                self.wfile.write(told.body)
                try:
                    for _ in range(told.dripping):
                        if told.stop.wait(0.02):
                            return
                        self.wfile.write(b" ")
                        self.wfile.flush()
                except OSError:
                    pass

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def told() -> Iterator[Told]:
    server = Told()
    yield server
    server.close()


@pytest.fixture
def feast(told: Told) -> Iterator[FeastServer]:
    server = FeastServer(told.url, timeout=0.4, failures=3, retry=60.0)
    yield server
    server.close()


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (answer(), OnlineValue(0.5, datetime(2024, 5, 1, 10, 0, 0, 123456, tzinfo=UTC))),
        (answer(at="2024-05-01T10:00:00Z"), OnlineValue(0.5, datetime(2024, 5, 1, 10, tzinfo=UTC))),
        (answer(None, "NOT_FOUND", "1970-01-01T00:00:00Z"), OnlineValue(None, None)),
        (answer(None, "NULL_VALUE", "2024-05-01T10:00:00Z"), OnlineValue(None, datetime(2024, 5, 1, 10, tzinfo=UTC))),
        (answer("NaN", at="2024-05-01T10:00:00Z"), OnlineValue(None, datetime(2024, 5, 1, 10, tzinfo=UTC))),
        (answer(3, "OUTSIDE_MAX_AGE", "2024-05-01T10:00:00Z"), OnlineValue(3, datetime(2024, 5, 1, 10, tzinfo=UTC))),
    ],
)
def test_an_answer_is_read(told: Told, feast: FeastServer, response: dict[str, Any], expected: OnlineValue) -> None:
    told.body = json.dumps(response).encode()
    assert feast.read(ASKED, ENTITIES) == [{("stats", "rate"): expected}] * 2


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (200, b"<html>", UnavailableError, "not that of a feature server"),
        (200, b'{"results": [], "metadata": {}}', UnavailableError, "does not hold stats:rate"),
        (200, json.dumps(answer(status="INVALID")).encode(), UnavailableError, "says INVALID"),
        (200, json.dumps(answer(at="yesterday")).encode(), UnavailableError, "instant"),
        (200, json.dumps(answer([1, 2])).encode(), FeatureUnavailableError, "list"),
        (503, b"", UnavailableError, "answered 503"),
        (500, b'"redis is away: SECRET"', UnavailableError, r"failed \(500\)"),
        (500, b"\"'Feature rate not found in projection stats'\"", FeatureUnavailableError, "does not serve"),
        (500, b"\"invalid literal for int() with base 10: 'SECRET'\"", InvalidInputError, "not of the type"),
        (404, b'"SECRET does not exist"', FeatureUnavailableError, "does not serve"),
        (401, b"", FeatureUnavailableError, "refuses our token"),
        (302, b"", FeatureUnavailableError, "does not serve"),
    ],
)
def test_what_is_no_answer_is_told(
    told: Told, feast: FeastServer, status: int, body: bytes, error: type[AntiphonError], said: str
) -> None:
    told.status, told.body = status, body
    with pytest.raises(error, match=said) as raised:
        feast.read(ASKED, ENTITIES)
    assert "SECRET" not in str(raised.value)


def test_an_answer_that_drips_is_late(told: Told, feast: FeastServer) -> None:
    told.dripping = 10_000
    with pytest.raises(UnavailableError, match=r"within 0\.4 s"):
        feast.read(ASKED, ENTITIES)


def test_failures_open_the_breaker_and_wrong_questions_do_not(told: Told, feast: FeastServer) -> None:
    told.status, told.body = 500, b"\"invalid literal for int() with base 10: 'x'\""
    for _ in range(5):
        with pytest.raises(InvalidInputError):
            feast.read(ASKED, ENTITIES)
    told.status = 503
    for _ in range(3):
        with pytest.raises(UnavailableError, match="503"):
            feast.read(ASKED, ENTITIES)
    asked = told.asked
    with pytest.raises(UnavailableError, match="failed repeatedly"):
        feast.read(ASKED, ENTITIES)
    assert told.asked == asked


def test_a_kept_connection_that_was_hung_up_is_made_anew_once(told: Told, feast: FeastServer) -> None:
    for asked in (1, 3, 5):  # every question but the first is put again, on a new connection
        feast.read(ASKED, ENTITIES)
        assert told.asked == asked
    told.answered_before_it_hangs_up = 0
    with pytest.raises(UnavailableError, match="not reached"):
        feast.read(ASKED, ENTITIES)
    assert told.asked == 7


def test_nobody_there_is_unavailable(told: Told) -> None:
    told.close()
    feast = FeastServer(told.url)
    with pytest.raises(UnavailableError, match="not reached"):
        feast.read(ASKED, ENTITIES)
    feast.close()


def test_a_token_is_not_sent_in_clear_and_addresses_are_checked() -> None:
    with pytest.raises(InvalidInputError, match="clear text"):
        FeastServer("http://feast.example:6566", token="t")
    with pytest.raises(InvalidInputError, match="not called"):
        FeastServer("http://169.254.169.254")
