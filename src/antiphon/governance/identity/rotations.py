"""Rotations that are taken back: the key that was replaced holds again, and the one that took its place never does."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.core.clock import microseconds
from antiphon.governance.identity.key_records import is_key
from antiphon.governance.identity.keys import Keys


def take_back(
    keys: Keys, tenant: str, key: str, successor: str, expires_at: datetime | None, *, within: Connection
) -> bool:
    """Take a rotation back, unless either key was revoked or rotated since; tells whether it was.

    Args:
        expires_at: of the key before it was rotated.
    """
    replaced, new = keys.get(tenant, key, within=within), keys.get(tenant, successor, within=within)
    if replaced.replaced_by != new.id or new.replaced_by is not None or replaced.revoked_at or new.revoked_at:
        return False
    keys.revoke(tenant, new.id, within=within)
    end = None if expires_at is None else microseconds(expires_at)
    within.execute(update(schema.api_keys).where(*is_key(tenant, replaced.id)).values(expires_at=end, replaced_by=None))
    return True
