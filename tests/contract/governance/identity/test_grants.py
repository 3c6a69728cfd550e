"""Grants over a real catalog: made once, in force until they end, the owner's to take away."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from antiphon.catalog.database import Database
from antiphon.core.clock import ManualClock
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.governance.identity.grants import Grants, TenantGrant

OWNER, GRANTEE = Scope("acme", "dev"), Scope("globex", "dev")


def offered(clock: ManualClock, grantee: str = "globex", **changes: object) -> TenantGrant:
    grant = TenantGrant(OWNER, "view", "orders", grantee, "internal", "shared", "ann", clock.now())
    return msgspec.structs.replace(grant, **changes)


def create(database: Database, grant: TenantGrant) -> None:
    with database.transaction() as connection:
        Grants(database).create(grant, within=connection)


def test_a_grant_is_seen_by_both_tenants_and_by_no_other(database: Database, clock: ManualClock) -> None:
    grants, made = Grants(database), offered(clock)
    create(database, made)
    create(database, offered(clock, "initech"))
    assert made.granted_name == "acme/orders"
    assert [one.grantee for one in grants.given(OWNER)] == ["globex", "initech"]
    assert grants.received(GRANTEE) == [made]
    for stranger in (Scope("hooli", "dev"), Scope("globex", "prod")):
        assert grants.received(stranger) == []
        assert grants.given(stranger) == []
    assert grants.find(GRANTEE, "view", "orders", "globex") is None, "what is read is not owned"


def test_a_grant_is_made_once_and_again_when_it_has_ended(database: Database, clock: ManualClock) -> None:
    create(database, offered(clock, until=clock.now() + timedelta(hours=1)))
    with pytest.raises(ConflictError, match="granted to 'globex' already"):
        create(database, offered(clock))
    clock.advance(timedelta(hours=1))
    create(database, offered(clock, reason="once more"))
    (found,) = Grants(database).given(OWNER)
    assert (found.reason, found.until) == ("once more", None)


def test_only_what_the_owner_granted_is_revoked(database: Database, clock: ManualClock) -> None:
    grants = Grants(database)
    create(database, offered(clock))
    with database.transaction() as connection:
        for scope, name, grantee in ((GRANTEE, "orders", "globex"), (OWNER, "other", "globex"), (OWNER, "orders", "x")):
            with pytest.raises(NotFoundError, match="is not granted"):
                grants.revoke(scope, "view", name, grantee, within=connection)
        assert grants.revoke(OWNER, "view", "orders", "globex", within=connection).grantee == "globex"
    assert grants.given(OWNER) == grants.received(GRANTEE) == []


def test_a_view_and_a_model_of_one_name_are_granted_apart(database: Database, clock: ManualClock) -> None:
    grants, view = Grants(database), offered(clock)
    model = msgspec.structs.replace(view, kind="model")
    create(database, view)
    create(database, model)
    assert grants.given(OWNER) == [model, view]
    with database.transaction() as connection:
        assert grants.revoke(OWNER, "view", "orders", "globex", within=connection) == view
    assert grants.received(GRANTEE) == [model]
