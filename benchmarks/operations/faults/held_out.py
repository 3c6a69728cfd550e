"""The kinds that are held out, and their truth."""

from __future__ import annotations

from benchmarks.operations.faults.kind import CATALOG, ENGINE, GATEWAY, HOST, WORKER, FaultKind
from benchmarks.operations.faults.kind import fault_kind as _kind

from antiphon.catalog.incidents import NO_CAUSE

_OPENED = "source/opened"

HELD_OUT: tuple[FaultKind, ...] = (
    _kind("packets_lost", "infrastructure", GATEWAY),
    _kind("engine_connections_broken", "infrastructure", ENGINE),
    _kind("engine_dies_unattended", "infrastructure", ENGINE),
    _kind("engine_thread_stuck", "infrastructure", ENGINE),
    _kind("disk_slow", "infrastructure", HOST),
    _kind("disk_errors", "infrastructure", HOST),
    _kind("catalog_schema_malformed", "infrastructure", CATALOG),
    _kind("lease_of_a_lost_machine", "infrastructure", WORKER, seconds=60.0, felt="data"),
    _kind("refresh_switched_off", "change", WORKER, seconds=60.0, felt="data"),
    _kind("budget_slipped", "change", "application/desk"),
    _kind("store_alone", "change", "application/triage"),
    _kind("second_key_needed", "change", "release/triage", ends="platform"),
    _kind("written_in_parts", "data quality", _OPENED, seconds=60.0, felt="data"),
    _kind("source_hangs", "data quality", _OPENED, seconds=60.0, felt="data"),
    _kind("texts_unquoted", "data quality", _OPENED, seconds=60.0, felt="data"),
    _kind("old_export_restored", "data quality", _OPENED, seconds=60.0, felt="data"),
    _kind("mail_loop", "overload", "application/triage"),
    _kind("lookups_pulled", "overload", GATEWAY),
    _kind("requests_smuggled", "security", GATEWAY, felt="nobody"),
    _kind("ids_guessed", "security", GATEWAY, felt="nobody"),
    _kind("column_added", NO_CAUSE, felt="nobody"),
    _kind("probes_of_a_balancer", NO_CAUSE, felt="nobody"),
    _kind("report_reads_catalog", NO_CAUSE, felt="nobody"),
    _kind("orders_sent_again", NO_CAUSE, felt="nobody"),
)
