"""Tenant and environment: carried by every key, path, row and message."""

from __future__ import annotations

import re

import msgspec

from antiphon.core.errors import InvalidInputError

ANY = "*"
"""The environment of what belongs to a whole tenant, and the tenant of what belongs to all."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")


class Scope(msgspec.Struct, frozen=True, order=True):
    """One tenant in one environment. Nothing crosses from one scope to another."""

    tenant: str = "default"
    environment: str = "dev"

    def __post_init__(self) -> None:
        for field, value in (("tenant", self.tenant), ("environment", self.environment)):
            if not _NAME.match(value):
                raise InvalidInputError(
                    f"{value!r} is not a {field} name.",
                    where=field,
                    next_step="Use lower-case letters, digits and hyphens, at most 63.",
                )

    def __str__(self) -> str:
        return f"{self.tenant}/{self.environment}"
