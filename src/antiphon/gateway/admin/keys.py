"""API keys of the tenant."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.gateway.admin.shapes import (
    KeyAllowance,
    KeyLine,
    KeyList,
    KeyUse,
    NewKey,
    ReasonRequest,
    RotatedKey,
    read,
    read_all,
)
from antiphon.gateway.operation import OperationCall, operation
from antiphon.governance.identity.principal import Allowance, Limits, check_grant

Names = Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=240)], ...], msgspec.Meta(max_length=64)]


class Create(msgspec.Struct, frozen=True):
    """Principal, role and uses of a new key; empty lists confine it to nothing."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    role: Literal["admin", "engineer", "service", "viewer"]
    expires_at: datetime | None = None
    actions: Names = ()
    resources: Names = ()
    allowance: KeyAllowance = KeyAllowance()


class RotationRequest(msgspec.Struct, frozen=True):
    """For how long the present key holds beside the new one."""

    overlap: Annotated[str, msgspec.Meta(max_length=20)] = "1h"


@operation("GET", "/admin/keys", "List API keys.", "administer")
def _list(call: OperationCall) -> KeyList:
    return KeyList(read_all(call.services.access.identity.list(call.scope.tenant), KeyLine))


@operation(
    "POST",
    "/admin/keys",
    "Make an API key; it is shown once. Outside of dev a key for another principal waits for approval.",
    "administer",
    status=201,
)
def _create(call: OperationCall, body: Create) -> NewKey:
    limits, allowance = Limits(body.actions, body.resources), read(body.allowance, Allowance)
    check_grant(call.principal.limits, limits)
    key, record = call.services.access.identity.create(
        call.scope.tenant, body.name, body.role, body.expires_at, by=call.principal, limits=limits, allowance=allowance
    )
    return NewKey(key, read(record, KeyLine))


@operation("GET", "/admin/keys/{key}", "Show an API key's record.", "administer")
def _show(call: OperationCall) -> KeyLine:
    return read(call.services.access.identity.show(call.scope.tenant, call.path["key"]), KeyLine)


@operation("GET", "/admin/keys/{key}/use", "What a key may use and has used.", "administer")
def _use(call: OperationCall) -> KeyUse:
    record = call.services.access.identity.show(call.scope.tenant, call.path["key"])
    allowance: Allowance = record.allowance
    used = call.services.access.quotas.used(call.scope.tenant, allowance.bucket or record.id, allowance.meters)
    return KeyUse(read(allowance, KeyAllowance), {name: round(used[name]) for name in used})


@operation(
    "POST",
    "/admin/keys/{key}/allowance",
    "Give a key other quotas; in force within a second, and what it has used stays used.",
    "administer",
)
def _allow(call: OperationCall, body: KeyAllowance) -> KeyLine:
    tenant, allowance = call.scope.tenant, read(body, Allowance)
    return read(call.services.access.identity.allow(tenant, call.path["key"], allowance, by=call.principal.id), KeyLine)


@operation(
    "POST",
    "/admin/keys/{key}/rotate",
    "Make a key like this one (an id, or a principal with one key); this one expires after the overlap.",
    "administer",
    status=201,
)
def _rotate(call: OperationCall, body: RotationRequest) -> RotatedKey:
    identity, who, overlap = call.services.access.identity, call.principal, parse_duration(body.overlap)
    rotated = identity.rotate(call.scope.tenant, call.path["key"], overlap, by=who, granting=who.limits)
    return read(rotated, RotatedKey)


@operation("POST", "/admin/keys/{key}/approve", "Approve a key that another administrator made.", "approve")
def _approve(call: OperationCall, body: ReasonRequest) -> KeyLine:
    identity, tenant = call.services.access.identity, call.scope.tenant
    return read(identity.approve(tenant, call.path["key"], by=call.principal, reason=body.reason), KeyLine)


@operation("DELETE", "/admin/keys/{key}", "Revoke an API key; it stops working within a second.", "administer")
def _revoke(call: OperationCall) -> KeyLine:
    identity = call.services.access.identity
    return read(identity.revoke(call.scope.tenant, call.path["key"], by=call.principal.id), KeyLine)
