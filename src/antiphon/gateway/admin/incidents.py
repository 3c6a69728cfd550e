"""Incidents: read, taken, noted, silenced and resolved."""

from __future__ import annotations

import msgspec

from antiphon.catalog.incidents import Incident, IncidentState
from antiphon.gateway.admin.shapes import ReasonRequest
from antiphon.gateway.http.bounds import Few
from antiphon.gateway.operation import OperationCall, operation
from antiphon.services.incidents.project import ProjectIncidents


class IncidentList(msgspec.Struct, frozen=True):
    """The latest first."""

    incidents: tuple[Incident, ...]


class IncidentQuery(msgspec.Struct, frozen=True):
    """So many incidents of one state; without one, those that are not resolved, or ``all``."""

    limit: Few = 50
    state: IncidentState | None = None
    all: bool = False


class IncidentReport(msgspec.Struct, frozen=True):
    """The draft of a post-mortem."""

    markdown: str


class OwnerRequest(msgspec.Struct, frozen=True):
    """Name of a principal or a person."""

    owner: str


class NoteRequest(msgspec.Struct, frozen=True):
    """A note in plain text."""

    text: str


class SilenceRequest(msgspec.Struct, frozen=True):
    """Duration of a silence, such as ``2h``."""

    duration: str
    reason: str


@operation("GET", "/admin/incidents", "List incidents.", "read")
def _list(call: OperationCall, query: IncidentQuery) -> IncidentList:
    return IncidentList(incidents_of(call).list(state=query.state, all=query.all, limit=query.limit))


@operation("GET", "/admin/incidents/{incident}", "One incident with its causes, evidence and timeline.", "read")
def _show(call: OperationCall) -> Incident:
    return incidents_of(call).get(call.path["incident"])


@operation("GET", "/admin/incidents/{incident}/report", "The draft of its post-mortem.", "read")
def _report(call: OperationCall) -> IncidentReport:
    return IncidentReport(incidents_of(call).report(call.path["incident"]))


@operation("POST", "/admin/incidents/{incident}/acknowledge", "Take an incident.", "release")
def _acknowledge(call: OperationCall) -> Incident:
    return incidents_of(call).acknowledge(call.path["incident"], call.principal.id)


@operation("POST", "/admin/incidents/{incident}/assign", "Give an incident to an owner.", "release")
def _assign(call: OperationCall, body: OwnerRequest) -> Incident:
    return incidents_of(call).assign(call.path["incident"], body.owner, call.principal.id)


@operation("POST", "/admin/incidents/{incident}/note", "Add a note to an incident.", "release")
def _note(call: OperationCall, body: NoteRequest) -> Incident:
    return incidents_of(call).note(call.path["incident"], body.text, call.principal.id)


@operation("POST", "/admin/incidents/{incident}/silence", "Say nothing of an incident for a while.", "release")
def _silence(call: OperationCall, body: SilenceRequest) -> Incident:
    return incidents_of(call).silence(call.path["incident"], body.duration, body.reason, call.principal.id)


@operation("POST", "/admin/incidents/{incident}/resolve", "End an incident.", "release")
def _resolve(call: OperationCall, body: ReasonRequest) -> Incident:
    return incidents_of(call).resolve(call.path["incident"], body.reason, call.principal.id)


def incidents_of(call: OperationCall) -> ProjectIncidents:
    """The incidents as the caller may read them: applications that policy keeps from them are not named."""
    found: ProjectIncidents = call.services.work.incidents(call.scope)
    return found.of_reader(lambda name: call.may("read", f"application/{name}"))
