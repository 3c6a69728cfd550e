"""A project as the commands see it: its stores, its services, and who is at the terminal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from antiphon.core.errors import ForbiddenError, UnavailableError

if TYPE_CHECKING:
    from antiphon.gateway.services import GatewayServices
    from antiphon.governance.identity.principal import Principal
    from antiphon.governance.policy.request import Action
    from antiphon.services.features.platform import FeaturePlatform
    from antiphon.services.project.store import Store


def stores(root: Path) -> AbstractContextManager[Store]:
    """The project's stores, closed at the end; raises ``NotFoundError`` without a project there, ``InvalidInputError``
    when its settings are wrong."""
    from antiphon.services.project.store import open_store

    return open_store(root)


@contextmanager
def features_of(root: Path) -> Iterator[tuple[Store, FeaturePlatform]]:
    """The project's stores and its feature platform, closed at the end; raises as :func:`stores`."""
    from antiphon.services.features.platform import FeaturePlatform

    with stores(root) as store, closing(FeaturePlatform(store)) as platform:
        yield store, platform


@asynccontextmanager
async def services(root: Path) -> AsyncIterator[tuple[GatewayServices, Store]]:
    """The services that the gateway has, in this process; the engine is reached through its socket."""
    from antiphon.app.wiring import open_project

    wired = open_project(root)
    try:
        yield wired.gateway_services(), wired.store
    finally:
        await wired.close()


def require_worker(store: Store, what: str, otherwise: str) -> None:
    """Refuse to wait for a worker that does not run, with ``what`` is not done and how ``otherwise`` to order it;
    raises ``UnavailableError``."""
    from antiphon.operations.processes import statuses

    if not any(process.name == "worker" and process.alive for process in statuses(store.paths.run)):
        raise UnavailableError(
            f"No worker runs, so nothing would {what}.",
            where="worker",
            next_step=f"Start `antiphon up` in another terminal, or {otherwise}.",
        )


def require_application(store: Store, name: str | None) -> None:
    """Refuse the name of an application that is not applied, for a list that would be empty of it; raises
    ``NotFoundError`` with the name that may have been meant."""
    from antiphon.services.learning.outcomes import declared_applications

    if name:
        declared_applications(store)(store.scope, name)


def at_terminal(store: Store) -> Principal:
    """Returns the principal of the local user: an administrator, as they can read the project's secrets."""
    from antiphon.services.governance import identity

    return identity.at_terminal(store)


def allowed(store: Store, action: Action, resource: str) -> Principal:
    """Returns the local user's principal once policy allows the action; a refusal is recorded. Raises
    ``ForbiddenError`` then."""
    who = at_terminal(store)
    with refusals_on_record(store, who, action, resource):
        store.decider.require(who, action, resource, {"environment": store.scope.environment})
    return who


@contextmanager
def refusals_on_record(store: Store, who: Principal, action: Action, resource: str) -> Iterator[None]:
    """Keep evidence of what policy refuses within the block."""
    try:
        yield
    except ForbiddenError as error:
        detail = {"action": action, "code": error.code, "reason": error.what}
        store.audit.append(store.scope, who.id, "denied", resource, detail, outcome="denied")
        raise
