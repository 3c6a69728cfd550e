"""Playbooks: listed, rehearsed, begun, approved, rejected, tested and allowed."""

from __future__ import annotations

import msgspec

from antiphon.catalog.playbooks import PlaybookPermission, PlaybookRun, incident_of, run_id
from antiphon.gateway.admin.incidents import incidents_of
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
    return PlaybookList(tuple(_line(call, one) for one in _playbooks(call).list()))


@operation("GET", "/admin/playbooks/{playbook}", "One playbook with its steps and backtest.", "read")
def _show(call: OperationCall) -> PlaybookLine:
    return _line(call, _playbooks(call).show(call.path["playbook"]))


@operation("GET", "/admin/playbooks/{playbook}/backtest", "The backtest on the recorded incidents.", "read")
def _test(call: OperationCall) -> Backtest:
    return _read(call, _playbooks(call).test(call.path["playbook"]))


@operation("GET", "/admin/playbooks/{playbook}/rehearsal/{incident}", "What it would do about an incident.", "read")
def _rehearse(call: OperationCall) -> PlaybookRehearsal:
    said = incidents_of(call).require(call.path["incident"]).said
    found = _playbooks(call).rehearse(call.path["playbook"], call.path["incident"])
    return msgspec.structs.replace(
        found, cause=said(found.cause), steps=tuple(map(said, found.steps)), waits=said(found.waits),
        hindrances=tuple(map(said, found.hindrances)),
    )  # fmt: skip


@operation("POST", "/admin/playbooks/{playbook}/run/{incident}", "Begin a playbook for an incident.", "release")
def _run(call: OperationCall, body: ReasonRequest) -> PlaybookRun:
    name, incident = call.path["playbook"], call.path["incident"]
    readable = incidents_of(call).require(incident)
    _require_keys(call, run_id(incident, name))
    return readable.acted([_playbooks(call).run(name, incident, call.principal.id, body.reason)])[0]


@operation("POST", "/admin/playbooks/{playbook}/permission", "Let a playbook act alone, or forbid it.", "administer")
def _allow(call: OperationCall, body: PermissionRequest) -> PlaybookPermission:
    return _playbooks(call).allow(call.path["playbook"], call.principal.id, body.reason, alone=body.alone)


@operation("GET", "/admin/playbook-runs", "List runs of playbooks.", "read")
def _runs(call: OperationCall, query: PlaybookRunQuery) -> PlaybookRunList:
    found = _playbooks(call).runs(playbook=query.playbook, incident=query.incident, limit=query.limit)
    return PlaybookRunList(incidents_of(call).acted(found))


@operation("POST", "/admin/playbook-runs/{playbook_run}/approve", "Let a run that waits begin.", "release")
def _approve(call: OperationCall, body: ReasonRequest) -> PlaybookRun:
    run = call.path["playbook_run"]
    readable = incidents_of(call).require(incident_of(run))
    _require_keys(call, run)
    return readable.acted([_playbooks(call).approve(run, call.principal.id, body.reason)])[0]


@operation("POST", "/admin/playbook-runs/{playbook_run}/reject", "Keep a run that waits from beginning.", "release")
def _reject(call: OperationCall, body: ReasonRequest) -> PlaybookRun:
    run = call.path["playbook_run"]
    readable = incidents_of(call).require(incident_of(run))
    return readable.acted([_playbooks(call).reject(run, call.principal.id, body.reason)])[0]


def _require_keys(call: OperationCall, run: str) -> None:
    """Raises ``ForbiddenError`` for those who may not administer each key that a run would rotate."""
    for key in _playbooks(call).keys(run):
        call.services.access.authorize(call.principal, "administer", key)


def _line(call: OperationCall, line: PlaybookLine) -> PlaybookLine:
    return msgspec.structs.replace(line, backtest=_read(call, line.backtest))


def _read(call: OperationCall, found: Backtest) -> Backtest:
    said = incidents_of(call).said
    return msgspec.structs.replace(
        found,
        cases=tuple(
            msgspec.structs.replace(
                one, title=said(one.title), components=tuple(map(said, one.components)),
                innocent=tuple(map(said, one.innocent)),
            )
            for one in found.cases
        ),
    )  # fmt: skip


def _playbooks(call: OperationCall) -> ProjectPlaybooks:
    return call.services.work.playbooks(call.scope)
