"""The playbooks that every project has without declaring one."""

from __future__ import annotations

from collections.abc import Mapping

from antiphon.definitions.playbooks import PlaybookSpec, PlaybookStep

_SHIPPED = (
    PlaybookSpec(
        "rerun-refresh",
        "Run a refresh that failed again",
        (PlaybookStep("rerun-refresh", wait="10s"),),
        classes=("data quality", "infrastructure", "no cause found"),
        signals=("refresh_failed", "run_failed"),
        mode="alone",
    ),
    PlaybookSpec(
        "restart-engine",
        "Restart an engine that stands still or has become slow",
        (PlaybookStep("restart-engine", most_per_hour=2),),
        classes=("infrastructure",),
        roots=("engine",),
        signals=("standstill", "silent", "pace", "memory", "breaker"),
        severity="warning",
        mode="alone",
    ),
    PlaybookSpec(
        "freeze-batch",
        "Freeze batch work while users wait",
        (PlaybookStep("freeze", ("incident-lasts", "no-freeze"), duration="1h"),),
        classes=("overload",),
        severity="warning",
        mode="alone",
    ),
    PlaybookSpec(
        "roll-back-features",
        "Publish the last good snapshot of a view again, and hold it",
        (PlaybookStep("roll-back-view"),),
        classes=("data quality",),
        roots=("view",),
        signals=("warned",),
        severity="warning",
    ),
    PlaybookSpec(
        "roll-back-release",
        "Roll back a release that users suffer from",
        (PlaybookStep("roll-back-release", ("incident-lasts", "no-rollout"), most_per_hour=1),),
        classes=("change",),
        roots=("release",),
        signals=("released",),
        severity="warning",
    ),
    PlaybookSpec(
        "page-person",
        "Page a person when nobody has taken a critical incident",
        (PlaybookStep("page", ("incident-lasts", "no-owner"), wait="10m", most_per_hour=20),),
        severity="critical",
        mode="alone",
    ),
)

SHIPPED: Mapping[str, PlaybookSpec] = {one.name: one for one in _SHIPPED}


def all_playbooks(declared: Mapping[str, PlaybookSpec]) -> Mapping[str, PlaybookSpec]:
    """Shipped and declared playbooks by name; a declared one takes the place of a shipped one."""
    return dict(sorted({**SHIPPED, **declared}.items()))
