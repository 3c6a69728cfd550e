"""Watches of live releases: evidence since they went live, and what was decided by it."""

from __future__ import annotations

import msgspec

from antiphon.catalog.releases.watches import WatchDecision
from antiphon.gateway.http.bounds import Few
from antiphon.gateway.operation import OperationCall, operation
from antiphon.services.watching.report import ReleaseWatchReport


class WatchDecisionQuery(msgspec.Struct, frozen=True):
    """So many decisions, of one application or of all."""

    application: str | None = None
    limit: Few = 50


class WatchDecisionList(msgspec.Struct, frozen=True):
    """The latest first."""

    decisions: tuple[WatchDecision, ...]


@operation("GET", "/admin/watches", "Decisions about live releases, the latest first.", "read")
def _decisions(call: OperationCall, query: WatchDecisionQuery) -> WatchDecisionList:
    return WatchDecisionList(call.services.work.watches(call.scope).decisions(query.application, query.limit))


@operation("GET", "/admin/watches/{release}", "What is watched of a release, with its evidence and decisions.", "read")
def _watch(call: OperationCall) -> ReleaseWatchReport:
    return call.services.work.watches(call.scope).of_release(call.path["release"])
