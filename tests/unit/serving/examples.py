"""Values that serving's unit tests begin with."""

from __future__ import annotations

from antiphon.catalog.releases import Bundle, ModelPin, Release
from antiphon.definitions.application import ApplicationSpec
from antiphon.testing.small_desk import SCOPE, START


def release_of(application: ApplicationSpec, name: str = "rel_1") -> Release:
    bundle = Bundle(application, ModelPin(application.model, None), "p")
    return Release(name, SCOPE, 1, bundle, "h" * 64, "live", "author", "a test", START)
