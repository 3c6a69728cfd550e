from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest

from antiphon.cli import entity, output
from antiphon.cli.status import remote_models_table
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.services.engines.remote_models import RemoteModelLine


def test_tables_align_and_put_numbers_right() -> None:
    rows = [("bakery", 3, None), ("tea", 12_000, 0.5)]
    assert output.table(("shop", "orders", "share"), rows).splitlines() == [
        "shop    orders  share",
        "bakery       3      -",
        "tea      12000    0.5",
    ]
    assert output.table(("a",), [], "Nothing.") == "Nothing."


def test_results_are_json_or_text(capsys) -> None:
    output.show({"at": datetime(2026, 1, 1, tzinfo=UTC)}, True, lambda: "no")
    assert json.loads(capsys.readouterr().out) == {"at": "2026-01-01T00:00:00Z"}
    output.show({}, False, lambda: "text")
    assert capsys.readouterr().out == "text\n"


def test_an_error_is_one_line_a_next_step_and_its_exit_code(capsys) -> None:
    error = NotFoundError("The table is gone.", where="here", next_step="Look elsewhere.")
    assert output.fail(error, False) == 3
    assert capsys.readouterr().err == "error: here: The table is gone.\n  next: Look elsewhere.\n"
    assert output.fail(error, True) == 3
    captured = capsys.readouterr()
    assert json.loads(captured.err)["error"]["next_step"] == "Look elsewhere."
    assert captured.out == ""


def test_an_error_that_nobody_foresaw_is_told_by_its_type(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        raise OverflowError("secret".upper())
    except OverflowError as error:
        found = error
    monkeypatch.delenv(output.TRACEBACK, raising=False)
    assert output.fail(output.unforeseen(found), False) == 70
    said = capsys.readouterr().err
    assert said.startswith("error: OverflowError: (its message is withheld): a fault of Antiphon itself.\n  next: ")
    monkeypatch.setenv(output.TRACEBACK, "1")
    output.unforeseen(found)
    traced = capsys.readouterr().err
    assert "test_output.py" in traced
    assert "SECRET" not in said + traced


def test_entity_keys_are_read() -> None:
    assert entity.keys(["shop=tea", "note=a=b", "empty="]) == {"shop": "tea", "note": "a=b", "empty": ""}
    for wrong in ("shop", "=tea"):
        with pytest.raises(InvalidInputError, match="KEY=VALUE"):
            entity.keys([wrong])


def test_times_are_read_with_their_offset() -> None:
    assert entity.moment("") is None
    found = entity.moment("2013-04-10T08:00:00-04:00")
    assert found is not None
    assert found.isoformat() == "2013-04-10T12:00:00+00:00"
    with pytest.raises(InvalidInputError, match="is no time"):
        entity.moment("noon")
    with pytest.raises(InvalidInputError, match="no time zone"):
        entity.moment("2013-04-10T08:00:00")


def test_progress_says_each_tenth_once_when_nobody_watches(capsys) -> None:
    progress = output.Progress("rows")
    for done in range(0, 101):
        progress(done, 100)
    progress.end()
    assert len(capsys.readouterr().err.splitlines()) == 11


@pytest.mark.parametrize(
    ("model", "text", "shown"),
    [
        ("words", "59deabca28fba44a2111234bbcd48036", "59deabca28fb"),
        ("llama3:8b", "remote:llama3:8b:38fb709ff99b:fp_a:1", "38fb709ff99b"),
        ("words", "remote:words:unknown", "unknown"),
    ],
)
def test_a_remote_model_is_told_from_others_by_its_version(model: str, text: str, shown: str) -> None:
    assert output.short_fingerprint(model, text) == shown


@pytest.mark.parametrize(("reason", "said"), [("", "made live. "), ("it moved", "made live: it moved. ")])
def test_another_model_is_told_with_its_reason_where_one_is_known(reason: str, said: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    line = RemoteModelLine("main", "words", "v2", "name", now, now, "v1", reason, outdated=("rel_1",))
    assert f"when rel_1 was {said}" in remote_models_table([line])
    refused = remote_models_table([msgspec.structs.replace(line, outdated=(), refused=True)])
    assert ("refused: it moved. " if reason else "refused. ") in refused
