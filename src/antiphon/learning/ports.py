"""What this room needs from others, apart from the catalog's repositories and the lake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from antiphon.catalog.receipts import Receipt, Role
from antiphon.catalog.releases import Release
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.governance.identity.principal import Principal


class Applications(Protocol):
    """Applications as they are declared now."""

    def get(self, scope: Scope, name: str) -> ApplicationSpec:
        """One application; raises ``NotFoundError``."""
        ...


class MayTrain(Protocol):
    """Asks policy whether somebody may train an application on the features that it reads, for its purpose."""

    def __call__(self, scope: Scope, principal: str, application: ApplicationSpec, by: Principal | None) -> None:
        """Raises ``ForbiddenError``. Without ``by`` only what holds for everybody is asked: purposes."""
        ...


class Withheld(Protocol):
    """Policy about what may be learned from: entities and moments (seconds since 1970)."""

    def __call__(
        self, scope: Scope, application: str, keys: Sequence[str], rows: Sequence[tuple[Sequence[str], int]]
    ) -> tuple[str, Sequence[str | None]]:
        """The digest of the policies, and for each row why it must be left out, or ``None``."""
        ...


class ReceiptReader(Protocol):
    """Receipts, for reading."""

    def get(self, scope: Scope, prediction: str) -> Receipt:
        """One receipt; raises ``NotFoundError``."""
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
        """One release; raises ``NotFoundError``."""
        ...


class DefinitionReader(Protocol):
    """Definition versions of views, for reading."""

    def get(self, scope: Scope, view: str, version: str) -> FeatureViewSpec:
        """One definition; raises ``NotFoundError``."""
        ...
