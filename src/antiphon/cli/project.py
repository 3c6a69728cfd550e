"""A project as the commands see it: its stores, its services, and who is at the terminal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from antiphon.gateway.services import GatewayServices
    from antiphon.governance.identity.principal import Principal
    from antiphon.governance.policy.request import Action
    from antiphon.services.project.store import Store


@contextmanager
def stores(root: Path) -> Iterator[Store]:
    """The project's stores, closed at the end.

    Raises:
        NotFoundError: no project there. InvalidInputError: its settings are wrong.
    """
    from antiphon.services.project.store import open_store

    with open_store(root) as store:
        yield store


@asynccontextmanager
async def services(root: Path) -> AsyncIterator[tuple[GatewayServices, Store]]:
    """The services that the gateway has, in this process; the engine is reached through its socket."""
    from antiphon.app.wiring import open_project

    wired = open_project(root)
    try:
        yield wired.gateway_services(), wired.store
    finally:
        await wired.close()


def require_application(store: Store, name: str | None) -> None:
    """Refuse the name of an application that is not applied, for a list that would be empty of it.

    Raises:
        NotFoundError: with the name that may have been meant.
    """
    from antiphon.services.learning.outcomes import declared_applications

    if name:
        declared_applications(store)(store.scope, name)


def at_terminal(store: Store) -> Principal:
    """Returns the principal of the local user: an administrator, as they can read the project's secrets."""
    from antiphon.services.governance import identity

    return identity.at_terminal(store)


def allowed(store: Store, action: Action, resource: str) -> Principal:
    """Returns the local user's principal once policy allows the action; a refusal is recorded.

    Raises:
        ForbiddenError: it does not.
    """
    who = at_terminal(store)
    with refusals_on_record(store, who, action, resource):
        store.decider.require(who, action, resource, {"environment": store.scope.environment})
    return who


@contextmanager
def refusals_on_record(store: Store, who: Principal, action: Action, resource: str) -> Iterator[None]:
    """Keep evidence of what policy refuses within the block."""
    from antiphon.core.errors import ForbiddenError

    try:
        yield
    except ForbiddenError as error:
        detail = {"action": action, "code": error.code, "reason": error.what}
        store.audit.append(store.scope, who.id, "denied", resource, detail, outcome="denied")
        raise
