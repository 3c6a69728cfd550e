"""``antiphon notifications test`` is on the audit record with its reason, also where no receiver answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.cli.conftest import Run

CHANNEL = '\n[notifications.desk]\nkind = "webhook"\nurl = "http://127.0.0.1:9/"\nsecret_variable = "DESK_HOOK"\n'


def test_a_test_of_a_channel_is_on_the_audit_record(
    project: Path, antiphon: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESK_HOOK", "a secret of some length")
    settings = project / "antiphon.toml"
    settings.write_text(settings.read_text() + CHANNEL)
    tested = antiphon("notifications", "test", "desk", "--reason", "a new receiver")
    assert tested.code != 0
    (entry,) = antiphon("audit", "query", "--action", "notifications.test", "--json").json()
    assert (entry["subject"], entry["detail"]) == ("desk", {"reason": "a new receiver"})
