"""The kinds of faults, which of them are held out, and their truth; written before the first run.

:data:`SEEN` are the kinds whose results somebody has read who changes detectors: detectors may be changed for these.
Some of them are kinds of ``benchmarks/operations/incidents.py`` too; the others were held out until they were read.
:data:`HELD_OUT` (``held_out.py``) were written by somebody who had not read the detectors, and their results are read
once: a kind that was read and worked on becomes a seen one. Seeds of one are no seeds of the other. The truth is what a
person with access to everything would say after the fault, from what the injector did and not from what the platform
measures.
"""

from __future__ import annotations

from benchmarks.operations.faults.held_out import HELD_OUT
from benchmarks.operations.faults.kind import CATALOG, ENGINE, GATEWAY, HOST, STORE, WORKER, FaultKind
from benchmarks.operations.faults.kind import fault_kind as _kind

from antiphon.catalog.incidents import NO_CAUSE

FIRST_SEED_SEEN, FIRST_SEED_HELD_OUT = 20_000, 90_000

SEEN: tuple[FaultKind, ...] = (
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

KINDS = {one.name: one for one in (*SEEN, *HELD_OUT)}

CI = ("engine_killed", "callers_mistakes")
"""Kinds of the short form."""


def held_out(kind: str) -> bool:
    """Tells whether detectors may not be changed for a kind."""
    return any(one.name == kind for one in HELD_OUT)


def seed_of(kind: str, number: int) -> int:
    """The seed of a kind's case of a number."""
    return (FIRST_SEED_HELD_OUT if held_out(kind) else FIRST_SEED_SEEN) + number
