"""API keys of the tenant."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.gateway.admin import shapes
from antiphon.gateway.operation import Operation, OperationCall
from antiphon.governance.identity.principal import Allowance, Limits, check_grant

Names = Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=240)], ...], msgspec.Meta(max_length=64)]


Quota = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000_000)] | None


class Allow(msgspec.Struct, frozen=True):
    """Quotas of a key; ``null`` is without bound. ``priority``: it may ask for that service tier."""

    requests_per_minute: Quota = None
    tokens_per_minute: Quota = None
    tokens_per_day: Quota = None
    priority: bool = False

    def allowance(self) -> Allowance:
        return Allowance(self.requests_per_minute, self.tokens_per_minute, self.tokens_per_day, self.priority)


class Create(msgspec.Struct, frozen=True):
    """Principal, role and uses of a new key; empty lists confine it to nothing."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    role: Literal["admin", "engineer", "service", "viewer"]
    expires_at: datetime | None = None
    actions: Names = ()
    resources: Names = ()
    allowance: Allow = Allow()


class ApprovalRequest(msgspec.Struct, frozen=True):
    """The reason, for the record."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]


class RotationRequest(msgspec.Struct, frozen=True):
    """For how long the present key holds beside the new one."""

    overlap: Annotated[str, msgspec.Meta(max_length=20)] = "1h"


def _list(call: OperationCall) -> shapes.KeyList:
    return shapes.KeyList(shapes.read_all(call.services.access.identity.list(call.scope.tenant), shapes.KeyLine))


def _show(call: OperationCall) -> shapes.KeyLine:
    return shapes.read(call.services.access.identity.show(call.scope.tenant, call.path["key"]), shapes.KeyLine)


def _create(call: OperationCall) -> shapes.NewKey:
    body: Create = call.body
    limits = Limits(body.actions, body.resources)
    check_grant(call.principal.limits, limits)
    key, record = call.services.access.identity.create(
        call.scope.tenant,
        body.name,
        body.role,
        body.expires_at,
        by=call.principal,
        limits=limits,
        allowance=body.allowance.allowance(),
    )
    return shapes.NewKey(key, shapes.read(record, shapes.KeyLine))


def _allow(call: OperationCall) -> shapes.KeyLine:
    body: Allow = call.body
    allowed = call.services.access.identity.allow(
        call.scope.tenant, call.path["key"], body.allowance(), by=call.principal.id
    )
    return shapes.read(allowed, shapes.KeyLine)


def _use(call: OperationCall) -> shapes.KeyUse:
    record = call.services.access.identity.show(call.scope.tenant, call.path["key"])
    allowance: Allowance = record.allowance
    used = call.services.access.quotas.used(call.scope.tenant, allowance.bucket or record.id, allowance.meters)
    return shapes.KeyUse(shapes.read(allowance, shapes.KeyAllowance), {name: round(used[name]) for name in used})


def _rotate(call: OperationCall) -> shapes.RotatedKey:
    body: RotationRequest = call.body
    rotated = call.services.access.identity.rotate(
        call.scope.tenant,
        call.path["key"],
        parse_duration(body.overlap),
        by=call.principal,
        granting=call.principal.limits,
    )
    return shapes.RotatedKey(
        rotated.key, shapes.read(rotated.record, shapes.KeyLine), shapes.read(rotated.replaced, shapes.KeyLine)
    )


def _approve(call: OperationCall) -> shapes.KeyLine:
    approved = call.services.access.identity.approve(
        call.scope.tenant, call.path["key"], by=call.principal, reason=call.body.reason
    )
    return shapes.read(approved, shapes.KeyLine)


def _revoke(call: OperationCall) -> shapes.KeyLine:
    return shapes.read(
        call.services.access.identity.revoke(call.scope.tenant, call.path["key"], by=call.principal.id), shapes.KeyLine
    )


OPERATIONS = (
    Operation("GET", "/admin/keys", "List API keys.", "administer", shapes.KeyList, _list),
    Operation(
        "POST",
        "/admin/keys",
        "Make an API key; it is shown once. Outside of dev one for somebody else waits for another's approval.",
        "administer",
        shapes.NewKey,
        _create,
        body=Create,
        status=201,
    ),
    Operation("GET", "/admin/keys/{key}", "Show an API key's record.", "administer", shapes.KeyLine, _show),
    Operation("GET", "/admin/keys/{key}/use", "What a key may use and has used.", "administer", shapes.KeyUse, _use),
    Operation(
        "POST",
        "/admin/keys/{key}/allowance",
        "Give a key other quotas; in force within a second, and what it has used stays used.",
        "administer",
        shapes.KeyLine,
        _allow,
        body=Allow,
    ),
    Operation(
        "POST",
        "/admin/keys/{key}/rotate",
        "Make a key like this one (an id, or a principal with one key); this one expires after the overlap.",
        "administer",
        shapes.RotatedKey,
        _rotate,
        body=RotationRequest,
        status=201,
    ),
    Operation(
        "POST",
        "/admin/keys/{key}/approve",
        "Let a key that somebody else made open what it is for.",
        "approve",
        shapes.KeyLine,
        _approve,
        body=ApprovalRequest,
    ),
    Operation(
        "DELETE",
        "/admin/keys/{key}",
        "Revoke an API key; it stops working within a second.",
        "administer",
        shapes.KeyLine,
        _revoke,
    ),
)
