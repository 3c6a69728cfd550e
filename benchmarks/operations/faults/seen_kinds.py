"""The kinds that are seen, and their truth.

The first ones are those of the first split: kinds of ``benchmarks/operations/incidents.py``, and others that were held
out until they were read. The second and the third ones were held out after them, until they were read as well.
"""

from __future__ import annotations

from benchmarks.operations.faults.kind import CATALOG, ENGINE, GATEWAY, HOST, STORE, WORKER, FaultKind
from benchmarks.operations.faults.kind import fault_kind as _kind

from antiphon.catalog.incidents import NO_CAUSE

_OPENED = "source/opened"

_FIRST: tuple[FaultKind, ...] = (
    _kind("engine_killed", "infrastructure", ENGINE, ends="platform", simulated="engine_killed"),
    _kind("engine_slow", "infrastructure", ENGINE, simulated="engine_slow"),
    _kind("gateway_killed", "infrastructure", GATEWAY, ends="platform", simulated="gateway_killed"),
    _kind(
        "worker_stopped",
        "infrastructure",
        WORKER,
        seconds=40.0,
        felt="data",
        ends="platform",
        simulated="worker_stopped",
    ),
    _kind("disk_full", "infrastructure", HOST, simulated="disk_full", own_disk=True),
    _kind("denial_attack", "security", GATEWAY, felt="nobody", simulated="denial_attack"),
    _kind("overload", "overload", "application/desk", simulated="overload"),
    _kind("bad_release", "change", "release/desk", ends="platform", simulated="bad_release"),
    _kind("source_refused", "data quality", "source/opened", seconds=60.0, felt="data", simulated="source_refused"),
    _kind("schema_changed", "data quality", "source/opened", seconds=60.0, felt="data", simulated="schema_changed"),
    _kind("peak_within_capacity", NO_CAUSE, felt="nobody", simulated="peak_within_capacity"),
    _kind("callers_mistakes", NO_CAUSE, felt="nobody", simulated="callers_mistakes"),
    _kind("engine_frozen", "infrastructure", ENGINE, ends="platform"),
    _kind("engine_flapping", "infrastructure", ENGINE, ends="platform"),
    _kind("gateway_frozen", "infrastructure", GATEWAY, seconds=25.0, ends="platform"),
    _kind("gateway_without_descriptors", "infrastructure", GATEWAY),
    _kind("gateway_and_engine_killed", "infrastructure", GATEWAY, ENGINE, ends="platform"),
    _kind("catalog_locked", "infrastructure", CATALOG),
    _kind("processors_taken", "infrastructure", HOST),
    _kind("slow_template", "change", "release/triage", ends="platform"),
    _kind("source_gone", "data quality", "source/opened", seconds=60.0, felt="data"),
    _kind("source_cut_off", "data quality", "source/opened", seconds=60.0, felt="data"),
    _kind("rows_of_the_future", "data quality", "source/opened", seconds=60.0, felt="data"),
    _kind("online_files_gone", "infrastructure", STORE),
    _kind("callers_hang_up", NO_CAUSE, felt="nobody"),
    _kind("long_questions", NO_CAUSE, felt="nobody"),
    _kind("orderly_restart", NO_CAUSE, felt="nobody"),
)

_SECOND: tuple[FaultKind, ...] = (
    _kind("engine_crash_loop", "infrastructure", ENGINE, ends="platform"),
    _kind("gateway_crash_loop", "infrastructure", GATEWAY, ends="platform"),
    _kind("worker_crash_loop", "infrastructure", WORKER, seconds=45.0, felt="data", ends="platform"),
    _kind("everything_killed", "infrastructure", ENGINE, WORKER, GATEWAY, ends="platform"),
    _kind("engine_dies_beside_frozen_worker", "infrastructure", ENGINE, WORKER, ends="platform"),
    _kind("gateway_stutters", "infrastructure", GATEWAY),
    _kind("machine_pauses", "infrastructure", HOST),
    _kind("engine_starved", "infrastructure", ENGINE),
    _kind("gateway_starved", "infrastructure", GATEWAY),
    _kind("engine_socket_gone", "infrastructure", ENGINE, seconds=45.0, ends="platform"),
    _kind("inodes_gone", "infrastructure", HOST, seconds=60.0, felt="data", own_disk=True),
    _kind("catalog_locked_by_turns", "infrastructure", CATALOG),
    _kind("catalog_read_only", "infrastructure", CATALOG),
    _kind("online_store_read_only", "infrastructure", STORE, seconds=60.0, felt="data"),
    _kind("online_files_scribbled", "infrastructure", STORE, ends="platform"),
    _kind("online_files_cut", "infrastructure", STORE, ends="platform"),
    _kind("unreachable_schema", "change", "release/desk", ends="platform"),
    _kind("few_tokens", "change", "release/triage", ends="platform"),
    _kind("stop_text", "change", "release/desk", ends="platform"),
    _kind("endless_prompt", "change", "release/triage", ends="platform"),
    _kind("impatient_contract", "change", "release/desk", ends="platform"),
    _kind("room_for_one", "change", GATEWAY, seconds=45.0),
    _kind("source_emptied", "data quality", _OPENED, seconds=60.0, felt="data"),
    _kind("source_in_utf16", "data quality", _OPENED, seconds=60.0, felt="data"),
    _kind("source_is_an_error_page", "data quality", _OPENED, seconds=60.0, felt="data"),
    _kind("local_dates", "data quality", _OPENED, seconds=60.0, felt="data"),
    _kind("one_customer_left", "data quality", _OPENED, seconds=60.0, felt="data"),
    _kind("everybody_comes", "overload", "application/desk", "application/triage"),
    _kind("triage_campaign", "overload", "application/triage"),
    _kind("overload_in_waves", "overload", "application/desk"),
    _kind("documents_pasted", "overload", "application/triage"),
    _kind("keys_tried", "security", GATEWAY, felt="nobody"),
    _kind("forbidden_doors", "security", GATEWAY, felt="nobody"),
    _kind("slow_heads", "security", GATEWAY, felt="nobody"),
    _kind("quiet_hour", NO_CAUSE, felt="nobody"),
    _kind("small_bursts", NO_CAUSE, felt="nobody"),
    _kind("expired_key", NO_CAUSE, felt="nobody"),
    _kind("screens_on_the_wall", NO_CAUSE, felt="nobody"),
    _kind("tickets_come_in", NO_CAUSE, felt="nobody"),
    _kind("orders_come_in", NO_CAUSE, felt="nobody"),
    _kind("harmless_apply", NO_CAUSE, felt="nobody"),
    _kind("table_answered_beside", NO_CAUSE, felt="nobody"),
    _kind("backup_taken", NO_CAUSE, felt="nobody"),
    _kind("audited", NO_CAUSE, felt="nobody"),
    _kind("engine_restarted", NO_CAUSE, felt="nobody"),
    _kind("logs_cleared", NO_CAUSE, felt="nobody"),
    _kind("compiled_beside", NO_CAUSE, felt="nobody"),
)

_THIRD: tuple[FaultKind, ...] = (
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

SEEN: tuple[FaultKind, ...] = (*_FIRST, *_SECOND, *_THIRD)
