"""Feast's side of ``make bench-features``, run by the Python that has Feast (``scripts/feast-environment``).

``python benchmarks/feast_peer.py [--size ci|demo|full] [--redis HOST:PORT] [--only MEASURE …]`` prints one JSON line a
measure: {"measure", "store", "value", "unit", "repeats", …}. Only the standard library and Feast are imported, so that
it runs beside no code of ours. The data: an entity, an event time, ten floats.

Tuned as Feast's performance guide says: online feature reads on the SDK and not through the server; the registry cached
and never refreshed on the request path (``cache_ttl_seconds: 0``); entity key serialisation 3; features named by a
feature service; Redis in one process on loopback; Parquet for the source; the DuckDB engine beside the default one for
the point-in-time join. Each timing is warmed up, and the garbage collector is left on, as it is in service.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
os.environ.setdefault("FEAST_USAGE", "False")

FEATURES = [f"f{number}" for number in range(10)]
SIZES = {
    # entities to materialise, lookups a measure, rows and points of the join, seconds of torn reads
    "ci": (5_000, 200, 50_000, 5_000, 4.0),
    "demo": (100_000, 1_000, 1_000_000, 100_000, 20.0),
    "full": (100_000, 5_000, 1_000_000, 100_000, 120.0),
}
MEASURES = ("materialize", "online_1", "online_100", "point_in_time", "torn_reads")
NOW = datetime.now(UTC).replace(microsecond=0)


def main() -> int:
    """Measure what was asked for; exit code 3 when Feast is not there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--redis", metavar="HOST:PORT", help="a Redis of its own for the Redis online store")
    parser.add_argument("--only", choices=MEASURES, action="append")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    options = parser.parse_args()
    try:
        import feast
    except ImportError as error:
        sys.stderr.write(f"{sys.executable} has no Feast: {error}\n")
        return 3
    wanted = options.only or MEASURES
    entities, lookups, rows, points, seconds = SIZES[options.size]
    folder = options.folder or Path(tempfile.mkdtemp(prefix="feast-peer-"))
    try:
        stores = {"sqlite": "path: online.db"}
        if options.redis:
            stores["redis"] = f'connection_string: "{options.redis}"'
        tell("versions", None, feast=feast.__version__, python=sys.version.split()[0], size=options.size)
        for store, place in stores.items():
            repository = Repository(folder / store, store, place)
            if {"materialize", "online_1", "online_100"} & set(wanted):
                repository.write("one", entities)
                repository.apply(["one"])
                if "materialize" in wanted:
                    measure_materialize(repository, entities)
                else:
                    repository.materialize(["one"])
                for batch in (1, 100):
                    if f"online_{batch}" in wanted:
                        measure_online(repository, entities, batch, lookups if batch == 1 else max(50, lookups // 10))
            if "torn_reads" in wanted:
                measure_torn(Repository(folder / f"{store}-torn", store, place), seconds)
        if "point_in_time" in wanted:
            for engine in ("dask", "duckdb"):
                for per_entity in (10, 100):
                    measure_join(Repository(folder / f"{engine}-{per_entity}", "sqlite", stores["sqlite"], engine),
                                 rows, points, per_entity)  # fmt: skip
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def tell(measure: str, value: Any, **more: Any) -> None:
    """One JSON line."""
    print(json.dumps({"peer": "feast", "measure": measure, "value": value, **more}), flush=True)


class Repository:
    """A feature repository in a folder, with views of ten floats about one entity."""

    def __init__(self, folder: Path, store: str, place: str, engine: str = "dask") -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder, self.store_kind = folder, store
        (folder / "feature_store.yaml").write_text(
            f"project: bench_{store}_{folder.name.replace('-', '_')}\nprovider: local\n"
            "registry:\n  path: registry.db\n  cache_ttl_seconds: 0\n"
            f"online_store:\n  type: {store}\n  {place}\noffline_store:\n  type: {engine}\n"
            "entity_key_serialization_version: 3\n"
        )
        self.store: Any = None

    def write(self, view: str, entities: int, per_entity: int = 1, value: float | None = None) -> None:
        """A Parquet file of rows: entity, event time, f0 … f9; ``value`` is every feature's."""
        import numpy
        import pandas

        chance = numpy.random.default_rng(20)
        rows = entities * per_entity
        frame = {
            "entity_id": numpy.tile(numpy.arange(entities, dtype="int64"), per_entity),
            "event_timestamp": pandas.Timestamp(NOW)
            - pandas.to_timedelta(chance.integers(60, 25 * 86_400, rows), unit="s"),
        }
        for name in FEATURES:
            frame[name] = chance.random(rows) if value is None else numpy.full(rows, value)
        partial = self.folder / f".{view}.parquet"
        pandas.DataFrame(frame).to_parquet(partial, index=False)
        partial.replace(self.folder / f"{view}.parquet")

    def apply(self, views: list[str]) -> None:
        """Apply the definitions; the registry is read once."""
        from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
        from feast.types import Float64
        from feast.value_type import ValueType

        entity = Entity(name="entity", join_keys=["entity_id"], value_type=ValueType.INT64)
        declared: list[Any] = [entity]
        made = []
        for view in views:
            source = FileSource(
                name=f"{view}_source", path=str(self.folder / f"{view}.parquet"), timestamp_field="event_timestamp"
            )
            made.append(
                FeatureView(
                    name=view, entities=[entity], ttl=timedelta(days=60), source=source,
                    schema=[Field(name=name, dtype=Float64) for name in FEATURES],
                )
            )  # fmt: skip
            declared += [source, made[-1]]
        declared.append(FeatureService(name="all", features=made))
        self.store = FeatureStore(repo_path=str(self.folder))
        self.store.apply(declared)
        self.store.refresh_registry()
        self.service = self.store.get_feature_service("all")

    def materialize(self, views: list[str], store: Any = None) -> float:
        """Materialise; seconds it took."""
        started = time.perf_counter()
        with silent():
            (store or self.store).materialize(NOW - timedelta(days=30), NOW + timedelta(minutes=1), feature_views=views)
        return time.perf_counter() - started


class silent:
    """Feast prints progress to stdout, which is ours for results."""

    def __enter__(self) -> None:
        sys.stdout.flush()
        self.kept = os.dup(1)
        os.dup2(2, 1)

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()
        os.dup2(self.kept, 1)
        os.close(self.kept)


def measure_materialize(repository: Repository, entities: int) -> None:
    """Rows a second from Parquet into the online store."""
    taken = [repository.materialize(["one"]) for _ in range(2)]
    best = min(taken)
    tell("materialize", round(entities / best, 1), unit="rows/s", store=repository.store_kind, rows=entities,
         features=len(FEATURES), seconds=[round(one, 3) for one in taken], peak_rss_mb=peak())  # fmt: skip


def measure_online(repository: Repository, entities: int, batch: int, repeats: int) -> None:
    """Milliseconds of ``get_online_features`` for so many entities of ten features."""
    step = max(1, entities // 997)
    rows = [
        [{"entity_id": (turn * 131 + place * step) % entities} for place in range(batch)] for turn in range(repeats)
    ]

    def ask(asked: list[dict[str, int]]) -> None:
        found = repository.store.get_online_features(features=repository.service, entity_rows=asked).to_dict()
        if any(value is None for value in found["f0"]):
            raise RuntimeError("an entity that was materialised is not found")

    taken = timed(ask, rows)
    tell(
        f"online_{batch}",
        round(statistics.median(taken), 4),
        unit="ms",
        store=repository.store_kind,
        repeats=repeats,
        p95=round(percentile(taken, 0.95), 4),
        p99=round(percentile(taken, 0.99), 4),
        features=len(FEATURES),
    )


def measure_join(repository: Repository, rows: int, points: int, per_entity: int) -> None:
    """Seconds of ``get_historical_features`` for so many points over so many rows; how many rows came back."""
    import numpy
    import pandas

    repository.write("one", rows // per_entity, per_entity)
    repository.apply(["one"])
    chance = numpy.random.default_rng(21)
    frame = pandas.DataFrame(
        {
            "entity_id": chance.integers(0, rows // per_entity, points),
            "event_timestamp": pandas.Timestamp(NOW)
            - pandas.to_timedelta(chance.integers(0, 20 * 86_400, points), unit="s"),
        }
    )
    engine = repository.folder.name.split("-")[0]
    started = time.perf_counter()
    try:
        with silent():
            found = repository.store.get_historical_features(entity_df=frame, features=repository.service).to_df()
    except Exception as error:
        tell("point_in_time", None, store=engine, per_entity=per_entity, error=f"{type(error).__name__}: {error}"[:300])
        return
    tell("point_in_time", round(time.perf_counter() - started, 3), unit="s", store=engine, rows=rows, points=points,
         per_entity=per_entity, rows_out=len(found), peak_rss_mb=peak())  # fmt: skip


def measure_torn(repository: Repository, seconds: float) -> None:
    """How many reads of two views mix two materialisations, while both are materialised again and again.

    Every feature of both views is the number of the round, so a read is torn when it holds two numbers.
    """
    views, entities = ["left", "right"], 200
    for view in views:
        repository.write(view, entities, value=0.0)
    repository.apply(views)
    repository.materialize(views)
    from feast import FeatureStore

    writer = FeatureStore(repo_path=str(repository.folder))
    stop, rounds, failed = threading.Event(), [0], []

    def write() -> None:
        try:
            while not stop.is_set():
                rounds[0] += 1
                for view in views:
                    repository.write(view, entities, value=float(rounds[0]))
                writer.materialize(NOW - timedelta(days=30), NOW + timedelta(minutes=1), feature_views=views)
        except Exception as error:
            failed.append(f"{type(error).__name__}: {error}"[:300])

    asked = [{"entity_id": number} for number in range(0, entities, 10)]
    names = [f"{view}:f0" for view in views]
    torn = reads = errors = 0
    with silent():
        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until and not failed:
            try:
                found = repository.store.get_online_features(
                    features=names, entity_rows=asked, full_feature_names=True
                ).to_dict()
            except Exception:
                errors += 1
                continue
            reads += 1
            torn += len({*found["left__f0"], *found["right__f0"]}) > 1
        stop.set()
        thread.join(120)
    tell(
        "torn_reads",
        round(torn / reads, 5) if reads else None,
        unit="share",
        store=repository.store_kind,
        reads=reads,
        torn=torn,
        rounds=rounds[0],
        errors=errors,
        writer_error=failed[0] if failed else None,
    )


def timed(ask: Callable[[Any], None], arguments: list[Any]) -> list[float]:
    """Milliseconds of each call, after a tenth of them as a warm-up."""
    for argument in arguments[: max(5, len(arguments) // 10)]:
        ask(argument)
    gc.collect()
    taken = []
    for argument in arguments:
        started = time.perf_counter()
        ask(argument)
        taken.append((time.perf_counter() - started) * 1e3)
    return taken


def percentile(values: list[float], share: float) -> float:
    """The value below which a share of them lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def peak() -> float:
    """Highest resident memory of this process so far, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


if __name__ == "__main__":
    sys.exit(main())
