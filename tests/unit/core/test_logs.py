"""What may be said of an exception, and what is struck out of a line."""

from __future__ import annotations

import logging
import sqlite3
from typing import Any

import pytest
import sqlalchemy as sa
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from antiphon.core import telemetry
from antiphon.core.errors import InvalidInputError
from antiphon.core.logs import FORMAT, DiscreetFormatter, cause_lines, described, without_credentials


def formatted(error: BaseException | None, message: str = "It failed", *arguments: Any, name: str = "antiphon") -> str:
    raised = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord(name, logging.ERROR, __file__, 1, message, arguments, raised)
    return DiscreetFormatter(FORMAT).format(record)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Bearer abc.def-ghi", "Bearer [struck out]"),
        ("a key ak_abcDEF-123 in prose", "a key [struck out] in prose"),
        ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.", "[struck out]"),
        ("antiphon_session=abcdef; path=/", "antiphon_session=[struck out] path=/"),
        ("passphrase: hunter2", "passphrase: [struck out]"),
        ("-----BEGIN EC PRIVATE KEY-----\nMIG\n-----END EC PRIVATE KEY-----", "[struck out]"),
        ("The key belongs to another certificate.", "The key belongs to another certificate."),
        ("run_01 of key_01m8 failed", "run_01 of key_01m8 failed"),
        ("sk-proj-abcdefghijklmnop of another service", "[struck out] of another service"),
        ("AKIAIOSFODNN7EXAMPLE", "[struck out]"),
        ("BEARER abc, Basic dTpw", "BEARER [struck out], Basic [struck out]"),
        ("Cookie: a=b", "Cookie: [struck out]"),
        (
            "a sk-8 bus, task-force, a risk_of_delay_that_is_long",
            "a sk-8 bus, task-force, a risk_of_delay_that_is_long",
        ),
    ],
)
def test_credentials_are_struck_out(text: str, left: str) -> None:
    assert without_credentials(text) == left


def test_an_exception_is_told_with_its_causes_and_without_their_values() -> None:
    value = "".join(("sec", "ret"))  # a value, not a line of code: the code's own lines are shown
    try:
        try:
            int(value)
        except ValueError as error:
            raise InvalidInputError("The number is wrong.", where="field") from error
    except InvalidInputError as error:
        text = formatted(error)
    assert "secret" not in text
    assert text.index("ValueError: (its message is withheld)") < text.index(
        "InvalidInputError: field: The number is wrong."
    )
    assert text.count("test_logs.py") == 2


def test_a_group_a_cycle_and_a_database_error() -> None:
    group = ExceptionGroup("secret", [ValueError("secret"), FileNotFoundError(2, "No such file", "secret")])
    text = formatted(group)
    assert "secret" not in text
    assert "FileNotFoundError: [2] No such file" in text
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert len(list(cause_lines(first))) == 4
    with sa.create_engine("sqlite://").begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (c TEXT UNIQUE)"))
        connection.execute(sa.text("INSERT INTO t VALUES (:c)"), {"c": "secret"})
        with pytest.raises(sa.exc.IntegrityError) as raised:
            connection.execute(sa.text("INSERT INTO t VALUES (:c)"), {"c": "secret"})
    assert isinstance(raised.value.orig, sqlite3.IntegrityError)
    assert described(raised.value) == "sqlalchemy.exc.IntegrityError: SQLITE_CONSTRAINT_UNIQUE"


def test_no_value_begins_a_line_of_its_own() -> None:
    text = formatted(None, "Asked for %s", "x\n2026-01-01 00:00:00,000 INFO antiphon: forged\r\x1b[2K\u2028y")
    assert "\n" not in text
    assert "\\n2026-01-01" in text
    assert "\x1b" not in text
    assert "\u2028" not in text


def test_what_asyncio_says_of_tasks_is_cut_before_their_representations() -> None:
    message = "Task exception was never retrieved\nfuture: <Task finished exception=ValueError('secret')>"
    assert formatted(None, message, name="asyncio").endswith("Task exception was never retrieved")
    assert "secret" not in formatted(None, "Exception in callback f('secret')\nhandle: <Handle>", name="asyncio")


def test_a_span_is_given_the_type_of_an_error_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    monkeypatch.setattr(telemetry.trace, "get_tracer_provider", lambda: provider)
    with pytest.raises(ValueError, match="secret"), telemetry.span("work"):
        raise ValueError("secret")
    (span,) = kept.get_finished_spans()
    assert "secret" not in span.to_json()
    assert (span.attributes or {})["error.type"] == "ValueError"
    assert span.status.status_code.name == "ERROR"

    # The library's own way, which it would be without: the message is in the span.
    with pytest.raises(ValueError, match="secret"), provider.get_tracer("test").start_as_current_span("work"):
        raise ValueError("secret")
    assert "secret" in kept.get_finished_spans()[-1].to_json()
