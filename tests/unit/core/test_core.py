import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from antiphon.core import settings
from antiphon.core.clock import ManualClock, format_duration, from_microseconds, microseconds, parse_duration, utc
from antiphon.core.errors import InvalidDefinitionsError, InvalidInputError, NotFoundError
from antiphon.core.ids import canonical, content_hash, keyed_hash, new_id
from antiphon.core.scope import Scope


def test_durations_are_whole_numbers_with_a_unit() -> None:
    assert parse_duration("250ms") == timedelta(milliseconds=250)
    assert parse_duration("15m") == timedelta(minutes=15)
    assert parse_duration("28d") == timedelta(days=28)
    for text in ("", "15", "m", "0s", "-5m", "1.5h", "5 m", "5w"):
        with pytest.raises(InvalidInputError):
            parse_duration(text)
    for text in ("250ms", "90s", "15m", "36h", "28d"):
        assert format_duration(parse_duration(text)) == text
    assert format_duration(timedelta(microseconds=1)) == "1ms"
    assert format_duration(timedelta(hours=24)) == "1d"


def test_instants_are_whole_microseconds_and_need_a_zone() -> None:
    moment = datetime(2013, 4, 10, 8, 0, 0, 7, tzinfo=timezone(timedelta(hours=-4)))
    assert from_microseconds(microseconds(moment)) == moment
    assert utc(moment).tzinfo is UTC
    with pytest.raises(InvalidInputError, match="no time zone"):
        utc(datetime(2013, 4, 10))  # noqa: DTZ001


def test_a_manual_clock_moves_only_forward() -> None:
    clock = ManualClock(datetime(2013, 4, 10, tzinfo=UTC))
    clock.advance(timedelta(seconds=5))
    assert clock.monotonic() == 5.0
    with pytest.raises(InvalidInputError):
        clock.advance(timedelta(seconds=-1))


def test_ids_are_unique_and_name_what_they_are_of() -> None:
    ids = {new_id("pred") for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(found.startswith("pred_") and len(found) == 31 for found in ids)


def test_a_forked_process_has_random_bits_of_its_own() -> None:
    program = """
import os
from antiphon.core.ids import new_id
new_id("here")
if (child := os.fork()):
    os.waitpid(child, 0)
print(new_id("here")[-16:], flush=True)
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert len(set(printed)) == 2


def test_hashes_depend_on_content_and_key_alone() -> None:
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash(b"x") != content_hash("x")
    assert canonical({"b": 1, "a": 2}) == b'{"a":2,"b":1}'
    assert keyed_hash(b"k1", "JFK") != keyed_hash(b"k2", "JFK")


def test_a_scope_refuses_names_that_could_leave_their_folder() -> None:
    for name in ("", "../x", "A", "a/b", "a.b", "-a"):
        with pytest.raises(InvalidInputError):
            Scope(tenant=name)


def test_an_error_says_what_where_and_what_next() -> None:
    error = InvalidInputError("It is wrong.", where="here", next_step="Mend it.")
    assert str(error) == "here: It is wrong. Mend it."
    both = InvalidDefinitionsError(["a.py:1: x", "a.py:2: y"])
    assert "a.py:1" in str(both)
    assert "a.py:2" in str(both)


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ('[worker]\nlease = "0s"', "whole seconds from 1s to 60s - at `$.worker.lease`"),
        ('[worker]\nlease = "10m"', "whole seconds from 1s to 60s - at `$.worker.lease`"),
        ('[worker]\npoll = "often"', "a duration: a whole number and ms, s, m, h or d, as 15m - at `$.worker.poll`"),
        ('[features]\nskew = "never"', "a duration, as 15m, or off - at `$.features.skew`"),
        ('[audit]\nevery = "00s"', "a duration: a whole number and ms, s, m, h or d, as 15m - at `$.audit.every`"),
    ],
)
def test_settings_of_time_are_durations(tmp_path: Path, section: str, why: str) -> None:
    (tmp_path / "antiphon.toml").write_text(section)
    with pytest.raises(InvalidInputError, match=re.escape(f"Expected {why}.")):
        settings.load(tmp_path, {})
    (tmp_path / "antiphon.toml").write_text('[worker]\nlease = "60s"\ndrift = "off"\n[audit]\nevery = "010s"')
    settings.load(tmp_path, {})


def test_settings_name_the_field_that_is_misspelt(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="antiphon init"):
        settings.load(tmp_path)
    (tmp_path / "antiphon.toml").write_text("[gateway]\nprot = 8700\n")
    with pytest.raises(InvalidInputError, match="prot"):
        settings.load(tmp_path, {})
    (tmp_path / "antiphon.toml").write_text("[gateway\n")
    with pytest.raises(InvalidInputError, match="not TOML"):
        settings.load(tmp_path, {})


def test_the_environment_overrides_a_field(tmp_path: Path) -> None:
    (tmp_path / "antiphon.toml").write_text("[gateway]\nport = 8700\n")
    loaded, paths = settings.load(tmp_path, {"ANTIPHON_GATEWAY__PORT": "9000", "ANTIPHON_ENGINE__MODELS": "a,b"})
    assert loaded.gateway.port == 9000
    assert loaded.engine.models == ("a", "b")
    assert paths.directory == tmp_path.resolve() / ".antiphon"


def test_a_socket_path_stays_within_what_a_socket_allows(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    (deep / "antiphon.toml").write_text("")
    _, paths = settings.load(deep, {})
    assert len(str(paths.engine_socket_of("engine"))) < 100
