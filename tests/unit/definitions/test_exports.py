"""Exports as values: where their files lie, and every mistake with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.definitions.test_schedules import SOUND, project

from antiphon.core.errors import InvalidDefinitionsError
from antiphon.definitions.exports import ExportWork
from antiphon.definitions.project import load

EXPORTS = """
from antiphon import Export, stale
Export(desk, to="out/{day}.parquet", when=cron("0 5 * * *"), since="2026-11-01", keep=30)
Export(Tickets, to="s3://warehouse/tickets/", when=published(Tickets) | stale())
Export(night, to="out/answers.jsonl", when=stale())
Export(desk, rows="dataset", to="/srv/{version}.csv")
"""


def test_a_sound_project_becomes_values_and_assets(tmp_path: Path) -> None:
    found = load(project(tmp_path, SOUND + EXPORTS))
    works = {name: spec.work for name, spec in found.schedules.items() if isinstance(spec.work, ExportWork)}
    assert works == {
        "export-desk": ExportWork(
            "predictions/desk", f"{tmp_path}/out/{{day}}.parquet", "parquet", since="2026-11-01", keep=30
        ),
        "export-tickets": ExportWork("view/tickets", "s3://warehouse/tickets/"),
        "export-precompute-desk": ExportWork("answers/desk", f"{tmp_path}/out/answers.jsonl", "jsonl"),
        "export-desk-dataset": ExportWork("dataset/desk/training", "/srv/{version}.csv", "csv"),
    }
    assert {found.schedules[name].work_class for name in works} == {"batch"}
    assert {name: found.schedules[name].application for name in works} == {
        "export-desk": "desk", "export-tickets": "", "export-precompute-desk": "desk", "export-desk-dataset": "desk",
    }  # fmt: skip
    graph = found.assets(tmp_path).assets
    assert {name: graph[f"export/{name}"].reads for name in works} == {
        "export-desk": ("predictions/desk",), "export-tickets": ("view/tickets",),
        "export-precompute-desk": ("answers/desk",), "export-desk-dataset": ("dataset/desk/training",),
    }  # fmt: skip
    assert "predictions/desk" in graph


@pytest.mark.parametrize(
    ("work", "part", "place"),
    [
        (ExportWork("view/a", "/out/x.csv"), "", "/out/x.csv"),
        (ExportWork("view/a", "/out/{version}-{day}.csv"), "", "/out/v1-2026-11-05.csv"),
        (ExportWork("view/a", "/out/"), "part.csv", "/out/v1/part.csv"),
        (ExportWork("view/a", "/out/{day}/"), "part.csv", "/out/2026-11-05/part.csv"),
        (ExportWork("predictions/a", "/out/"), "part.csv", "/out/day=2026-11-05/part.csv"),
        (ExportWork("view/a", "s3://b/k/?region=x"), "part.csv", "s3://b/k/v1/part.csv?region=x"),
    ],
)
def test_a_version_has_its_place(work: ExportWork, part: str, place: str) -> None:
    assert work.place("v1", "2026-11-05", part) == place


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("Export(desk, to=", "Export(None, to=", "schedule 'export-': None is nothing that is exported"),
        ("Export(desk, to=", "Export('desks', to=", "declares no application 'desks'; there are desk, plain."),
        ("Export(Tickets", "Export('view/week'", "the project publishes no view 'week'; there are tickets."),
        ('rows="dataset"', 'rows="outcomes"', "rows='outcomes' is nothing that an application has"),
        ('Export(desk, rows="dataset"', 'Export(plain, rows="dataset"', "'plain' is not fine-tuned"),
        ("out/{day}.parquet", "out/{month}.parquet", "{month} is no placeholder; there is {day}."),
        ("out/{day}.parquet", "out/{version}/", "{version} is no placeholder; there is {day}."),
        ("out/{day}.parquet", "out/{day.parquet", "{day.parquet is no placeholder"),
        ("out/{day}.parquet", "out/{day}.xlsx", "'xlsx' is no format of exports; there are parquet, csv, jsonl."),
        ("out/{day}.parquet", "out/all.parquet", "a file holds predictions of one day; write {day}"),
        ("out/answers.jsonl", "", "to: '' is no path"),
        ('to="out/answers.jsonl"', 'to="out/answers.jsonl", format="csv"', "is no file of the format csv"),
        ('to="out/answers.jsonl"', 'to="out/answers.jsonl", keep=3', "keep: the one file is replaced each time"),
        ('to="out/answers.jsonl"', 'to="out/", keep=0', "keep is a whole number from 1, not 0."),
        ('to="out/answers.jsonl"', 'to="out/", rows_per_file="all"', "rows_per_file is a whole number from 1"),
        ('to="out/answers.jsonl"', 'to="out/", since="2026-11-01"', "since: only predictions are exported by day"),
        ("out/answers.jsonl", "out/{day}/", "to: files of several versions of a day would lie in one folder"),
        ('since="2026-11-01"', 'since="1 Nov"', "since: '1 Nov' is no day; write one such as '2026-11-01'."),
        ("s3://warehouse/", "s3://key:secret@warehouse/", "to: path holds credentials"),
        ("s3://warehouse/tickets/", "s3:///tickets/", "to: path names no bucket"),
        ("published(Tickets) | stale()", "outcomes(5)", "when: 5 new outcomes is of an application"),
        ("out/answers.jsonl", "s3://warehouse/tickets/", "'export-tickets' writes to 's3://warehouse/tickets/' too"),
        ("keep=30", "keep=30, purpose=3", "purpose is a word that policies know, not 3."),
        ("keep=30", "keep=30, clear='yes'", "clear is True or False, not 'yes'."),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, before: str, after: str, told: str) -> None:
    text = SOUND + EXPORTS
    assert before in text
    with pytest.raises(InvalidDefinitionsError) as wrong:
        load(project(tmp_path, text.replace(before, after)))
    said = str(wrong.value)
    assert told in said
    assert "definitions.py:" in said
