"""Tenants over a real catalog: made, suspended, resumed, deleted, and what is refused then."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.catalog.examples import manifest

from antiphon.catalog.batch.jobs import Jobs
from antiphon.catalog.database import Database
from antiphon.catalog.features.publications import Publications
from antiphon.catalog.features.snapshots import Snapshots
from antiphon.core.clock import ManualClock
from antiphon.core.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, OverloadedError
from antiphon.core.scope import Scope
from antiphon.durable.claims import ServedRuns
from antiphon.durable.runs import Runs
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.revocation import LEASE_SECONDS
from antiphon.governance.identity.tenants import LEASE_SECONDS as TERMS_SECONDS
from antiphon.governance.identity.tenants import LiveTenants, Tenant, TenantQuota, Tenants, TenantState

SECRET = bytes(range(32))
ACME = Scope("acme", "dev")


def change(database: Database, state: TenantState, tenant: str = "acme") -> Tenant:
    with database.transaction() as connection:
        return Tenants(database).change(tenant, state, reason="unpaid", by="ann", within=connection)


def test_a_tenant_is_made_once_and_listed_with_those_that_have_principals(database: Database) -> None:
    tenants = Tenants(database)
    Keys(database, SECRET).create("default", "ann", "admin")
    with database.transaction() as connection:
        made = tenants.create("acme", by="ann", within=connection)
        assert made.state == "active"
        for name, error in (("acme", ConflictError), ("default", ConflictError), ("a b", InvalidInputError)):
            with pytest.raises(error):
                tenants.create(name, by="ann", within=connection)
    assert tenants.list() == [made, Tenant("default", "active")]
    with pytest.raises(NotFoundError, match="no tenant 'globex'"):
        change(database, "suspended", "globex")


def test_a_suspended_tenant_is_refused_within_the_lease_and_goes_on_when_it_is_resumed(
    database: Database, clock: ManualClock
) -> None:
    keys = Keys(database, SECRET)
    text, _ = keys.create("acme", "bot", "service")
    other, _ = keys.create("default", "bot", "service")
    assert keys.authenticate(text).tenant == "acme"
    assert change(database, "suspended").reason == "unpaid"
    clock.advance(timedelta(seconds=LEASE_SECONDS + 0.01))
    assert keys.remembered(text) is None
    with pytest.raises(ForbiddenError, match="'acme' is suspended"):
        keys.authenticate(text)
    assert keys.authenticate(other).tenant == "default"
    change(database, "active")
    clock.advance(timedelta(seconds=LEASE_SECONDS + 0.01))
    assert keys.authenticate(text).tenant == "acme"


def test_runs_of_a_suspended_tenant_are_not_claimed(database: Database) -> None:
    runs, lease = Runs(database), timedelta(seconds=5)
    first = runs.submit(ACME, "refresh", {})
    Keys(database, SECRET).create("acme", "bot", "service")
    change(database, "suspended")
    assert runs.claim("worker", ServedRuns("dev"), lease) is None
    second = runs.submit(Scope("default", "dev"), "refresh", {})
    for fair, claimed in ((True, second), (False, None)):
        found = runs.claim("worker", ServedRuns("dev"), lease, fair=fair)
        assert (None if found is None else found.id) == claimed
    change(database, "active")
    found = runs.claim("worker", ServedRuns("dev"), lease)
    assert found is not None
    assert found.id == first


def test_deleting_cancels_the_runs_and_is_for_good(database: Database, clock: ManualClock) -> None:
    keys, runs, tenants = Keys(database, SECRET), Runs(database), Tenants(database)
    text, record = keys.create("acme", "bot", "service")
    under_way, waits = (runs.submit(ACME, "refresh", {"number": number}) for number in range(2))
    claimed = runs.claim("worker", ServedRuns("dev"), timedelta(seconds=5))
    assert claimed is not None
    under_way, waits = claimed.id, waits if claimed.id == under_way else under_way
    Snapshots(database).add(manifest("a1", ACME))
    Publications(database, notice=0).publish(ACME, {"a@v": "a1"}, expected=0, reason="r", principal="me")
    served = tenants.served("acme")
    assert (served.applications, served.published, served.runs) == (0, 1, 2)
    assert served
    assert not tenants.served("default")
    principal = keys.authenticate(text)
    assert keys.stop_reason(principal) is None
    change(database, "deleted")
    clock.advance(timedelta(seconds=LEASE_SECONDS + 0.01))
    assert runs.get(ACME, waits).status == "cancelled"
    assert runs.get(ACME, under_way).cancel_requested
    assert keys.stop_reason(principal) is not None
    with pytest.raises(ForbiddenError, match="'acme' is deleted"):
        keys.authenticate(text)
    for state in ("active", "suspended", "deleted"):
        with pytest.raises(ConflictError, match="is deleted"):
            change(database, state)
    with database.transaction() as connection, pytest.raises(ConflictError, match="which is deleted"):
        tenants.create("acme", by="ann", within=connection)
    assert record.tenant_state == "active"


def test_a_share_and_a_quota_are_in_force_within_their_lease(database: Database, clock: ManualClock) -> None:
    tenants, live = Tenants(database), LiveTenants(Tenants(database), clock)
    with database.transaction() as connection:
        made = tenants.create("acme", by="ann", share=2.0, quota=TenantQuota(stored_bytes=5), within=connection)
    assert tenants.get("acme") == made
    assert (live.share("acme"), live.stored_bytes("acme"), live.share("globex")) == (2.0, 5, 1.0)
    with database.transaction() as connection:
        tenants.set_terms("acme", share=3.0, quota=None, by="ann", within=connection)
    clock.advance(timedelta(seconds=TERMS_SECONDS + 0.01))
    assert (live.share("acme"), live.stored_bytes("acme")) == (3.0, 5)
    assert change(database, "suspended").share == 3.0
    clock.advance(timedelta(seconds=TERMS_SECONDS + 0.01))
    database.close()
    assert live.share("acme") in (1.0, 3.0), "an engine goes on while the catalog is away"


def test_only_a_deleted_tenant_is_marked_as_erased(database: Database) -> None:
    tenants = Tenants(database)
    with database.transaction() as connection:
        tenants.create("acme", by="ann", within=connection)
        with pytest.raises(ConflictError, match="'acme' is active"):
            tenants.mark_erased("acme", reason="-", by="ann", within=connection)
    change(database, "deleted")
    for _ in range(2):
        with database.transaction() as connection:
            assert tenants.mark_erased("acme", reason="-", by="ann", within=connection).state == "erased"
    with pytest.raises(ConflictError, match="is erased"):
        change(database, "active")


def test_a_tenant_has_as_many_open_batches_as_its_quota_allows(database: Database) -> None:
    tenants, jobs = Tenants(database), Jobs(database)

    def order(tenant: str) -> str:
        with database.transaction() as connection:
            tenants.require_room(tenant, within=connection)
            return jobs.create(
                Scope(tenant, "dev"), application="desk", release=None, input="rows", output="", principal="ann",
                total=1, within=connection,
            ).id  # fmt: skip

    with database.transaction() as connection:
        tenants.create("acme", by="ann", quota=TenantQuota(batches=2), within=connection)
    first, _ = order("acme"), order("acme")
    with pytest.raises(OverloadedError, match="2 batches that have not ended; its quota is 2"):
        order("acme")
    order("globex")
    jobs.set_status(ACME, first, "cancelled")
    order("acme")
