"""Who is asking: principals, their API keys, tokens and sessions, under one name for the other rooms."""

from __future__ import annotations

from antiphon.governance.key_records import KeyRecord
from antiphon.governance.keys import Keys
from antiphon.governance.principal import (
    KEY_SCOPE,
    NO_LIMITS,
    ORIGINATE,
    REVOKED,
    Clearance,
    Kind,
    Limits,
    Principal,
    Role,
    originator,
)
from antiphon.governance.revocation import LEASE_SECONDS, REVOCATION_BOUND_SECONDS

__all__ = [
    "KEY_SCOPE",
    "LEASE_SECONDS",
    "NO_LIMITS",
    "ORIGINATE",
    "REVOCATION_BOUND_SECONDS",
    "REVOKED",
    "Clearance",
    "KeyRecord",
    "Keys",
    "Kind",
    "Limits",
    "Principal",
    "Role",
    "originator",
]
