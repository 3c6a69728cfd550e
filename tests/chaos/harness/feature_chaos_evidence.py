"""What is on disk after a kill of the feature platform, read from outside: SQLite, Parquet, LMDB or Redis, hashes.

Nothing of what it looks at is used to look: no repository, lake, store or evaluator of the product.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

Event = tuple[int, str, str, float, int, int]
"""Offset (0 for a row of the history), id, shop, amount, when it was ordered and since when it is known (µs)."""

_PRUNED, _STAGED = "SELECT id FROM snapshots WHERE pruned_at IS NOT NULL", "SELECT snapshot FROM staged_snapshots"
_EVENTS = "SELECT offset, event_time, available_at, payload FROM events ORDER BY offset"


class Found(msgspec.Struct, frozen=True):
    """The state between two lives.

    Attributes:
        publications: number to snapshots by ``view@version``, in order.
        manifests: snapshot id to manifest.
        pruned: snapshots whose files were given up; ``staged`` those that wait for the end of an embargo.
        named: files of the lake that something names to their SHA-256, by what names them.
        lake: files that are there to their SHA-256 and when they were written (seconds since 1970).
        online: sealed snapshots that are there, by (view, snapshot), to whether they are whole.
        written: sealed snapshots to when they were written.
        left: anything else in the lake and the online store that is neither, to when it was written.
        offsets: view key to the log offset that the overlay says was consumed.
        events: the stream's log.
    """

    publications: dict[int, dict[str, str]]
    manifests: dict[str, dict[str, Any]]
    pruned: frozenset[str]
    staged: frozenset[str]
    named: dict[str, tuple[str, str]]
    lake: dict[str, tuple[str, float]]
    online: dict[tuple[str, str], bool]
    written: dict[tuple[str, str], float]
    left: dict[str, float]
    offsets: dict[str, int]
    events: list[Event]


class Looker:
    """Looks at a project that nothing runs on."""

    def __init__(self, root: Path, redis: Any = None) -> None:
        self._directory = root / ".antiphon"
        self._redis = redis
        self._hashed: dict[tuple[str, int, int, int], str] = {}

    def look(self) -> Found:
        """Everything there is."""
        with closing(sqlite3.connect(f"file:{self._directory / 'catalog.db'}?mode=ro", uri=True)) as catalog:
            intact = catalog.execute("PRAGMA quick_check").fetchall()
            if intact != [("ok",)]:
                raise AssertionError(f"the catalog is damaged: {intact}")
            publications = {
                int(number): json.loads(snapshots)
                for number, snapshots in catalog.execute("SELECT number, snapshots FROM publications ORDER BY number")
            }
            manifests = {
                one: _opened(document) for one, document in catalog.execute("SELECT id, document FROM snapshots")
            }
            verdicts = {
                one: _opened(document)
                for one, document in catalog.execute("SELECT id, document FROM verdicts WHERE rows_expired_at IS NULL")
            }
            pruned, staged = (frozenset(one for (one,) in catalog.execute(asked)) for asked in (_PRUNED, _STAGED))
            datasets = {
                one: _opened(document) for one, document in catalog.execute("SELECT id, document FROM datasets")
            }
            events = [_event(*row) for row in catalog.execute(_EVENTS)]
        named = {
            file["path"]: (file["sha256"], one)
            for one, made in manifests.items()
            if one not in pruned
            for file in made["files"]
        }
        for one, verdict in verdicts.items():
            kept = (verdict.get("manifest") or {}).get("quarantined")
            if kept is not None:
                named[kept["file"]["path"]] = (kept["file"]["sha256"], one)
        named |= {made["path"]: (made["sha256"], one) for one, made in datasets.items()}
        lake = {
            str(path.relative_to(self._directory / "lake")): (self._sha256(path), path.stat().st_mtime)
            for path in (self._directory / "lake").glob("*/*/*/*")
            if path.is_file() and ".scratch" not in path.parts
        }
        left = {str(path): path.stat().st_mtime for path in (self._directory / "lake" / ".scratch").glob("*")}
        keys = {key for snapshots in publications.values() for key in snapshots}
        if self._redis is None:
            online, written, unfinished = self._sealed()
            offsets = self._embedded_offsets(keys)
        else:
            online, written, unfinished = self._sealed_in_redis()
            offsets = self._redis_offsets(keys)
        return Found(
            publications, manifests, pruned, staged, named, lake, online, written, left | unfinished, offsets, events
        )

    def _sealed(self) -> tuple[dict[tuple[str, str], bool], dict[tuple[str, str], float], dict[str, float]]:
        online, written, left = {}, {}, {}
        for path in (self._directory / "online").glob("*/*/*/*"):
            alone = path.suffix == ".seal" and not path.with_suffix("").exists()
            if alone or path.name.startswith(".") or path.suffix not in (".mdb", ".seal"):
                left[str(path)] = path.stat().st_mtime
            elif path.suffix == ".mdb":
                place = (path.parent.name, path.stem)
                seal = path.with_name(path.name + ".seal")
                written[place] = path.stat().st_mtime
                online[place] = seal.exists() and json.loads(seal.read_bytes())["sha256"] == self._sha256(path)
        return online, written, left

    def _sealed_in_redis(self) -> tuple[dict[tuple[str, str], bool], dict[tuple[str, str], float], dict[str, float]]:
        online, written, left = {}, {}, {}
        builds: dict[str, int] = {}
        for key in self._redis.scan_iter(count=1_000):
            parts = key.decode().split(":")
            if parts[2].startswith("@"):
                continue
            if len(parts) == 6 and parts[5] != "building":
                # A record each, or all finished rows in a hash, which has one more field while it is sealed.
                held = self._redis.hlen(key) - self._redis.hexists(key, "s") if parts[5] == "rows" else 1
                builds[":".join(parts[:5])] = builds.get(":".join(parts[:5]), 0) + held
            elif len(parts) == 5 and parts[4] == "seal":
                place = (parts[2], parts[3])
                seal = msgspec.msgpack.decode(self._redis.get(key))
                stored = self._redis.hget(f"{parts[0]}:{parts[1]}:@builds", f"{parts[2]}:{parts[3]}:{seal['build']}")
                written[place] = float(stored or 0)
                online[place] = seal["snapshot"] == parts[3]
                builds.setdefault(":".join([*parts[:4], seal["build"]]), 0)
        for build, values in builds.items():
            *_, view, snapshot, name = build.split(":")
            stored = self._redis.get(":".join(build.split(":")[:4]) + ":seal")
            sealed = msgspec.msgpack.decode(stored) if stored is not None else None
            if sealed is not None and sealed["build"] == name:
                online[view, snapshot] = online.get((view, snapshot), True) and values == sealed["values"]
            elif not self._redis.exists(f"{build}:building"):
                left[build] = 0.0
        return online, written, left

    def _embedded_offsets(self, keys: set[str]) -> dict[str, int]:
        import lmdb

        files = list((self._directory / "online").glob("*/*/overlay.mdb"))
        if not files:
            return {}
        with (
            lmdb.open(str(files[0]), subdir=False, readonly=True, max_dbs=0) as environment,
            environment.begin() as seen,
        ):
            found = {key: seen.get(b"o" + _short(key)) for key in keys}
        return {
            key: 0 if stored is None else min(offset for offset, *_ in msgspec.msgpack.decode(stored))
            for key, stored in found.items()
        }

    def _redis_offsets(self, keys: set[str]) -> dict[str, int]:
        """The least of a view's partitions, of which one that was never consumed has no record."""
        (where,) = list(self._redis.scan_iter(match="*:@overlay:progress")) or [None]
        if where is None:
            return {}
        found: dict[str, int] = {}
        for key in keys:
            stored = self._redis.hmget(where, [_short(key) + bytes([number]) for number in range(8)])
            found[key] = min(0 if one is None else msgspec.msgpack.decode(one)[0] for one in stored)
        return found

    def _sha256(self, path: Path) -> str:
        status = path.stat()
        known = (str(path), status.st_ino, status.st_mtime_ns, status.st_size)
        if known not in self._hashed:
            with path.open("rb") as stream:
                self._hashed[known] = hashlib.file_digest(stream, "sha256").hexdigest()
        return self._hashed[known]


def read_orders(path: Path) -> list[Event]:
    """The stream's history file, as events without an offset."""
    return [
        (0, row["order_id"], row["shop"], row["amount"], microseconds(row["ordered"]), microseconds(row["known"]))
        for row in _rows(path)
    ]


def read_stock(path: Path) -> tuple[str, list[tuple[str, int, int, int]]]:
    """One version of the table: its hash as manifests say it, and (shop, pieces, counted, known) of each row."""
    inner = hashlib.sha256(path.read_bytes()).digest()
    rows = [
        (row["shop"], row["pieces"], microseconds(row["counted"]), microseconds(row["known"])) for row in _rows(path)
    ]
    return hashlib.sha256(inner).hexdigest(), rows


def microseconds(at: datetime) -> int:
    """Since 1970."""
    return int(at.timestamp()) * 1_000_000 + at.microsecond


def _rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


def _event(offset: int, event_time: int, available_at: int, payload: bytes) -> Event:
    identity, content = _opened(payload)
    return offset, identity, content["shop"], content["amount"], event_time, available_at


def _opened(stored: bytes) -> Any:
    """A payload column is MessagePack ``[schema, codec, key id, bytes]`` with JSON inside."""
    return json.loads(msgspec.msgpack.decode(stored)[3])


def _short(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()[:8]
