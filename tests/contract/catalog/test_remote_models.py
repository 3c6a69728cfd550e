from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.remote_models import RemoteModels, RemoteModelVersion
from antiphon.core.scope import Scope


@pytest.fixture
def models(database: Database) -> RemoteModels:
    return RemoteModels(database, DEV)


def version(sequence: int, name: str, engine: str = "main", model: str = "words") -> RemoteModelVersion:
    since = NOON + timedelta(minutes=sequence)
    return RemoteModelVersion(engine, model, sequence, name, "log-probabilities", "changed", "{}", since, since)


def add(database: Database, models: RemoteModels, *versions: RemoteModelVersion) -> None:
    with database.transaction() as connection:
        for one in versions:
            models.add(one, within=connection)


def test_the_versions_of_a_model_are_known_latest_first_and_by_moment(database: Database, models: RemoteModels) -> None:
    one, two, three = (version(number, name) for number, name in ((1, "a"), (2, "b"), (3, "a")))
    add(database, models, one, two, three, version(1, "z", model="others"), version(1, "y", engine="standby"))
    assert models.past("main", "words") == (three, two, one)
    assert models.past("main", "words", 1) == (three,)
    assert models.at("main", "words", NOON) is None
    assert models.at("main", "words", two.since) == two
    assert models.at("main", "words", NOON + timedelta(days=1)) == three
    assert [(one.engine, one.model, one.version) for one in models.list()] == [
        ("main", "others", "z"), ("main", "words", "a"), ("main", "words", "b"), ("main", "words", "a"),
        ("standby", "words", "y"),
    ]  # fmt: skip
    for other in (OTHER, Scope(environment="prod")):
        assert RemoteModels(database, other).list() == ()


def test_only_what_the_row_says_beside_the_version_changes(database: Database, models: RemoteModels) -> None:
    add(database, models, version(1, "a"), version(2, "b"))
    (present,) = models.past("main", "words", 1)
    with database.transaction() as connection:
        models.set(present, within=connection, accepted_by="ada", checked_at=NOON + timedelta(hours=1))
    expected = msgspec.structs.replace(present, accepted_by="ada", checked_at=NOON + timedelta(hours=1))
    assert models.past("main", "words") == (expected, version(1, "a"))
