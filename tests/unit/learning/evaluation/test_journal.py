"""The journal of an evaluation: whole lines only, whoever writes and whatever fails."""

from __future__ import annotations

import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from antiphon.core.errors import ConflictError, SetupError
from antiphon.learning.evaluation.journal import journal

SUBJECT = {"release": "rel_1", "limit": None}


def test_what_was_written_is_there_again(tmp_path: Path) -> None:
    with journal(tmp_path / "a" / "eval.jsonl", SUBJECT) as first, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: first.write(f"row:{at}", {"at": at, "words": "x" * 500}), range(64)))
    with journal(tmp_path / "a" / "eval.jsonl", SUBJECT) as second:
        assert {key: record["at"] for key, record in second.done.items()} == {f"row:{at}": at for at in range(64)}
        second.remove()
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize("torn", [b'{"key":"row:9","rec', b'{"key":"row:9","record":1}', b"\xff\xfe\n"])
def test_a_torn_line_is_not_there_and_spoils_nothing(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "eval.jsonl"
    with journal(path, SUBJECT) as first:
        first.write("row:1", 1)
    with path.open("ab") as file:
        file.write(torn)
    with journal(path, SUBJECT) as second:
        assert second.done == {"row:1": 1}
        second.write("row:2", 2)
    with journal(path, SUBJECT) as third:
        assert third.done == {"row:1": 1, "row:2": 2}


def test_a_journal_is_of_one_subject_and_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    with journal(path, SUBJECT), pytest.raises(ConflictError, match="Another process"), journal(path, SUBJECT):
        pass
    with pytest.raises(ConflictError, match="another evaluation"), journal(path, {"release": "rel_2"}):
        pass
    with journal(path, SUBJECT) as again:
        assert again.done == {}


def test_after_its_end_nothing_is_written_anywhere(tmp_path: Path) -> None:
    with journal(tmp_path / "eval.jsonl", SUBJECT) as closed:
        closed.write("row:1", 1)
    with (tmp_path / "other").open("wb"), pytest.raises(ConflictError, match="was ended"):
        closed.write("row:2", 2)
    assert (tmp_path / "other").read_bytes() == b""


def test_a_full_disk_is_said_and_costs_no_earlier_line(tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with journal(path, SUBJECT) as first:
        first.write("row:1", 1)
        before = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
        try:
            with pytest.raises(SetupError, match="cannot be written"):
                first.write("row:2", "x" * 1_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before
        first.write("row:2", 2)
    with journal(path, SUBJECT) as second:
        assert second.done == {"row:1": 1, "row:2": 2}
