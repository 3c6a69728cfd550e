"""Grants: views and models that a tenant lets others use, and those of others that it may use."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from antiphon.gateway.admin.shapes import read
from antiphon.gateway.operation import OperationCall, operation
from antiphon.governance.identity.grants import GrantKind
from antiphon.governance.identity.principal import Clearance

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]


class GrantRequest(msgspec.Struct, frozen=True):
    """A view for another tenant to read, or a model version for it to ask, until a moment or until it is revoked; the
    reason is for the record."""

    name: Text
    grantee: Text
    reason: Text
    kind: GrantKind = "view"
    until: datetime | None = None
    clearance: Clearance = "internal"


class GrantRevocation(msgspec.Struct, frozen=True):
    """The grant that is taken away, and the reason, for the record."""

    name: Text
    grantee: Text
    reason: Text
    kind: GrantKind = "view"


class GrantLine(msgspec.Struct, frozen=True):
    """A grant: ``granted_name`` is how the grantee names it."""

    kind: str
    name: str
    granted_name: str
    grantee: str
    clearance: str
    reason: str
    made_by: str
    since: datetime
    until: datetime | None


class GrantList(msgspec.Struct, frozen=True):
    """Grants of the tenant to others, and of others to it."""

    given: tuple[GrantLine, ...]
    received: tuple[GrantLine, ...]


@operation("GET", "/admin/grants", "List grants to other tenants, and from them.", "administer")
def _list(call: OperationCall) -> GrantList:
    return read(call.services.access.tenants.grants.list(by=call.principal), GrantList)


@operation("POST", "/admin/grants", "Let another tenant read a view or ask a model.", "administer", status=201)
def _create(call: OperationCall, body: GrantRequest) -> GrantLine:
    made = call.services.access.tenants.grants.create(
        body.kind, body.name, body.grantee, reason=body.reason, by=call.principal, until=body.until,
        clearance=body.clearance,
    )  # fmt: skip
    return read(made, GrantLine)


@operation("POST", "/admin/grants/revoke", "Take a grant away.", "administer")
def _revoke(call: OperationCall, body: GrantRevocation) -> GrantLine:
    revoke = call.services.access.tenants.grants.revoke
    return read(revoke(body.kind, body.name, body.grantee, reason=body.reason, by=call.principal), GrantLine)
