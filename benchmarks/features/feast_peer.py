"""Feast's side of the benchmarks, run by the Python that has Feast (``scripts/feast-environment`` prints it).

Two ways to use it; only the standard library and Feast are imported, so that it runs beside no code of ours.

``feast_peer.py bench [--size ci|demo|full] [--redis HOST:PORT] [--only MEASURE …]``
    Feast by itself on generated values: one JSON line a measure.
``feast_peer.py serve``
    One JSON request a line on stdin, one JSON answer a line on stdout; ``benchmarks/features/feast_process.py`` speaks
    it. A failed request is answered by ``{"error": …}``. Requests, by their ``op``:

    ``versions``            → feast, python
    ``repository``          name, folder, store (sqlite, redis), redis (HOST:PORT), offline (dask, duckdb), views:
                            [{name, path (Parquet), keys, key_type (int, text), event_time, created?, features,
                            ttl_days?}]. Applies them, with a feature service of all.
    ``materialize``         repository, views?, start?, end? (ISO times) → seconds, peak_rss_mb
    ``online``              repository, calls: a list of lists of entities [{key: value}], features? ("view:feature"),
                            values? (the last call's, by name) → p50_ms, p95_ms, p99_ms, calls
    ``history``             repository, points (Parquet: keys, event_timestamp), features?, out? (a Parquet file)
                            → seconds, rows_in, rows_out, peak_rss_mb
    ``torn``                folder, store, redis?, seconds, entities, asked → see below
    ``quit``

Torn batches. Two views of so many entities hold one number in every value: that of the round. Another process
(``feast_peer.py rewrite FOLDER``) writes the next round's Parquet files and materializes both views, over and over;
this one reads ``asked`` entities of both views in one call and looks at the values alone: a batch that holds more than
one number is torn. → batches, torn, torn_between_views (each view whole, but of another round), share, rounds, errors.

Tuned as Feast's guides say: the SDK and not its server; the registry read once and never on the request path
(``cache_ttl_seconds: 0``); entity key serialization 3; features named by a service; SQLite and Redis connections kept;
Redis writes without reading old timestamps (``skip_dedup``) and in batches; Parquet sources; the DuckDB engine beside
the default one for the point-in-time join. Timings are warmed up; the garbage collector is left on, as in service.
Memory is the highest resident size during the operation, reset before it where Linux allows.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from antiphon.core.child_process import start_child

warnings.filterwarnings("ignore")
os.environ.setdefault("FEAST_USAGE", "False")

FEATURES = [f"f{number}" for number in range(10)]
SIZES = {
    # entities to materialize, lookups a measure, rows and points of the join, seconds of torn reads
    "ci": (5_000, 200, 50_000, 5_000, 4.0),
    "demo": (100_000, 1_000, 1_000_000, 100_000, 20.0),
    "full": (100_000, 5_000, 1_000_000, 100_000, 120.0),
}
MEASURES = ("materialize", "online", "history", "torn")
NOW = datetime.now(UTC).replace(microsecond=0)
BATCH_SIZE = 10_000
"""Rows that are written to the online store in one batch."""


class Repository:
    """A feature repository in a folder, applied and open."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.folder = Path(request["folder"])
        self.folder.mkdir(parents=True, exist_ok=True)
        store = request.get("store", "sqlite")
        place = "path: online.db"
        if store == "redis":
            place = f'connection_string: "{request["redis"]}"\n  skip_dedup: true'
        (self.folder / "feature_store.yaml").write_text(
            # A table of SQLite must not begin with its name.
            f"project: peer_{request['name']}\nprovider: local\n"
            "registry:\n  path: registry.db\n  cache_ttl_seconds: 0\n"
            f"online_store:\n  type: {store}\n  {place}\n"
            f"offline_store:\n  type: {request.get('offline', 'dask')}\n"
            f"materialization:\n  online_write_batch_size: {request.get('batch_size', BATCH_SIZE)}\n"
            "entity_key_serialization_version: 3\n"
        )
        self._apply(request["views"])

    def _apply(self, views: list[dict[str, Any]]) -> None:
        from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
        from feast.types import Float64
        from feast.value_type import ValueType

        entities: dict[str, Any] = {}
        declared: list[Any] = []
        made = []
        for view in views:
            for key in view["keys"]:
                kind = ValueType.STRING if view.get("key_type", "int") == "text" else ValueType.INT64
                if key not in entities:
                    entities[key] = Entity(name=key, join_keys=[key], value_type=kind)
            source = FileSource(
                name=f"{view['name']}_source",
                path=view["path"],
                timestamp_field=view["event_time"],
                created_timestamp_column=view.get("created", ""),
            )
            made.append(
                FeatureView(
                    name=view["name"],
                    entities=[entities[key] for key in view["keys"]],
                    ttl=timedelta(days=view.get("ttl_days", 3650)),
                    source=source,
                    schema=[Field(name=name, dtype=Float64) for name in view["features"]],
                )
            )
            declared += [source, made[-1]]
        declared.append(FeatureService(name="all", features=made))
        self.store = FeatureStore(repo_path=str(self.folder))
        self.store.apply([*entities.values(), *declared])
        self.store.refresh_registry()
        self.service = self.store.get_feature_service("all")

    def materialize(self, request: dict[str, Any]) -> dict[str, Any]:
        """Materialize views of a stretch of event times."""
        start = datetime.fromisoformat(request["start"]) if "start" in request else NOW - timedelta(days=3650)
        end = datetime.fromisoformat(request["end"]) if "end" in request else NOW + timedelta(days=1)
        forget_peak()
        started = time.perf_counter()
        self.store.materialize(start, end, feature_views=request.get("views"))
        return {"seconds": round(time.perf_counter() - started, 4), "peak_rss_mb": peak()}

    def online(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time ``get_online_features`` call by call."""
        features = request.get("features") or self.service
        last: dict[str, Any] = {}

        def ask(entities: list[dict[str, Any]]) -> None:
            nonlocal last
            last = self.store.get_online_features(features=features, entity_rows=entities).to_dict()

        taken = timed(ask, request["calls"])
        answer: dict[str, Any] = {
            "calls": len(taken),
            "p50_ms": round(statistics.median(taken), 5),
            "p95_ms": round(percentile(taken, 0.95), 5),
            "p99_ms": round(percentile(taken, 0.99), 5),
        }
        return answer | ({"values": last} if request.get("values") else {})

    def history(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time ``get_historical_features`` until its rows are a data frame."""
        import pandas

        points = pandas.read_parquet(request["points"])
        forget_peak()
        started = time.perf_counter()
        found = self.store.get_historical_features(
            entity_df=points, features=request.get("features") or self.service
        ).to_df()
        seconds = time.perf_counter() - started
        if request.get("out"):
            found.to_parquet(request["out"], index=False)
        return {
            "seconds": round(seconds, 4),
            "rows_in": len(points),
            "rows_out": len(found),
            "peak_rss_mb": peak(),
        }


def torn(request: dict[str, Any]) -> dict[str, Any]:
    """Read two views of many entities while another process materializes both again and again."""
    folder = Path(request["folder"])
    count, asked = request.get("entities", 200), request.get("asked", 50)
    folder.mkdir(parents=True, exist_ok=True)
    for view in ("left", "right"):
        write_round(folder, view, count, 0)
    views = [
        {
            "name": view,
            "path": str(folder / f"{view}.parquet"),
            "keys": ["entity"],
            "event_time": "event_time",
            "features": FEATURES,
        }
        for view in ("left", "right")
    ]
    repository = Repository({"name": "torn", **request, "views": views})
    repository.materialize({})
    step = max(1, count // asked)
    entities = [{"entity": number} for number in range(0, count, step)][:asked]
    batches = broken = between = errors = 0
    writer = start_child(
        [sys.executable, __file__, "rewrite", str(folder), "--entities", str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    try:
        writer.stdout.readline()  # It has begun.
        until = time.perf_counter() + request.get("seconds", 10.0)
        while time.perf_counter() < until and writer.poll() is None:
            try:
                found = repository.store.get_online_features(
                    features=repository.service, entity_rows=entities, full_feature_names=True
                ).to_dict()
            except Exception:
                errors += 1
                continue
            batches += 1
            rounds = [{value for name in FEATURES for value in found[f"{view}__{name}"]} for view in ("left", "right")]
            if len(rounds[0] | rounds[1]) > 1:
                broken += 1
                between += len(rounds[0]) == len(rounds[1]) == 1
    finally:
        writer.stdin.close()
        told = writer.stdout.read().split()
        ended = writer.wait(120)
    return {
        "batches": batches,
        "torn": broken,
        "torn_between_views": between,
        "share": round(broken / batches, 6) if batches else None,
        "rounds": int(told[-1]) if told else 0,
        "errors": errors,
        "writer_exit": ended,
    }


def rewrite(folder: Path, entities: int, tell: Callable[[str], None]) -> None:
    """Write the next round and materialize both views, until stdin is closed; tells each round's number."""
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(folder))
    number = 0
    tell("0")
    while not select.select([sys.stdin], [], [], 0)[0]:
        number += 1
        for view in ("left", "right"):
            write_round(folder, view, entities, number)
        store.materialize(NOW - timedelta(days=3650), NOW + timedelta(days=1), feature_views=["left", "right"])
        tell(str(number))


def write_round(folder: Path, view: str, entities: int, number: int) -> None:
    """A view's file of one round: every value is its number, and every event is later than the round before's."""
    import numpy
    import pandas

    frame: dict[str, Any] = {
        "entity": numpy.arange(entities, dtype="int64"),
        "event_time": pandas.Timestamp(NOW - timedelta(days=1) + timedelta(seconds=number)),
    }
    frame |= {name: numpy.full(entities, float(number)) for name in FEATURES}
    partial = folder / f".{view}.parquet"
    pandas.DataFrame(frame).to_parquet(partial, index=False)
    partial.replace(folder / f"{view}.parquet")


def serve(tell: Callable[[str], None]) -> int:
    """Answer requests until stdin ends."""
    repositories: dict[str, Repository] = {}

    def answered(request: dict[str, Any]) -> dict[str, Any]:
        match request["op"]:
            case "versions":
                import feast

                return {"feast": feast.__version__, "python": sys.version.split()[0]}
            case "repository":
                repositories[request["name"]] = Repository(request)
                return {"views": len(request["views"])}
            case "torn":
                return torn(request)
            case "materialize" | "online" | "history" as name:
                work: Callable[[dict[str, Any]], dict[str, Any]] = getattr(repositories[request["repository"]], name)
                return work(request)
            case other:
                return {"error": f"{other!r} is no operation"}

    for line in sys.stdin:
        request = json.loads(line)
        if request.get("op") == "quit":
            break
        try:
            answer = answered(request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:2_000]}
        tell(json.dumps(answer, default=str))
    return 0


def bench(options: argparse.Namespace, tell: Callable[[str], None]) -> int:
    """Feast by itself, on generated values."""
    import feast

    wanted = options.only or MEASURES
    entities, lookups, rows, points, seconds = SIZES[options.size]
    folder = options.folder or Path(tempfile.mkdtemp(prefix="feast-peer-"))

    def line(measure: str, found: dict[str, Any]) -> None:
        tell(json.dumps({"peer": "feast", "measure": measure, **found}))

    stores = {"sqlite": {}} | ({"redis": {"redis": options.redis}} if options.redis else {})
    try:
        line("versions", {"feast": feast.__version__, "python": sys.version.split()[0], "size": options.size})
        for store, place in stores.items():
            if {"materialize", "online"} & set(wanted):
                repository = generated(folder / store, {"store": store, **place}, entities, 1)
                found = repository.materialize({})
                if "materialize" in wanted:
                    line("materialize", {"store": store, "rows": entities, **found})
                for batch in (1, 100) if "online" in wanted else ():
                    calls = [
                        [{"entity": (turn * 131 + place * 997) % entities} for place in range(batch)]
                        for turn in range(lookups if batch == 1 else max(50, lookups // 10))
                    ]
                    line("online", {"store": store, "entities": batch, **repository.online({"calls": calls})})
            if "torn" in wanted:
                asked = {"folder": str(folder / f"{store}-torn"), "store": store, **place, "seconds": seconds}
                line("torn", {"store": store, **torn(asked)})
        for offline in ("dask", "duckdb") if "history" in wanted else ():
            repository = generated(folder / offline, {"offline": offline}, rows // 10, 10)
            write_points(folder / "points.parquet", rows // 10, points)
            line(
                "history",
                {"offline": offline, "rows": rows, **repository.history({"points": folder / "points.parquet"})},
            )
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def generated(folder: Path, request: dict[str, Any], entities: int, per_entity: int) -> Repository:
    """A repository of one view over random numbers."""
    import numpy
    import pandas

    folder.mkdir(parents=True)
    chance = numpy.random.default_rng(20)
    rows = entities * per_entity
    frame: dict[str, Any] = {
        "entity": numpy.tile(numpy.arange(entities, dtype="int64"), per_entity),
        "event_time": pandas.Timestamp(NOW) - pandas.to_timedelta(chance.integers(60, 25 * 86_400, rows), unit="s"),
    }
    frame |= {name: chance.random(rows) for name in FEATURES}
    pandas.DataFrame(frame).to_parquet(folder / "one.parquet", index=False)
    view = {
        "name": "one",
        "path": str(folder / "one.parquet"),
        "keys": ["entity"],
        "event_time": "event_time",
        "features": FEATURES,
    }
    return Repository({"name": f"bench_{folder.name}", "folder": str(folder), **request, "views": [view]})


def write_points(file: Path, entities: int, points: int) -> None:
    """Entities and moments to join at."""
    import numpy
    import pandas

    chance = numpy.random.default_rng(21)
    ago = pandas.to_timedelta(chance.integers(0, 20 * 86_400, points), unit="s")
    pandas.DataFrame(
        {"entity": chance.integers(0, entities, points), "event_timestamp": pandas.Timestamp(NOW) - ago}
    ).to_parquet(file, index=False)


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


def forget_peak() -> None:
    """Begin to measure the highest resident size anew, where the kernel lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak() -> float:
    """Highest resident memory of this process since :func:`forget_peak`, in MB."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    except OSError:
        pass
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def main() -> int:
    """Do what was asked for; exit code 3 when Feast is not there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    alone = commands.add_parser("bench")
    alone.add_argument("--size", choices=SIZES, default="demo")
    alone.add_argument("--redis", metavar="HOST:PORT", help="a Redis of its own for the Redis online store")
    alone.add_argument("--only", choices=MEASURES, action="append")
    alone.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    commands.add_parser("serve")
    writing = commands.add_parser("rewrite")
    writing.add_argument("folder", type=Path)
    writing.add_argument("--entities", type=int, required=True)
    options = parser.parse_args()
    try:
        import feast  # noqa: F401
    except ImportError as error:
        sys.stderr.write(f"{sys.executable} has no Feast: {error}\n")
        return 3
    # Feast prints progress to stdout, which is ours for results.
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(line: str) -> None:
        results.write(line + "\n")
        results.flush()

    if options.command == "serve":
        return serve(tell)
    if options.command == "rewrite":
        rewrite(options.folder, options.entities, tell)
        return 0
    return bench(options, tell)


if __name__ == "__main__":
    sys.exit(main())
