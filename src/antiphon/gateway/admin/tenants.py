"""Tenants of the installation, for administrators of the tenant that runs it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from antiphon.gateway.admin.shapes import ReasonRequest, read, read_all
from antiphon.gateway.operation import OperationCall, operation


class NewTenant(msgspec.Struct, frozen=True):
    """The name of a new tenant."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class TenantDeletion(msgspec.Struct, frozen=True):
    """The reason, for the record; ``force`` deletes it also while something of it is served."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]
    force: bool = False


class TenantLine(msgspec.Struct, frozen=True):
    """A tenant and who gave it its state, when and why."""

    id: str
    state: Literal["active", "suspended", "deleted"]
    reason: str
    changed_by: str | None
    changed_at: datetime | None


class TenantList(msgspec.Struct, frozen=True):
    """By name."""

    tenants: tuple[TenantLine, ...]


@operation("GET", "/admin/tenants", "List tenants.", "administer")
def _list(call: OperationCall) -> TenantList:
    return TenantList(read_all(call.services.access.tenants.list(by=call.principal), TenantLine))


@operation("POST", "/admin/tenants", "Make a tenant.", "administer", status=201)
def _create(call: OperationCall, body: NewTenant) -> TenantLine:
    return read(call.services.access.tenants.create(body.name, by=call.principal), TenantLine)


@operation(
    "POST", "/admin/tenants/{tenant}/suspend", "Refuse a tenant's requests, and claim none of its runs.", "administer"
)
def _suspend(call: OperationCall, body: ReasonRequest) -> TenantLine:
    suspend = call.services.access.tenants.suspend
    return read(suspend(call.path["tenant"], reason=body.reason, by=call.principal), TenantLine)


@operation("POST", "/admin/tenants/{tenant}/resume", "Let a suspended tenant go on.", "administer")
def _resume(call: OperationCall, body: ReasonRequest) -> TenantLine:
    resume = call.services.access.tenants.resume
    return read(resume(call.path["tenant"], reason=body.reason, by=call.principal), TenantLine)


@operation(
    "POST", "/admin/tenants/{tenant}/delete", "Refuse a tenant's requests for good and cancel its runs.", "administer"
)
def _delete(call: OperationCall, body: TenantDeletion) -> TenantLine:
    delete = call.services.access.tenants.delete
    deleted = delete(call.path["tenant"], reason=body.reason, by=call.principal, force=body.force)
    return read(deleted, TenantLine)
