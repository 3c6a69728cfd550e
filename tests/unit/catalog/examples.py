"""Values and databases that tests of the catalog, and of what stands on it, begin with."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.catalogs import catalog_url

from antiphon.catalog.database import Database
from antiphon.catalog.features.snapshot_facts import Statistics
from antiphon.catalog.features.snapshots import SnapshotFile, SnapshotManifest
from antiphon.catalog.releases.releases import Bundle, ModelPin
from antiphon.catalog.serving.answers import StoredAnswer
from antiphon.catalog.serving.receipt import (
    CacheReceipt,
    PolicyReceipt,
    Receipt,
    Timing,
    UsageReceipt,
)
from antiphon.core.clock import Clock
from antiphon.core.scope import Scope
from antiphon.definitions.application import SLO, ApplicationSpec, Decoding, Reuse
from antiphon.definitions.learning import Rollout
from antiphon.definitions.prompt import Prompt

NOON = datetime(2013, 4, 10, 12, tzinfo=UTC)
DEV = Scope()
OTHER = Scope("other", "dev")


def open_database(folder: Path, clock: Clock | None = None) -> Database:
    database = Database.open(catalog_url(folder), clock=clock)
    database.migrate()
    return database


def application(name: str = "desk", **fields: Any) -> ApplicationSpec:
    given: dict[str, Any] = {
        "features": {"congestion": "0123456789abcdef"},
        "entity_keys": ("origin",),
        "prompt": Prompt("Late?"),
        "model": "smollm2-135m",
        "decoding": Decoding(),
        "output_schema": None,
        "classes": (),
        "figures": (),
        "guards": (),
        "freshness": {},
        "reuse": Reuse(),
        "slo": SLO(),
        "rollout": Rollout(),
        "purpose": "inform",
        "owner": "ops",
    }
    return ApplicationSpec(name=name, **(given | fields))


def bundle(name: str = "desk", **fields: Any) -> Bundle:
    spec = application(name, **fields)
    return Bundle(application=spec, model=ModelPin(spec.model, "ab" * 32), policy_digest="p")


def manifest(snapshot: str, scope: Scope = DEV, as_of: datetime = NOON, **fields: Any) -> SnapshotManifest:
    given: dict[str, Any] = {
        "view": "congestion",
        "definition_version": "v1",
        "files": (SnapshotFile("congestion/a.parquet", "aa", 3, 100),),
        "logical_hash": "lh",
        "rows_in": 10,
        "rows_out": 3,
        "rows_rejected": 1,
        "source": "departures",
        "source_hash": "sh",
        "created_at": NOON,
        "statistics": {"delay_2h": Statistics(rows=3, null_share=0.0, mean=1.5)},
    }
    return SnapshotManifest(id=snapshot, scope=scope, as_of=as_of, **(given | fields))


def receipt(prediction: str, scope: Scope = DEV, created_at: datetime = NOON, **fields: Any) -> Receipt:
    given: dict[str, Any] = {
        "request": "req",
        "trace": "0" * 32,
        "application": "desk",
        "release": "rel_1",
        "path": "online",
        "principal": "me",
        "originating_user": None,
        "purpose": "inform",
        "subject": "5b",
        "entity_blob": "e",
        "exposure_unit": "5b",
        "assignment_probability": 1.0,
        "policy": PolicyReceipt("allow", "d"),
        "publication": 1,
        "as_of": NOON,
        "features": (),
        "feature_fingerprint": "ff",
        "question_blob": None,
        "attempts": (),
        "text_blob": "t",
        "finish_reason": "stop",
        "classes": {},
        "guards": (),
        "cache": CacheReceipt("generated"),
        "usage": UsageReceipt(prompt_tokens=3),
        "timing": Timing(),
    }
    return Receipt(prediction=prediction, scope=scope, created_at=created_at, **(given | fields))


def answer(prediction: str, as_of: datetime = NOON, **fields: Any) -> StoredAnswer:
    given: dict[str, Any] = {
        "scope": DEV,
        "release": "rel_1",
        "subject": "5b",
        "question_hash": "q",
        "fingerprint": "f",
        "prompt_key": "k",
        "text_blob": "t",
        "finish_reason": "stop",
        "classes": {"outlook": {"on_time": 0.75}},
        "usage": UsageReceipt(),
        "seconds": 0.5,
        "origin_path": "batch",
        "made_path": "batch",
    }
    return StoredAnswer(prediction=prediction, as_of=as_of, **(given | fields))
