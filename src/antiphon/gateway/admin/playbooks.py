"""Playbooks: listed, rehearsed, begun, approved, rejected, tested and allowed."""

from __future__ import annotations

import msgspec

from antiphon.catalog.playbooks import PlaybookPermission, PlaybookRun, run_id
from antiphon.gateway.admin.shapes import ReasonRequest
from antiphon.gateway.http.bounds import Few
from antiphon.gateway.operation import OperationCall, operation
from antiphon.operations.playbooks.backtest import Backtest
from antiphon.services.playbooks.project import PlaybookLine, PlaybookRehearsal, ProjectPlaybooks


class PlaybookList(msgspec.Struct, frozen=True):
    """By name."""

    playbooks: tuple[PlaybookLine, ...]


class PlaybookRunList(msgspec.Struct, frozen=True):
    """The latest first."""

    runs: tuple[PlaybookRun, ...]


class PlaybookRunQuery(msgspec.Struct, frozen=True):
    """So many runs, of one playbook or for one incident."""

    limit: Few = 50
    playbook: str | None = None
    incident: str | None = None


class PermissionRequest(msgspec.Struct, frozen=True):
    """The permission to act alone, or its end, and the reason."""

    reason: str
    alone: bool = True


@operation("GET", "/admin/playbooks", "List playbooks.", "read")
def _list(call: OperationCall) -> PlaybookList:
    return PlaybookList(_playbooks(call).list())


@operation("GET", "/admin/playbooks/{playbook}", "One playbook with its steps and backtest.", "read")
def _show(call: OperationCall) -> PlaybookLine:
    return _playbooks(call).show(call.path["playbook"])


@operation("GET", "/admin/playbooks/{playbook}/backtest", "The backtest on the recorded incidents.", "read")
def _test(call: OperationCall) -> Backtest:
    return _playbooks(call).test(call.path["playbook"])


@operation("GET", "/admin/playbooks/{playbook}/rehearsal/{incident}", "What it would do about an incident.", "read")
def _rehearse(call: OperationCall) -> PlaybookRehearsal:
    return _playbooks(call).rehearse(call.path["playbook"], call.path["incident"])


@operation("POST", "/admin/playbooks/{playbook}/run/{incident}", "Begin a playbook for an incident.", "release")
def _run(call: OperationCall, body: ReasonRequest) -> PlaybookRun:
    name, incident = call.path["playbook"], call.path["incident"]
    _require_keys(call, run_id(incident, name))
    return _playbooks(call).run(name, incident, call.principal.id, body.reason)


@operation("POST", "/admin/playbooks/{playbook}/permission", "Let a playbook act alone, or forbid it.", "administer")
def _allow(call: OperationCall, body: PermissionRequest) -> PlaybookPermission:
    return _playbooks(call).allow(call.path["playbook"], call.principal.id, body.reason, alone=body.alone)


@operation("GET", "/admin/playbook-runs", "List runs of playbooks.", "read")
def _runs(call: OperationCall, query: PlaybookRunQuery) -> PlaybookRunList:
    found = _playbooks(call).runs(playbook=query.playbook, incident=query.incident, limit=query.limit)
    return PlaybookRunList(found)


@operation("POST", "/admin/playbook-runs/{playbook_run}/approve", "Let a run that waits begin.", "release")
def _approve(call: OperationCall, body: ReasonRequest) -> PlaybookRun:
    _require_keys(call, call.path["playbook_run"])
    return _playbooks(call).approve(call.path["playbook_run"], call.principal.id, body.reason)


@operation("POST", "/admin/playbook-runs/{playbook_run}/reject", "Keep a run that waits from beginning.", "release")
def _reject(call: OperationCall, body: ReasonRequest) -> PlaybookRun:
    return _playbooks(call).reject(call.path["playbook_run"], call.principal.id, body.reason)


def _require_keys(call: OperationCall, run: str) -> None:
    """Raises ``ForbiddenError`` for those who may not administer each key that a run would rotate."""
    for key in _playbooks(call).keys(run):
        call.services.access.authorize(call.principal, "administer", key)


def _playbooks(call: OperationCall) -> ProjectPlaybooks:
    return call.services.work.playbooks(call.scope)
