"""Text of a pruning: removed snapshots, or those that would be removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from antiphon.cli.output import table

if TYPE_CHECKING:
    from antiphon.features.publication.prune import PruneResult, SnapshotLine

_KEPT_LINES = 20


def pruned(found: PruneResult) -> str:
    """Lists removed snapshots, then those that stay and their pins."""
    goes = "would go" if found.dry else "went"
    parts = [found.summary() or "nothing", f"{goes}."]
    lines = [" ".join(parts)]
    if found.dry and (found.lake or found.online):
        lines.append("Files and builds that were written within the last hour are spared.")
    if found.snapshots:
        lines += ["", table(("goes", "view", "as of", "bytes"), [_line(one) for one in found.snapshots])]
    if found.expired:
        rows = [(one.verdict, one.view, f"{one.kept_since:%Y-%m-%d %H:%M:%SZ}") for one in found.expired]
        lines += ["", table(("rows expire", "view", "kept aside since"), rows)]
    if found.kept:
        kept = [(*_line(one), "; ".join(f"{pin.kind} {pin.what}" for pin in one.pins)) for one in found.kept]
        lines += ["", table(("stays", "view", "as of", "bytes", "pinned by"), kept[:_KEPT_LINES])]
        if len(kept) > _KEPT_LINES:
            lines.append(f"{len(kept) - _KEPT_LINES} more stay; --json lists them all.")
    if found.datasets:
        lines.append(f"{found.datasets} files stay for datasets.")
    return "\n".join(lines)


def _line(one: SnapshotLine) -> tuple[object, ...]:
    return one.snapshot, f"{one.view}@{one.definition_version[:8]}", f"{one.as_of:%Y-%m-%d %H:%M:%SZ}", one.bytes
