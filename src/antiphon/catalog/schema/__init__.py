"""Every table of the catalog, by noun. Instants are whole microseconds UTC; documents are JSON; payloads are envelopes.

All rows carry tenant and environment, and every key begins with them. Text ids are chosen by the writer, so that
rows can be copied between databases without renumbering.
"""

from __future__ import annotations

from antiphon.catalog.schema.answers import answers, blobs, job_rows, jobs, receipts
from antiphon.catalog.schema.audit import audit_entries, audit_heads, audit_nodes
from antiphon.catalog.schema.base import metadata, owned
from antiphon.catalog.schema.batches import batch_supply, batch_work, batches, files
from antiphon.catalog.schema.encryption import data_keys, encryption_modes, reencryptions
from antiphon.catalog.schema.features import (
    applied_projects,
    definition_versions,
    events,
    feature_holds,
    publications,
    skew_reports,
    snapshots,
    staged_snapshots,
    streams,
    verdicts,
)
from antiphon.catalog.schema.identity import api_keys, clock_marks, principals, quota_levels, sessions
from antiphon.catalog.schema.learning import datasets, evaluations, model_aliases, model_versions, outcomes
from antiphon.catalog.schema.policies import policy_moves, policy_requests, policy_versions
from antiphon.catalog.schema.releases import (
    exposures,
    judgements,
    release_pointers,
    release_stages,
    releases,
    rollout_moves,
    rollouts,
    shadow_pairs,
)
from antiphon.catalog.schema.runs import runs, steps

REVISION = "1"
"""The Alembic revision these tables are at."""

__all__ = [
    "REVISION",
    "answers",
    "api_keys",
    "applied_projects",
    "audit_entries",
    "audit_heads",
    "audit_nodes",
    "batch_supply",
    "batch_work",
    "batches",
    "blobs",
    "clock_marks",
    "data_keys",
    "datasets",
    "definition_versions",
    "encryption_modes",
    "evaluations",
    "events",
    "exposures",
    "feature_holds",
    "files",
    "job_rows",
    "jobs",
    "judgements",
    "metadata",
    "model_aliases",
    "model_versions",
    "outcomes",
    "owned",
    "policy_moves",
    "policy_requests",
    "policy_versions",
    "principals",
    "publications",
    "quota_levels",
    "receipts",
    "reencryptions",
    "release_pointers",
    "release_stages",
    "releases",
    "rollout_moves",
    "rollouts",
    "runs",
    "sessions",
    "shadow_pairs",
    "skew_reports",
    "snapshots",
    "staged_snapshots",
    "steps",
    "streams",
    "verdicts",
]
