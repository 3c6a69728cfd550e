"""API keys of the tenant."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from antiphon.gateway.admin import shapes
from antiphon.gateway.operation import Call, Operation


class Create(msgspec.Struct, frozen=True):
    """A name to recognise it by, and what it may do."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    role: Literal["admin", "engineer", "service", "viewer"]
    expires_at: datetime | None = None


def _list(call: Call) -> shapes.KeyList:
    return shapes.KeyList(shapes.read_all(call.services.keys.list(call.scope.tenant), shapes.KeyLine))


def _create(call: Call) -> shapes.NewKey:
    wanted: Create = call.body
    key, record = call.services.keys.create(
        call.scope.tenant, wanted.name, wanted.role, wanted.expires_at, by=call.principal.id
    )
    return shapes.NewKey(key, shapes.read(record, shapes.KeyLine))


def _revoke(call: Call) -> shapes.KeyLine:
    return shapes.read(
        call.services.keys.revoke(call.scope.tenant, call.path["key"], by=call.principal.id), shapes.KeyLine
    )


OPERATIONS = (
    Operation("GET", "/admin/keys", "List API keys.", "administer", shapes.KeyList, _list),
    Operation(
        "POST",
        "/admin/keys",
        "Make an API key; it is shown once.",
        "administer",
        shapes.NewKey,
        _create,
        body=Create,
        status=201,
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
