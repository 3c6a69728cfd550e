"""Applications that answer from store alone: each mode ends by itself, and belongs to its scope and principal."""

from __future__ import annotations

from datetime import timedelta

import msgspec
from tests.unit.catalog.examples import NOON

from antiphon.catalog.database import Database
from antiphon.catalog.serving.precomputed_modes import PrecomputedMode, PrecomputedModes
from antiphon.core.clock import ManualClock
from antiphon.core.scope import Scope

DEV, PROD, OTHER = Scope("shop", "dev"), Scope("shop", "prod"), Scope("bank", "dev")


def test_a_mode_lasts_until_it_is_ended_or_its_time_is_over(database: Database, clock: ManualClock) -> None:
    modes = PrecomputedModes(database)
    desk = PrecomputedMode("desk", "ada", "the engine is slow", NOON + timedelta(hours=1))
    triage = msgspec.structs.replace(desk, application="triage", until=NOON + timedelta(hours=2))
    with database.transaction() as connection:
        for mode in (triage, desk):
            modes.put(DEV, mode, within=connection)
    assert modes.list(DEV) == (desk, triage)
    assert [modes.find(scope, "desk") for scope in (DEV, PROD, OTHER)] == [desk, None, None]
    clock.advance(timedelta(hours=1, seconds=1))
    assert modes.list(DEV) == (triage,)
    assert modes.find(DEV, "desk") is None
    with database.transaction() as connection:
        modes.end(DEV, msgspec.structs.replace(triage, principal="bob"), within=connection)
        assert modes.find(DEV, "triage", within=connection) == triage, "it is another's"
        modes.end(DEV, triage, within=connection)
    assert modes.list(DEV) == ()


def test_a_principal_replaces_its_own_mode(database: Database, clock: ManualClock) -> None:
    modes = PrecomputedModes(database)
    mode = PrecomputedMode("desk", "ada", "the engine is slow", NOON + timedelta(hours=1))
    longer = msgspec.structs.replace(mode, until=NOON + timedelta(hours=3))
    for one in (mode, longer):
        with database.transaction() as connection:
            modes.put(DEV, one, within=connection)
    assert modes.list(DEV) == (longer,)
