from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.learning.models import ModelFile, ModelVersion, ModelVersions
from antiphon.core.clock import ManualClock
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope


def version(number: int, **fields: Any) -> ModelVersion:
    given: dict[str, Any] = {
        "id": f"desk.v{number}",
        "scope": DEV,
        "application": "desk",
        "number": number,
        "base": "smollm2-135m",
        "base_sha256": "b" * 64,
        "dataset": "data_1",
        "dataset_hash": "d" * 64,
        "replay_datasets": (),
        "parent": None,
        "recipe": {"rank": 16, "learning_rate": 1e-3, "precision": "q8_0"},
        "identity": f"identity {number}",
        "code": "c",
        "adapter": ModelFile("desk/v1/adapter.safetensors", "a" * 64, 10),
        "weights": ModelFile(f"desk/v{number}/model.gguf", f"{number}" * 64, 20),
        "losses": ((1, 0.9), (2, 0.5)),
        "seconds": 1.5,
        "environment": {"torch": "2"},
        "run": "run_1",
        "created_at": NOON,
    }
    return ModelVersion(**(given | fields))


def test_a_version_comes_back_as_it_was(database: Database) -> None:
    models = ModelVersions(database)
    assert models.next_number(DEV, "desk") == 1
    first = models.add(version(1))
    assert models.get(DEV, "desk.v1") == first == version(1)
    assert models.next_number(DEV, "desk") == 2
    models.add(version(2, parent="desk.v1"))
    models.add(version(1, id="other.v1", application="other", identity="other"))
    assert [found.id for found in models.list(DEV, "desk")] == ["desk.v2", "desk.v1"]
    assert [found.id for found in models.list(DEV)] == ["desk.v2", "desk.v1", "other.v1"]
    assert models.list(OTHER) == []
    with pytest.raises(NotFoundError, match=r"desk\.v1"):
        models.get(OTHER, "desk.v1")


def test_tenants_are_those_that_have_versions_in_the_environment(database: Database) -> None:
    models = ModelVersions(database)
    assert models.tenants("dev") == []
    for scope in (Scope("acme", "dev"), Scope("acme", "prod"), DEV, Scope("later", "prod")):
        models.add(version(1, scope=scope))
    models.add(version(2))
    assert models.tenants("dev") == ["acme", DEV.tenant]


def test_registering_again_changes_nothing(database: Database) -> None:
    models = ModelVersions(database)
    first = models.add(version(1))
    again = models.add(version(1, seconds=9.0, created_at=NOON + timedelta(hours=1)))
    assert again == first == models.get(DEV, "desk.v1")


@pytest.mark.parametrize("fields", [{"identity": "another"}, {"id": "desk.v1b", "identity": "another"}])
def test_a_taken_id_or_number_is_refused(database: Database, fields: dict[str, str]) -> None:
    models = ModelVersions(database)
    models.add(version(1))
    with pytest.raises(ConflictError, match="version 1 already"):
        models.add(version(1, **fields))
    assert models.list(DEV, "desk") == [version(1)]


def test_a_refused_version_does_not_end_the_transaction_around_it(database: Database) -> None:
    models = ModelVersions(database)
    models.add(version(1))
    with database.transaction() as connection:
        with pytest.raises(ConflictError):
            models.add(version(1, identity="another"), within=connection)
        models.add(version(models.next_number(DEV, "desk", within=connection)), within=connection)
    assert len(models.list(DEV, "desk")) == 2


def test_an_alias_moves_and_keeps_its_history(database: Database, clock: ManualClock) -> None:
    models = ModelVersions(database)
    for number in (1, 2):
        models.add(version(number))
    assert models.aliased(DEV, "desk", "champion") is None
    models.alias(DEV, "desk", "champion", "desk.v1", "me", "first")
    clock.advance(timedelta(minutes=1))
    moved = models.alias(DEV, "desk", "champion", "desk.v2", "you", "better")
    assert models.alias(DEV, "desk", "champion", "desk.v2", "he", "again") == moved
    models.alias(DEV, "desk", "latest", "desk.v2", "me", "")
    named = models.aliased(DEV, "desk", "champion")
    assert named is not None
    assert named.id == "desk.v2"
    moves = models.aliases(DEV, "desk")
    assert [(move.sequence, move.model, move.principal, move.reason) for move in moves["champion"]] == [
        (1, "desk.v1", "me", "first"),
        (2, "desk.v2", "you", "better"),
    ]
    assert moves["champion"][1].at == NOON + timedelta(minutes=1)
    assert sorted(moves) == ["champion", "latest"]
    assert models.aliases(OTHER, "desk") == {}


def test_an_alias_names_a_version_of_its_application(database: Database) -> None:
    models = ModelVersions(database)
    models.add(version(1, id="other.v1", application="other"))
    with pytest.raises(NotFoundError, match="not one of 'desk'"):
        models.alias(DEV, "desk", "champion", "other.v1", "me", "")
    with pytest.raises(NotFoundError):
        models.alias(DEV, "desk", "champion", "desk.v9", "me", "")
    with pytest.raises(InvalidInputError, match="cannot be an alias"):
        models.alias(DEV, "other", "The Champion", "other.v1", "me", "")
    assert models.aliases(DEV, "desk") == {}
