"""Sources that are mutated: always a snapshot or one of our errors that names the source, and what was published stays.

``LOADER_FUZZ=500`` takes so many mutations of each kind; the tests take a few.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.integration.features.desk import ORIGIN, flight, write
from tests.integration.features.online.test_lookup import EWR
from tests.integration.features.world import NOON, World, event, minutes

from antiphon import Source, col, count, feature_view, last, mean
from antiphon.core.errors import AntiphonError
from antiphon.definitions.feature_view import FeatureViewSpec

SIZE = int(os.environ.get("LOADER_FUZZ", "6"))
KINDS = ("parquet", "csv", "jsonl", "json", "delta")
ROWS = [flight(n, NOON - minutes(60 * n + 5), float(n % 7), "EWR" if n % 2 else "LGA") for n in range(24)]


def view(path: Path) -> FeatureViewSpec:
    source = Source.table("departures", path=str(path), event_time="scheduled", available_at="departed", event_id="id")

    @feature_view(entity=ORIGIN, source=source)
    class Delays:
        flights = count(window="28d")
        delay = mean(col.dep_delay, window="28d", scale="0.01")
        latest = last(col.dest)

    return Delays.spec()


def written(folder: Path, kind: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    """The rows as one kind of source."""
    path = folder / f"departures.{kind}"
    if kind == "parquet":
        write(path, rows)
    elif kind == "delta":
        import deltalake

        write(folder / "rows.parquet", rows)
        deltalake.write_deltalake(str(path), pq.read_table(folder / "rows.parquet"))
    elif kind == "csv":
        lines = [",".join(str(value) for value in row.values()) for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *lines]) + "\n")
    else:
        texts = [json.dumps(row, default=str) for row in rows]
        path.write_text("\n".join(texts) if kind == "jsonl" else f"[{', '.join(texts)}]")
    return path


def victim(path: Path, chance: random.Random) -> Path:
    """The file to mutate: of a Delta table its log or one of its files."""
    return path if path.is_file() else chance.choice(sorted(one for one in path.rglob("*") if one.is_file()))


WORDS = (
    b"\0", b"\xff\xfe", b"99999999999999999999999999999999", b"NaN", b"-Infinity", b"1e400", b'"', b",,,", b"\n\n",
    b"null", b"{", b"]", "\u2028\u202e".encode(), b"9999-99-99", b"292278994-08-17 07:12:55", b"\x1f|:/", b"\\u0000",
)  # fmt: skip


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Bytes cut off, flipped, repeated, put in or replaced."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 4, 30))):
        at = chance.randrange(len(changed) + 1)
        act = chance.randrange(6)
        if act == 0:
            del changed[at:]
        elif act == 1 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif act == 2:
            changed[at:at] = changed[max(0, at - 40) : at]
        elif act == 3:
            changed[at : at + 9] = chance.choice(WORDS)
        elif act == 4:
            changed[at:at] = chance.choice(WORDS)
        else:
            del changed[at : at + chance.randrange(1, 60)]
        if not changed:
            break
    return bytes(changed)


class Served:
    """A published view whose source is about to be spoilt."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.path = written(folder, kind)
        self.kept = folder / "kept"
        (shutil.copytree if self.path.is_dir() else shutil.copy)(self.path, self.kept)
        self.world = World(folder, view(self.path))
        self.world.publish(NOON)
        self.turn = 0

    def restore(self) -> None:
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)
        (shutil.copytree if self.kept.is_dir() else shutil.copy)(self.kept, self.path)

    def refresh(self, what: object) -> str:
        """Refresh the spoilt source: ``published``, or the error's class; nothing else may happen."""
        self.turn += 1
        before = self.world.publications.current(self.world.scope)
        assert before is not None
        values = self.world.read(NOON, **EWR)
        try:
            self.world.publish(NOON + timedelta(seconds=self.turn))
        except AntiphonError as error:
            said = f"{error.where}: {error.what}"
            assert "departures" in said, f"{what!r}: {said} names no source"
            assert self.world.publications.current(self.world.scope) == before, what
            assert self.world.read(NOON, **EWR) == values, what
            return type(error).__name__
        after = self.world.read(NOON, **EWR)
        assert after.publication == before.number + 1, what
        return "published"


@pytest.fixture(params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path, request.param)
    yield served
    served.world.close()


def test_mutated_bytes(served: Served) -> None:
    outcomes = set()
    for seed in range(SIZE):
        chance = random.Random(f"{served.path.suffix} {seed}")
        file = victim(served.path, chance)
        file.write_bytes(mutated(file.read_bytes(), chance))
        outcomes.add(served.refresh(f"{file.name} {seed}"))
        served.restore()
    assert served.refresh("the whole source again") == "published"
    assert outcomes - {"published"}, "no mutation was refused"


def test_files_that_are_no_sources(served: Served) -> None:
    assert served.path.exists()
    for content in (
        b"",
        b"\0" * 64,
        b"PAR1PAR1",
        b"\xef\xbb\xbf",
        b"[",
        b"{}",
        b"id,id\n1,2\n",
        b"\n",
        "é\n".encode("utf-16"),
    ):
        file = victim(served.path, random.Random(0))
        file.write_bytes(content)
        served.refresh(content)
        served.restore()
    for act in (Path.unlink, lambda file: (file.unlink(), file.mkdir()), lambda file: file.chmod(0)):
        act(victim(served.path, random.Random(1)))
        served.refresh(act)
        served.restore()


Rows = list[dict[str, Any]]
STRANGE: dict[str, Callable[[Rows], Rows]] = {
    "a column is missing": lambda rows: [{k: v for k, v in row.items() if k != "dep_delay"} for row in rows],
    "no times": lambda rows: [{k: v for k, v in row.items() if k != "scheduled"} for row in rows],
    "text for numbers": lambda rows: [{**row, "dep_delay": "late"} for row in rows],
    "lists": lambda rows: [{**row, "dep_delay": [1, 2]} for row in rows],
    "structures": lambda rows: [{**row, "origin": {"a": 1}} for row in rows],
    "huge": lambda rows: [{**row, "dep_delay": 1e308} for row in rows],
    "huge integers": lambda rows: [{**row, "dep_delay": 2**63 - 1} for row in rows],
    "not numbers": lambda rows: [{**row, "dep_delay": float("nan")} for row in rows],
    "infinite": lambda rows: [{**row, "dep_delay": float("-inf")} for row in rows],
    "nulls": lambda rows: [dict.fromkeys(row) for row in rows],
    "separators in keys": lambda rows: [{**row, "origin": "a|b:c/d\x1f\x00e\n"} for row in rows],
    "long keys": lambda rows: [{**row, "origin": "\U0001f6eb" * 5_000} for row in rows],
    "no rows": lambda rows: [],
    "times as numbers": lambda rows: [{**row, "scheduled": 20130410} for row in rows],
}


@pytest.mark.parametrize("what", list(STRANGE))
def test_rows_that_do_not_fit(tmp_path: Path, what: str) -> None:
    served = Served(tmp_path, "parquet")
    try:
        rows = STRANGE[what](ROWS)
        columns = rows[0] if rows else {"id": 1}
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in columns}), served.path)
        served.refresh(what)
        served.path.write_bytes(b"")
        assert served.refresh("empty") != "published"
    finally:
        served.world.close()


def test_a_file_that_is_replaced_or_gone_half_way_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from antiphon.features.offline import materialize as module

    served = Served(tmp_path, "parquet")
    original = module.load_rows
    acts = {
        "gone": lambda: served.path.unlink(),
        "replaced": lambda: write(served.path, ROWS[:3]),
        "cut off": lambda: served.path.write_bytes(served.path.read_bytes()[:-200]),
    }
    try:
        for name, act in acts.items():
            for first in (True, False):

                def halfway(*given: Any, act: Callable[[], object] = act, first: bool = first, **named: Any) -> Any:
                    if first:
                        act()
                    loaded = original(*given, **named)
                    if not first:
                        act()
                    return loaded

                with monkeypatch.context() as during:
                    during.setattr(module, "load_rows", halfway)
                    assert served.refresh((name, first)) in ("UnavailableError", "SetupError", "InvalidInputError")
                served.restore()
        assert served.refresh("whole") == "published"
    finally:
        served.world.close()


LATE: dict[str, Any] = {"origin": "EWR"}
PAYLOADS: list[dict[str, Any]] = [
    {}, {"origin": None}, {"origin": []}, {"origin": {"a": 1}}, LATE, LATE | {"dep_delay": "late"},
    LATE | {"dep_delay": 10**40}, LATE | {"dep_delay": -(10**400)}, {"origin": 10**30, "dep_delay": 1},
    LATE | {"dep_delay": 1e308}, LATE | {"dep_delay": True}, LATE | {"dep_delay": [1]},
    {"origin": "a\x00|b:\x1f\u2028", "dep_delay": 1.5}, {"origin": "\U0001f6eb" * 2_000, "dep_delay": 0.005},
    {"origin": True, "dep_delay": -0.0}, {"origin": "", "dep_delay": 5e-324}, {"origin": 1.5, "dep_delay": 2**63},
]  # fmt: skip


def test_events_of_any_payload_come_out_alike_on_both_paths(tmp_path: Path) -> None:
    source = Source.stream("departures", event_time="scheduled", event_id="id")

    @feature_view(entity=ORIGIN, source=source)
    class Streamed:
        flights = count(window="28d")
        delay = mean(col.dep_delay, window="28d", scale="0.01")
        latest = last(col.dep_delay)

    world = World(tmp_path, Streamed.spec())
    try:
        world.append("departures", event("first", NOON - minutes(9), origin="EWR", dep_delay=1.0))
        world.publish(NOON)
        for number, payload in enumerate(PAYLOADS):
            world.append("departures", event(f"e{number}", NOON - minutes(1) + timedelta(seconds=number), **payload))
        world.consume()
        origins = ["EWR", "a\x00|b:\x1f\u2028", "\U0001f6eb" * 2_000, "true", "", "1.5", str(10**30)]
        streamed = [world.read(NOON, origin=origin).values for origin in origins]
        world.publish(NOON + timedelta(seconds=1))
        batch = [world.read(NOON, origin=origin).values for origin in origins]
        for origin, one, other in zip(origins, streamed, batch, strict=True):
            assert {name: value.value for name, value in one.items()} == {
                name: value.value for name, value in other.items()
            }, origin[:20]
        assert streamed[0]["streamed.flights"].value is not None
    finally:
        world.close()
