"""What this room needs from others, apart from the catalog's repositories and the lake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from antiphon.catalog.receipts import Receipt, Role
from antiphon.catalog.releases import Release
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.feature_view import FeatureViewSpec


class Applications(Protocol):
    """Applications as they are declared now."""

    def get(self, scope: Scope, name: str) -> ApplicationSpec:
        """One application; raises ``NotFound``."""
        ...


class ReceiptReader(Protocol):
    """Receipts, for reading."""

    def get(self, scope: Scope, prediction: str) -> Receipt:
        """One receipt; raises ``NotFound``."""
        ...


class ReceiptsOfSubject(ReceiptReader, Protocol):
    """Receipts, also by the subject they are about."""

    def list(
        self,
        scope: Scope,
        application: str | None = None,
        *,
        subject: str | None = None,
        roles: Sequence[Role] | None = None,
        limit: int = 50,
    ) -> Sequence[Receipt]:
        """Receipts, latest first."""
        ...


class ReleaseReader(Protocol):
    """Releases, for reading."""

    def get(self, scope: Scope, release: str) -> Release:
        """One release; raises ``NotFound``."""
        ...


class DefinitionReader(Protocol):
    """Definition versions of views, for reading."""

    def get(self, scope: Scope, view: str, version: str) -> FeatureViewSpec:
        """One definition; raises ``NotFound``."""
        ...
