"""Settings with which a process was started: what differs is told, and no secret is kept."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from tests.unit.catalog.examples import NOON

from antiphon.core import settings
from antiphon.operations.settings_changes import note_settings, settings_changes


def started(run: Path, text: str, minute: int, process: str = "gateway") -> None:
    found = settings.parse(text.encode(), Path("antiphon.toml"), {})
    note_settings(run, process, found, NOON + timedelta(minutes=minute))


def test_the_last_change_is_told_with_what_was_before(tmp_path: Path) -> None:
    started(tmp_path, "[gateway]\nmax_in_flight = 48\n", 0)
    assert settings_changes(tmp_path) == []
    started(tmp_path, "[gateway]\nmax_in_flight = 48\n", 1)
    assert settings_changes(tmp_path) == []
    started(tmp_path, "[gateway]\nmax_in_flight = 1\n", 2)
    (change,) = settings_changes(tmp_path)
    assert (change.process, change.at) == ("gateway", NOON + timedelta(minutes=2))
    assert change.sentence == (
        "The process gateway was started with other settings: [gateway] max_in_flight 1 (before: 48)."
    )
    started(tmp_path, "[gateway]\nmax_in_flight = 1\n", 3)
    assert settings_changes(tmp_path) == [change]


def test_a_step_back_does_not_take_the_place_of_the_change_that_it_undoes(tmp_path: Path) -> None:
    for minute, most in enumerate((48, 1, 48)):
        started(tmp_path, f"[gateway]\nmax_in_flight = {most}\n", minute)
    (change,) = settings_changes(tmp_path)
    assert change.at == NOON + timedelta(minutes=1)
    started(tmp_path, "[gateway]\nmax_in_flight = 2\n", 5)
    (change,) = settings_changes(tmp_path)
    assert (change.at, change.said) == (NOON + timedelta(minutes=5), ("[gateway] max_in_flight 2 (before: 48)",))


def test_of_a_text_nothing_is_kept_or_told(tmp_path: Path) -> None:
    for minute, password in enumerate(("swordfish", "tuna")):
        started(tmp_path, f'[catalog]\nurl = "postgresql://ann:{password}@db/a"\n', minute)
    (change,) = settings_changes(tmp_path)
    assert change.said == ("[catalog] url",)
    kept = (tmp_path / "gateway.settings").read_text()
    assert "tuna" not in kept
    assert "swordfish" not in kept
    assert "postgresql" not in kept


def test_each_process_has_its_own_and_a_damaged_file_is_none(tmp_path: Path) -> None:
    for process in ("gateway", "worker"):
        for minute, most in enumerate((48, 1)):
            started(tmp_path, f"[gateway]\nmax_in_flight = {most}\n", minute, process)
    assert [one.process for one in settings_changes(tmp_path)] == ["gateway", "worker"]
    (tmp_path / "gateway.settings").write_bytes(b"{")
    assert [one.process for one in settings_changes(tmp_path)] == ["worker"]
    started(tmp_path, "", 9)
    assert [one.process for one in settings_changes(tmp_path)] == ["worker"]


def test_a_process_starts_where_nothing_can_be_noted(tmp_path: Path) -> None:
    started(tmp_path / "gone", "", 0)
    assert settings_changes(tmp_path / "gone") == []
