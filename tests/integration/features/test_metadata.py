"""What a snapshot says about itself: its source as it was read, its values, and what it took."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.integration.features.desk import flight, history, write
from tests.integration.features.offline.test_refresh import run_refresh
from tests.integration.features.online.test_lookup import EWR
from tests.integration.features.world import NOON, World, event, minutes

from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.errors import UnavailableError
from antiphon.definitions.quality import Quality
from antiphon.features.monitoring.quality.inspection import Inspection
from antiphon.features.offline.refresh import RefreshResult


async def refreshed(world: World, view: str, at: float = 0.0) -> SnapshotManifest:
    key = world.specs[view].key
    run = await run_refresh(
        world,
        {"views": [key], "as_of": (NOON + minutes(at)).isoformat(), "reason": "nightly", "principal": "ops"},
    )
    assert run.status == "succeeded", run.error
    return world.snapshots.get(world.scope, msgspec.convert(run.result, RefreshResult).snapshots[key])


async def test_the_source_is_described_as_it_was_read(world: World, tmp_path: Path) -> None:
    rows = history()
    rows[0] = {**rows[0], "dep_delay": None}
    rows[1] = {**rows[1], "dep_delay": float("nan")}
    rows[2] = {**rows[2], "origin": None}
    rows[200] = {**rows[200], "departed": rows[200]["scheduled"] + minutes(60 * 24 * 3)}
    rows.append(rows[4])
    write(tmp_path / "departures.parquet", rows)
    manifest = await refreshed(world, "congestion")
    quality = manifest.source_quality
    assert quality is not None
    of = len(rows)
    assert (manifest.rows_in, manifest.rows_out, manifest.rows_rejected) == (of, 2, 1)
    assert manifest.rejections == {"without usable keys or times": 1}
    assert quality.rows == quality.new_rows == of
    assert quality.null_share == quality.out_of_range_share == quality.rejected_share == 1 / of
    assert quality.late_share == quality.duplicate_share == 1 / of
    assert quality.score == pytest.approx(1 - 5 / of)
    assert quality.kinds == {
        "id": "text", "origin": "text", "dest": "text", "scheduled": "time", "departed": "time", "dep_delay": "number"
    }  # fmt: skip
    assert quality.columns["dep_delay"].not_finite == 1
    assert quality.columns["dep_delay"].maximum == 40
    assert (manifest.principal, manifest.reason, manifest.sampling_rate) == ("ops", "nightly", 1.0)
    assert manifest.source_hash
    assert manifest.cost.cpu_seconds > 0
    assert manifest.cost.bytes_read == (tmp_path / "departures.parquet").stat().st_size
    assert manifest.cost.bytes_written == sum(file.bytes for file in manifest.files)
    assert 0 < manifest.cost.quality_seconds < manifest.cost.cpu_seconds + manifest.duration_seconds + 60


async def test_a_reader_of_values_sees_what_their_snapshot_says(world: World) -> None:
    spec = world.specs["congestion"]
    declared = msgspec.structs.replace(spec, quality=Quality(sampling_rate=0.5, late_after="1h").spec())
    world.definitions.put(world.scope, declared)
    assert declared.definition_version == spec.definition_version
    manifest = await refreshed(world, "congestion")
    facts = world.read(NOON, "congestion", **EWR).facts["congestion"]
    assert facts == manifest.facts()
    assert facts.source_quality == manifest.source_quality.score if manifest.source_quality else None
    assert (facts.sampling_rate, facts.rows_in, facts.snapshot) == (0.5, 1440, manifest.id)


async def test_what_came_since_the_snapshot_before_is_new(world: World, tmp_path: Path) -> None:
    first = await refreshed(world, "congestion")
    write(tmp_path / "departures.parquet", [*history(), flight(5_000, NOON + minutes(5), 7.0)])
    world.clock.advance(minutes(60))
    world.append("departures", event("f9000", NOON + minutes(20), origin="EWR", dest="SFO", dep_delay=70.0))
    second = await refreshed(world, "congestion", 60)
    quality = second.source_quality
    assert quality is not None
    assert (quality.rows, quality.new_rows, quality.new_span_seconds) == (1442, 2, 3_600)
    assert (quality.columns["dep_delay"].minimum, quality.columns["dep_delay"].maximum) == (7, 70)
    for name, found in second.statistics.items():
        assert found.edges == first.statistics[name].edges
    third = await refreshed(world, "congestion", 61)  # the log's event was seen, the file's is read again
    assert third.source_quality is not None
    assert (third.source_quality.rows, third.source_quality.new_rows) == (1441, 0)


async def test_a_source_that_changes_while_it_is_read_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = Inspection.read

    def changing(self: Inspection, *arguments: object) -> None:
        looked(self, *arguments)  # type: ignore[arg-type]
        write(tmp_path / "departures.parquet", history()[:10])

    monkeypatch.setattr(Inspection, "read", changing)
    with pytest.raises(UnavailableError, match="changed while it was read"):
        world.materialize("congestion", NOON)
    monkeypatch.setattr(Inspection, "require_unchanged", lambda self: None)
    assert world.materialize("congestion", NOON).rows_in < 1440  # without the check, half of what was judged
