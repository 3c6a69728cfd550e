"""The graph of assets as it follows from definitions, and what is wrong with one, each mistake with its line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from antiphon.core.errors import InvalidDefinitionsError, InvalidInputError
from antiphon.definitions.assets import AssetGraph
from antiphon.definitions.partitions import DailyPartitions, KeyedPartitions
from antiphon.definitions.project import load
from antiphon.definitions.triggers import AllOf, AnyOf, Interval, NewStaleness, describe, needs, stale
from antiphon.definitions.workflows import files, workflow, workflow_spec

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
MODULE = "assets_of_a_test"
WORKFLOWS = """
from datetime import date
from antiphon import daily, files, keyed, workflow

@workflow(reads=[files("events/{day}.csv"), "view/calls"], partitions=daily("2026-11-01", "Europe/Berlin"))
async def clean(run, day: date) -> dict:
    return {}

@workflow(reads=[clean, files("rates.csv")])
async def total(run, digits: int = 2) -> dict:
    return {}
"""
PROJECT = """
from antiphon import Application, Decoding, Entity, Evaluate, Freshness, Precompute, Prompt, Schedule, Source
from antiphon import count, every, feature_view, stale
from assets_of_a_test import clean, total

shop = Entity("shop", keys=["shop"])
calls_seen = Source.table("calls_seen", path="calls.csv", event_time="at")

@feature_view(entity=shop, source=calls_seen, owner="ops")
class calls:
    seen = count(window="2h")

triage = Application(
    "triage", entities=[shop], features=[calls], prompt=Prompt("{{ question }}"), model="tiny",
    freshness={"calls": Freshness("1h", otherwise="flag")}, purpose="a test", owner="ops",
)
Schedule(clean, when=stale())
Schedule(total, when=stale(), arguments={"digits": 3})
Precompute(triage, entities="shops.csv", when=stale())
Evaluate(triage, when=stale())
"""


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    sys.modules.pop(MODULE, None)


def write(folder: Path, workflows: str, definitions: str) -> None:
    (folder / f"{MODULE}.py").write_text(workflows)
    (folder / "definitions.py").write_text(definitions)
    sys.modules.pop(MODULE, None)


def graph(folder: Path, workflows: str = WORKFLOWS, definitions: str = PROJECT) -> AssetGraph:
    write(folder, workflows, definitions)
    return load(folder, now=NOW).assets(folder.resolve())


def mistakes(folder: Path, workflows: str, definitions: str) -> str:
    write(folder, workflows, definitions)
    with pytest.raises(InvalidDefinitionsError) as refused:
        load(folder, now=NOW)
    return str(refused.value)


def test_the_graph_follows_from_what_is_declared(tmp_path: Path) -> None:
    found = graph(tmp_path).assets
    assert {key: asset.reads for key, asset in found.items() if asset.reads} == {
        "view/calls": ("source/calls_seen",),
        "release/triage": ("view/calls",),
        "evaluation/triage": ("release/triage",),
        "workflow/clean": ("file/events/{day}.csv", "view/calls"),
        "workflow/total": ("workflow/clean", "file/rates.csv"),
        "answers/triage": ("release/triage", "view/calls", "file/shops.csv"),
    }
    place = {key: number for number, key in enumerate(found)}
    assert all(place[read] < place[key] for key, asset in found.items() for read in asset.reads)
    made = {key: asset.schedule for key, asset in found.items() if asset.schedule}
    assert made == {
        "workflow/clean": "clean",
        "workflow/total": "total",
        "answers/triage": "precompute-triage",
        "evaluation/triage": "evaluate-triage",
    }
    assert found["file/events/{day}.csv"].partitions == DailyPartitions("2026-11-01", "Europe/Berlin")


def test_a_definition_changes_with_code_and_arguments_and_with_nothing_else(tmp_path: Path) -> None:
    first = graph(tmp_path).assets
    again = graph(tmp_path).assets
    other = graph(tmp_path, definitions=PROJECT.replace('"digits": 3', '"digits": 4')).assets
    code = graph(tmp_path, WORKFLOWS.replace("digits: int = 2", "digits: int = 1")).assets
    for key in ("workflow/clean", "workflow/total"):
        assert first[key].definition == again[key].definition != code[key].definition
    assert first["workflow/total"].definition != other["workflow/total"].definition
    assert first["workflow/clean"].definition == other["workflow/clean"].definition


def test_what_several_schedules_run_is_no_asset_unless_it_reads(tmp_path: Path) -> None:
    plain = "from antiphon import workflow\n\n@workflow()\nasync def poll(run, n: int = 1) -> dict:\n    return {}\n"
    twice = f"""
from antiphon import Schedule, every
from {MODULE} import poll
Schedule(poll, when=every("1h"))
Schedule(poll, name="again", when=every("2h"), arguments={{"n": 2}})
"""
    assert graph(tmp_path, plain, twice).assets == {}
    reads = plain.replace("@workflow()", '@workflow(reads=["file/a.csv"])')
    assert "several schedules run 'poll', which has assets of its own" in mistakes(tmp_path, reads, twice)
    stale_twice = twice.replace('every("2h")', "stale()").replace(
        "import Schedule, every", "import Schedule, every, stale"
    )
    assert "is no asset that could be stale; leave all but one out" in mistakes(tmp_path, plain, stale_twice)


REST = """
@workflow(reads=[{reads}]{more})
async def other(run{parameter}) -> dict:
    return {{}}
"""
DEFINED = f"""
from antiphon import Schedule, daily, every, stale
from {MODULE} import clean, other, total
Schedule(clean, when=stale())
Schedule(total, when=stale())
Schedule(other, when={{when}})
"""


@pytest.mark.parametrize(
    ("reads", "more", "parameter", "when", "part"),
    [
        ('"workflow/gone"', "", "", "stale()", "'other' reads 'workflow/gone', which is no asset of this project. Did"),
        ('"view/cals"', "", "", "stale()", "'other' reads 'view/cals', which is no asset"),
        ('files("{day}.csv")', "", "", "stale()", "has {day}, and 'other' is not partitioned by daily"),
        ('files("{key}.csv")', ', partitions=daily("2026-11-01")', ", day: str", "stale()", "has {key}, and 'other'"),
        ('files("s3://B/x.csv")', "", "", "stale()", "files('s3://B/x.csv'): path names no bucket"),
        ('files("s3://bucket/x.csv?secret_key=k")', "", "", "stale()", "path holds credentials; name environment"),
        ('files("s3://bucket/{day}.csv")', "", "", "stale()", "has {day}, and 'other' is not partitioned by daily"),
        ("clean", ', partitions=daily("2026-10-30", "Europe/Berlin")', ", day: str", "stale()", "earlier days never"),
        ("clean", ', partitions=daily("2026-11-01")', ", day: str", "stale()", "its days are of Europe/Berlin, not of"),
        (
            "",
            ', partitions=daily("2027-01-01")',
            ", day: str",
            "stale()",
            "the first day, 2027-01-01, is in the future",
        ),
        ("", ', partitions=daily("2006-01-01")', ", day: str", "stale()", "is more than 3660 days ago"),
        ("", ', partitions=daily("20261101")', ", day: str", "stale()", "'20261101' is no day"),
        ("", ', partitions=daily("yesterday")', ", day: str", "stale()", "'yesterday' is no day"),
        ("", ', partitions=daily("2026-11-01", "Mars")', ", day: str", "stale()", "'Mars' is no zone"),
        ("", ", partitions=keyed()", ", key: str", "stale()", "keyed() names no key"),
        ("", ', partitions=keyed("a", "a")', ", key: str", "stale()", "a key is named twice"),
        ("", ', partitions=keyed("a/b")', ", key: str", "stale()", "'a/b' is no key"),
        ("", ', partitions=keyed("a")', "", "stale()", "'other' is partitioned and takes no `key`"),
        ("", ', partitions=keyed("a")', ", key: int", "stale()", "arguments of 'other': Expected `int`, got `str`"),
        ("", ', partitions=keyed("a")', ", key: str", 'stale() | every("1h")', "a run makes a part that is stale"),
        ("", ', partitions=keyed("a")', ", key: str", 'every("1h")', "a run makes a part that is stale"),
        ("", ', partitions=keyed("a")', ", key: str", 'stale(), arguments={"key": "a"}', "key is the partition"),
    ],
)
def test_a_mistake_is_said_with_its_line(
    tmp_path: Path, reads: str, more: str, parameter: str, when: str, part: str
) -> None:
    workflows = WORKFLOWS.replace(', "view/calls"', "") + REST.format(reads=reads, more=more, parameter=parameter)
    said = mistakes(tmp_path, workflows, DEFINED.format(when=when))
    assert part in said
    assert "definitions.py:6: schedule 'other'" in said


def test_every_cycle_is_named_once_with_its_way(tmp_path: Path) -> None:
    workflows = WORKFLOWS.replace(', "view/calls"', ', "workflow/other"') + REST.format(
        reads="total", more="", parameter=""
    )
    said = mistakes(tmp_path, workflows, DEFINED.format(when="stale()"))
    assert said.count("a cycle") == 1
    assert "workflow/clean reads workflow/other reads workflow/total reads workflow/clean: a cycle" in said


def test_a_workflow_that_no_worker_finds_is_refused(tmp_path: Path) -> None:
    nested = (
        "from antiphon import workflow\n\ndef make():\n    @workflow()\n    async def inner(run) -> dict:\n        "
    )
    nested += "return {}\n    return inner\n\ninner = make()\n"
    said = mistakes(tmp_path, nested, f"from antiphon import Schedule\nfrom {MODULE} import inner\nSchedule(inner)\n")
    assert "'inner' stands inside of a function, where no worker finds it" in said


def test_a_training_is_not_made_stale(tmp_path: Path) -> None:
    said = mistakes(tmp_path, WORKFLOWS, f"{PROJECT}\nfrom antiphon import Retrain\nRetrain(triage, when=stale())\n")
    assert "when: a training is not made stale; write outcomes(…)" in said


def test_what_a_workflow_reads_is_named_by_what_declares_it() -> None:
    async def first(run: object) -> None: ...

    async def second(run: object) -> None: ...

    made = workflow(reads=[workflow()(first), files("a.csv"), "release/desk", "release/desk"])(second)
    spec = workflow_spec(made)
    assert spec is not None
    assert spec.reads == ("workflow/first", "file/a.csv", "release/desk")
    assert spec.code
    with pytest.raises(InvalidInputError, match="reads 5, which is no asset"):
        workflow(reads=[5])(second)
    nonsense: Any = "days"
    with pytest.raises(InvalidInputError, match="partitions='days', which are none"):
        workflow(partitions=nonsense)(second)


def test_staleness_joins_with_other_conditions() -> None:
    assert describe(stale() & Interval("1h")) == "what it makes is stale and every 1h"
    assert needs(AllOf((stale(), Interval("1h"))), NewStaleness)
    assert not needs(AnyOf((stale(), Interval("1h"))), NewStaleness)


def test_partitions_of_several_readers_are_those_of_all() -> None:
    assert DailyPartitions("2026-11-03").joined(DailyPartitions("2026-11-01")) == DailyPartitions("2026-11-01")
    assert KeyedPartitions(("a", "b")).joined(KeyedPartitions(("b", "c"))) == KeyedPartitions(("a", "b", "c"))
