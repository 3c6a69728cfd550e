"""Values that serving's unit tests begin with."""

from __future__ import annotations

from tests.harness.small_desk import SCOPE, START

from antiphon.catalog.releases.releases import Bundle, ModelPin, Release
from antiphon.definitions.application import ApplicationSpec


def release_of(application: ApplicationSpec, name: str = "rel_1") -> Release:
    bundle = Bundle(application, ModelPin(application.model, None), "p")
    return Release(name, SCOPE, 1, bundle, "h" * 64, "live", "author", "a test", START)
