"""The kinds that are held out, and their truth."""

from __future__ import annotations

from benchmarks.operations.faults.kind import CATALOG, ENGINE, GATEWAY, HOST, STORE, WORKER, FaultKind
from benchmarks.operations.faults.kind import fault_kind as _kind

from antiphon.catalog.incidents import NO_CAUSE

_OPENED = "source/opened"

HELD_OUT: tuple[FaultKind, ...] = (
    _kind("forgotten_listener", "infrastructure", GATEWAY),
    _kind("gateway_waits_for_memory", "infrastructure", GATEWAY),
    _kind("engine_link_garbled", "infrastructure", ENGINE),
    _kind("engine_link_lags", "infrastructure", ENGINE),
    _kind("file_system_read_only", "infrastructure", HOST),
    _kind("worker_file_size_limited", "infrastructure", WORKER, seconds=60.0, felt="data"),
    _kind("catalog_table_renamed", "infrastructure", CATALOG),
    _kind("wrong_disk_mounted", "infrastructure", STORE, seconds=40.0),
    _kind("settings_torn", "change", GATEWAY, seconds=40.0),
    _kind("body_limit_slipped", "change", GATEWAY, seconds=45.0),
    _kind("strict_guard", "change", "release/desk", ends="platform"),
    _kind("source_misdirected", "change", _OPENED, seconds=60.0, felt="data"),
    _kind("heading_lost", "data quality", _OPENED, seconds=60.0, felt="data"),
    _kind("columns_shifted", "data quality", _OPENED, seconds=60.0, felt="data"),
    _kind("customers_masked", "data quality", _OPENED, seconds=60.0, felt="data"),
    _kind("export_compressed", "data quality", _OPENED, seconds=60.0, felt="data"),
    _kind("retry_storm", "overload", "application/desk"),
    _kind("many_choices", "overload", "application/triage"),
    _kind("reports_pulled", "overload", GATEWAY),
    _kind("paths_scanned", "security", GATEWAY, felt="nobody"),
    _kind("newcomers", NO_CAUSE, felt="nobody"),
    _kind("disk_half_full", NO_CAUSE, felt="nobody", own_disk=True),
    _kind("quota_of_a_program", NO_CAUSE, felt="nobody"),
    _kind("catalog_looked_after", NO_CAUSE, felt="nobody"),
)
