"""What the kill harness finds afterwards, read from outside: SQL, files, JSON, none of the product's code.

A payload column is MessagePack ``[schema, codec, key id, bytes]`` with JSON inside; nothing more is known here.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg.rows import dict_row


class Acknowledged(msgspec.Struct, frozen=True):
    """A prediction whose response ended, as the client saw it. ``minimum`` is the publication it had asked for."""

    prediction: str
    publication: int | None
    text: str
    minimum: int | None = None


class Refused(msgspec.Struct, frozen=True):
    """A request that was answered with an error; ``code`` is ``None`` when the body was not of the error shape."""

    what: str
    status: int
    code: str | None
    message: str = ""


class OrderedJob(msgspec.Struct, frozen=True):
    """A batch job as the client ordered it: its input lines, in order, by their keys."""

    job: str
    lines: tuple[str, ...]
    output: Path


class FoundFile(msgspec.Struct, frozen=True):
    """A file that a manifest names: whether it is there, and whether its bytes are those that were recorded."""

    present: bool
    intact: bool


class Evidence(msgspec.Struct, frozen=True):
    """Everything the checks look at.

    ``events`` are (offset, event id, shop, amount) in order; ``settled`` are predictions that were asked for when
    nothing was under way any more, by shop. ``stale_commits`` are rows that were written under an epoch that had
    passed, ``complaints`` what commands of the product found wrong.
    """

    acknowledged: tuple[Acknowledged, ...] = ()
    refused: tuple[Refused, ...] = ()
    pushed: frozenset[str] = frozenset()
    jobs: tuple[OrderedJob, ...] = ()
    settled: dict[str, str] = {}
    receipts: dict[str, dict[str, Any]] = {}
    blobs: frozenset[str] = frozenset()
    publications: tuple[dict[str, Any], ...] = ()
    snapshots: dict[str, dict[str, Any]] = {}
    lake: dict[str, FoundFile] = {}
    online: dict[str, FoundFile] = {}
    events: tuple[tuple[int, str, str, int], ...] = ()
    job_status: dict[str, str] = {}
    jobs_by_input: dict[str, int] = {}
    job_rows: dict[str, tuple[tuple[int, dict[str, Any]], ...]] = {}
    outputs: dict[str, tuple[dict[str, Any], ...] | None] = {}
    left_running: tuple[str, ...] = ()
    stale_commits: tuple[dict[str, Any], ...] = ()
    complaints: tuple[str, ...] = ()


def read_catalog(directory: Path) -> dict[str, Any]:
    """The fields of :class:`Evidence` that come from a catalog in a file."""
    with closing(sqlite3.connect(f"file:{directory / 'catalog.db'}?mode=ro", uri=True)) as catalog:
        catalog.row_factory = sqlite3.Row
        return _found_in(catalog.execute)


def read_server(address: str) -> dict[str, Any]:
    """The same of a catalog on PostgreSQL, and what :mod:`chaos_triggers` has noted there."""
    with psycopg.connect(address, row_factory=dict_row) as connection:
        noted = connection.execute("SELECT to_regclass('chaos_stale_commits') AS there").fetchone()
        stale = "SELECT * FROM chaos_stale_commits ORDER BY at"
        return {
            **_found_in(connection.execute),
            "stale_commits": tuple(connection.execute(stale).fetchall()) if noted and noted["there"] else (),
        }


def _found_in(rows: Callable[[Any], Iterable[Any]]) -> dict[str, Any]:
    answered: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for row in rows("SELECT job, line, payload FROM job_rows ORDER BY job, line"):
        answered.setdefault(row["job"], []).append((row["line"], opened(row["payload"])))
    blobs = {row["hash"]: _content(row["payload"]) for row in rows("SELECT * FROM blobs WHERE payload IS NOT NULL")}
    return {
        "receipts": {
            row["prediction"]: _with_texts(blobs, opened(row["payload"]))
            for row in rows("SELECT prediction, payload FROM receipts")
        },
        "blobs": frozenset(name for name, content in blobs.items() if hashlib.sha256(content).hexdigest() == name),
        "publications": tuple(
            {"number": row["number"], "base": row["base"], "reason": row["reason"],
             "snapshots": json.loads(row["snapshots"])}
            for row in rows("SELECT * FROM publications ORDER BY number")
        ),
        "snapshots": {row["id"]: opened(row["document"]) for row in rows("SELECT id, document FROM snapshots")},
        "events": tuple(
            (row["offset"], event_id, payload["shop"], int(payload["amount"]))
            for row in rows('SELECT * FROM events ORDER BY stream, "offset"')
            for event_id, payload in (opened(row["payload"]),)
        ),
        "job_status": {row["id"]: row["status"] for row in rows("SELECT id, status FROM jobs")},
        "jobs_by_input": Counter(row["input"] for row in rows("SELECT input FROM jobs")),
        "job_rows": {job: tuple(found) for job, found in answered.items()},
    }  # fmt: skip


def read_files(directory: Path, snapshots: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The fields of :class:`Evidence` about the files that manifests name."""
    lake: dict[str, FoundFile] = {}
    online: dict[str, FoundFile] = {}
    for identity, manifest in snapshots.items():
        for file in manifest["files"]:
            path = directory / "lake" / file["path"]
            lake[f"{identity}/{file['path']}"] = _found(path, file["sha256"])
        scope = manifest["scope"]
        sealed = directory / "online" / scope["tenant"] / scope["environment"] / manifest["view"] / f"{identity}.mdb"
        seal = sealed.with_name(sealed.name + ".seal")
        recorded = json.loads(seal.read_bytes())["sha256"] if seal.exists() else None
        online[identity] = _found(sealed, recorded)
    return {"lake": lake, "online": online}


def read_outputs(jobs: tuple[OrderedJob, ...]) -> dict[str, tuple[dict[str, Any], ...] | None]:
    """Each job's output file as rows, ``None`` when there is no file."""
    return {
        job.job: tuple(json.loads(line) for line in job.output.read_text(encoding="utf-8").splitlines())
        if job.output.exists()
        else None
        for job in jobs
    }


def _found(path: Path, sha256: str | None) -> FoundFile:
    if not path.is_file():
        return FoundFile(False, False)
    with path.open("rb") as file:
        return FoundFile(True, hashlib.file_digest(file, "sha256").hexdigest() == sha256)


def _with_texts(blobs: Mapping[str, bytes], receipt: dict[str, Any]) -> dict[str, Any]:
    """The receipt with its entity, question and text as they are stored, ``None`` when they are not."""
    entity, text = blobs.get(receipt["entity_blob"]), blobs.get(receipt["text_blob"])
    question = blobs.get(receipt["question_blob"] or "")
    return {
        **receipt,
        "entity": json.loads(entity) if entity is not None else None,
        "question": question.decode() if question is not None else None,
        "text": text.decode() if text is not None else None,
    }


def opened(payload: bytes) -> Any:
    return json.loads(_content(payload))


def _content(payload: bytes) -> bytes:
    content = msgspec.msgpack.decode(payload)[3]
    assert isinstance(content, bytes)
    return content
