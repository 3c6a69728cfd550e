"""A disk that runs full while features are published or streamed: told as that, and what is published stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.integration.features.desk import flight, history, specs, write
from tests.integration.features.online.test_lookup import EWR
from tests.integration.features.world import NOON, World, event, minutes

ROOT = Path(__file__).parents[4]


def many() -> list[dict[str, Any]]:
    return [flight(n, NOON - minutes(n % 40_000), float(n * 7 % 50 - 9), f"O{n % 3_000}") for n in range(20_000)]


def at_most(folder: Path, longest: int, doing: str) -> dict[str, str]:
    """What a process does that may write no file longer than so many bytes."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.integration.features.offline.full_disk_child", str(folder), str(longest), doing],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}, cwd=ROOT, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    said: dict[str, str] = json.loads(ended.stdout)
    return said


@pytest.mark.parametrize(("longest", "where"), [(4_096, "lake"), (100_000, "lake"), (1_000_000, "online store")])
def test_a_publication_that_finds_no_room_leaves_the_one_before(tmp_path: Path, longest: int, where: str) -> None:
    write(tmp_path / "departures.parquet", history())
    world = World(tmp_path, *specs(tmp_path / "departures.parquet"))
    before = world.publish(NOON - minutes(60))
    served = world.read(NOON, **EWR).values
    world.close()
    write(tmp_path / "departures.parquet", many())
    said = at_most(tmp_path, longest, "publish")
    assert said["ended"] in ("StorageFullError", "UnavailableError")
    assert said["where"] == where
    assert "disk" in said["what"] + said["next_step"]
    world = World(tmp_path, *specs(tmp_path / "departures.parquet"))
    current = world.publications.current(world.scope)
    assert current is not None
    assert (current.number, current.snapshots) == (before.number, before.snapshots)
    assert world.read(NOON, **EWR).values == served
    scratch = tmp_path / "lake" / ".scratch"
    assert not list(scratch.iterdir())
    assert not list((tmp_path / "online").rglob("*.building"))
    # With room the same is done.
    assert world.publish(NOON).number == before.number + 1
    assert world.read(NOON, origin="O1", dest="SFO").values["congestion.latest"].value is not None
    world.close()


def test_a_stream_that_finds_no_room_goes_on_where_it_was(tmp_path: Path) -> None:
    write(tmp_path / "departures.parquet", history())
    world = World(tmp_path, *specs(tmp_path / "departures.parquet"))
    world.publish(NOON)
    world.append("departures", *two_thousand_events())
    said = at_most(tmp_path, 100_000, "consume")
    assert said["ended"] == "UnavailableError"
    assert "disk" in said["what"] + said["next_step"]
    world.consume()
    found = world.read(NOON + minutes(2), **EWR).values
    assert found["congestion.departures_2h"].value == 2_000 + 1
    world.close()


def two_thousand_events() -> list[Any]:
    return [
        event(f"s{n}", NOON + minutes(1), origin="EWR", dest="SFO", dep_delay=9.0, id=f"s{n}") for n in range(2_000)
    ]
