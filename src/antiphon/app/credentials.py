"""Credentials of stores: never in a file of settings, always in an environment variable that a setting names."""

from __future__ import annotations

import os

from antiphon.core.errors import SetupError


def secret(variable: str | None, field: str) -> str | None:
    """What the environment variable holds that a setting names; ``None`` when it names none.

    Raises:
        SetupError: it is not set.
    """
    if variable is None:
        return None
    value = os.environ.get(variable)
    if not value:
        raise SetupError(
            f"The environment variable {variable} is not set.",
            where=f"[features] {field}",
            next_step="Set it where the gateway and the worker start.",
        )
    return value
