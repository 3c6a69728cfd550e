"""How long a comparison of batch and online takes, by what batch is computed from: the source, its files, the lake.

Run ``python -m benchmarks.features.skew [--size ci|demo|full]``. A table of random rows (seed 9) in four Parquet files
is published with features over windows and over all time; then a sample of its entities is read online and compared,
three times: with the source as it was, after a file was added, and after every file was written anew. The last two
could not be compared at all without what snapshots keep, so the first is what they are measured against. Every value
has to be compared and equal, or the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from antiphon import Entity, Source, col, count, feature_view, mean
from antiphon.catalog.database import Database
from antiphon.catalog.features.definitions import DefinitionVersions
from antiphon.catalog.features.events import EventLog
from antiphon.catalog.features.publications import Publications
from antiphon.core.clock import SystemClock
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.lake.local import LocalLake
from antiphon.features.monitoring.skew.measure import Skew
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.publication.publish import Publisher

SEED = 9
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FILES = 4
ROUNDS = 3
SIZES = {
    # rows, entities, sample
    "ci": (100_000, 5_000, 100),
    "demo": (1_000_000, 20_000, 1_000),
    "full": (5_000_000, 100_000, 1_000),
}


def write(folder: Path, part: int, rows: int, entities: int, draw: int = 0) -> None:
    """One file of random rows of the ninety days before noon; another draw is of other rows."""
    import numpy
    import pyarrow
    import pyarrow.parquet

    drawn = numpy.random.default_rng(SEED + part + draw)
    before = drawn.integers(1, 90 * 86_400_000_000, rows)
    table = {
        "id": pyarrow.array([f"{part}-{row}" for row in range(rows)]),
        "card": pyarrow.array([f"c{one}" for one in drawn.integers(0, entities, rows)]),
        "at": pyarrow.array(int(NOON.timestamp() * 1e6) - before, pyarrow.timestamp("us", "UTC")),
        "amount": pyarrow.array(drawn.integers(1, 100_000, rows) / 100),
    }
    pyarrow.parquet.write_table(pyarrow.table(table), folder / f"part{part}.parquet")


def spec(folder: Path) -> FeatureViewSpec:
    """Five features, two of them over all time."""
    spends = Source.table("spends", path=str(folder / "part*.parquet"), event_time="at", event_id="id")

    @feature_view(entity=Entity("card", ["card"]), source=spends)
    class Spend:
        day = count(window="1d")
        week = mean(col.amount, window="7d", scale="0.01")
        month = mean(col.amount, window="28d", scale="0.01")
        ever = count(window=None)
        average = mean(col.amount, window=None, scale="0.01")

    return Spend.spec()


def run(size: str) -> dict[str, Any]:
    """Publish once, compare by each basis."""
    rows, entities, sample = SIZES[size]
    scope, clock = Scope(), SystemClock()
    with tempfile.TemporaryDirectory(prefix="antiphon-skew-") as root:
        folder = Path(root) / "source"
        folder.mkdir()
        for part in range(FILES):
            write(folder, part, rows // FILES, entities)
        view = spec(folder)
        database = Database.open(f"sqlite:///{root}/catalog.db", clock=clock)
        database.migrate()
        publications = Publications(database)
        definitions, log = DefinitionVersions(database), EventLog(database)
        definitions.put(scope, view)
        lake, online = LocalLake(Path(root) / "lake"), LmdbStore(Path(root) / "online", b"k" * 32)
        started = time.perf_counter()
        manifest = materialize(Materialization(scope, view, NOON), lake=lake, log=log, clock=clock)
        materialized = time.perf_counter() - started
        catalog = FeatureCatalog(database, scope, lake, notice=0)
        publisher = Publisher(catalog, online=online)
        publisher.publish([(manifest, view)], reason="benchmark", principal="benchmark")
        reader = FeatureReader(scope, publications=publications, online=online, clock=clock)
        skew = Skew(catalog, reader=reader, log=log)

        def compared(basis: str) -> dict[str, Any]:
            seconds = []
            for seed in range(ROUNDS):
                began = time.perf_counter()
                report = skew.measure([view], as_of=NOON + timedelta(hours=1), sample=sample, seed=seed, seconds=120)
                seconds.append(time.perf_counter() - began)
                judged = {one for feature in report.features for one in feature.judged_by}
                right = (report.compared, report.different, judged) == (sample * len(view.features), 0, {basis})
                if not right:
                    return {
                        "seconds": None,
                        "wrong": f"{report.compared} compared, {report.different} differ, {judged}",
                    }
            return {"seconds": round(statistics.median(seconds), 3), "spread": round(max(seconds) - min(seconds), 3)}

        found = {"source": compared("source")}
        write(folder, FILES, rows // 100, entities)
        found["files"] = compared("files")
        for part in range(FILES):
            write(folder, part, rows // FILES, entities, draw=50)
        found["lake"] = compared("lake")
        online.close()
        database.close()
    return {
        "benchmark": "feature_skew",
        "at": datetime.now(UTC).isoformat(),
        "size": size,
        "seed": SEED,
        "rows": rows,
        "entities": entities,
        "sample": sample,
        "rounds": ROUNDS,
        "materialize_seconds": round(materialized, 2),
        "by": found,
        "met": all(one["seconds"] is not None for one in found.values()),
    }


def main() -> int:
    """Measure and print; 1 when a value was not compared or differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="ci")
    result = run(parser.parse_args().size)
    made = result["materialize_seconds"]
    print(f"{result['rows']:,} rows materialized in {made} s; {result['sample']} entities of them")
    for basis, one in result["by"].items():
        print(f"compared by the {basis:7} {one.get('wrong') or one['seconds']} s (spread {one.get('spread')})")
    print(json.dumps(result))
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
