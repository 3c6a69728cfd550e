"""A published view that drifts: rolled back to the snapshot before and held, held, or told of, as it declares."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.harness.drifting_view import drifting_view

from antiphon.services.watching.watcher import WATCHER


async def test_a_view_whose_values_drift_is_rolled_back_without_a_person(tmp_path: Path) -> None:
    with drifting_view(tmp_path, "roll_back") as view:
        found = await view.run()
        good, bad, after, later = found.snapshots
        assert (good != bad, after, later) == (True, good, good)
        assert found.held
        assert found.decision is not None
        assert (found.decision.decision, found.decision.to, found.decision.since_snapshot) == ("roll_back", good, bad)
        hold = view.project.store.holds.of(view.project.store.scope)["today"]
        assert (hold.principal, hold.reason) == (WATCHER, found.decision.sentence)
        shown = view.project.terminal("releases", "watch", "desk")
        assert "The view today is back at" in shown.out
        assert view.watcher.look() == 0


@pytest.mark.parametrize(("action", "held"), [("hold", True), ("tell", False), ("off", False)])
async def test_a_view_is_held_or_told_of_or_left_alone(tmp_path: Path, action: str, held: bool) -> None:
    with drifting_view(tmp_path, action) as view:
        found = await view.run()
        assert found.held is held
        assert (found.snapshots[1] == found.snapshots[2], found.snapshots[2] == found.snapshots[3]) == (True, held)
        assert (found.decision is None) is (action == "off")
