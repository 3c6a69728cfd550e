"""A view's name from its class's."""

from __future__ import annotations

import re


def snake_case(name: str) -> str:
    """``RouteHistory`` → ``route_history``, ``HTTPLoad2h`` → ``http_load2h``."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return parted.lower()
