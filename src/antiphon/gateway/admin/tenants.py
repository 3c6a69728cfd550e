"""Tenants of the installation, for administrators of the tenant that runs it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from antiphon.gateway.admin.shapes import Quota, Reason, ReasonRequest, read, read_all
from antiphon.gateway.operation import OperationCall, operation
from antiphon.governance.identity.tenants import TenantQuota

Share = Annotated[float, msgspec.Meta(gt=0, le=1_000)]


class QuotaTerms(msgspec.Struct, frozen=True):
    """Bounds of a tenant, all of its principals together; what is left out has none."""

    requests_per_minute: Quota = None
    tokens_per_minute: Quota = None
    tokens_per_day: Quota = None
    stored_bytes: Quota = None
    batches: Quota = None


class NewTenant(msgspec.Struct, frozen=True):
    """The name of a new tenant, its share of the engine beside others, and its quota."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    share: Share = 1.0
    quota: QuotaTerms = QuotaTerms()


class TermsChange(msgspec.Struct, frozen=True):
    """Another share, another quota in the place of the present one, or both; the reason, for the record."""

    reason: Reason
    share: Share | None = None
    quota: QuotaTerms | None = None


class TenantDeletion(msgspec.Struct, frozen=True):
    """The reason, for the record; ``force`` deletes it also while something of it is served."""

    reason: Reason
    force: bool = False


class TenantLine(msgspec.Struct, frozen=True):
    """A tenant and who gave it its state, when and why."""

    id: str
    state: Literal["active", "suspended", "deleted", "erased"]
    reason: str
    changed_by: str | None
    changed_at: datetime | None
    share: float
    quota: QuotaTerms


class TenantList(msgspec.Struct, frozen=True):
    """By name."""

    tenants: tuple[TenantLine, ...]


@operation("GET", "/admin/tenants", "List tenants.", "administer")
def _list(call: OperationCall) -> TenantList:
    return TenantList(read_all(call.services.access.tenants.list(by=call.principal), TenantLine))


@operation("POST", "/admin/tenants", "Make a tenant.", "administer", status=201)
def _create(call: OperationCall, body: NewTenant) -> TenantLine:
    quota = read(body.quota, TenantQuota)
    made = call.services.access.tenants.create(body.name, by=call.principal, share=body.share, quota=quota)
    return read(made, TenantLine)


@operation("POST", "/admin/tenants/{tenant}/change", "Give a tenant another share or quota.", "administer")
def _change(call: OperationCall, body: TermsChange) -> TenantLine:
    quota = None if body.quota is None else read(body.quota, TenantQuota)
    change = call.services.access.tenants.set_terms
    return read(
        change(call.path["tenant"], reason=body.reason, by=call.principal, share=body.share, quota=quota), TenantLine
    )


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
