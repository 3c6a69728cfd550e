"""Secrets in the URLs of servers: refused wherever a setting or a source names one, and never repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.core.outgoing import holds_secret
from antiphon.core.settings_sections import CatalogSettings
from antiphon.definitions.source import Source
from antiphon.features.lake.bucket import S3Place
from antiphon.features.online.redis.server import require_url as require_redis
from antiphon.features.streaming.nats_access import require_url as require_nats
from antiphon.services.project.credentials import catalog_access

SECRET = "hunter2"


def _catalog(url: str) -> object:
    return catalog_access(CatalogSettings(url=url), Path())


def _source(url: str) -> None:
    found = list(Source.table("orders", url=url, table="orders", event_time="at").mistakes())
    if found:
        raise InvalidInputError(" ".join(found))


@pytest.mark.parametrize(
    "query",
    [
        "password=hunter2",
        "sslmode=require&sslpassword=hunter2",
        "PASSWORD=hunter2",
        "pass%77ord=hunter2",
        "x=1#&password=hunter2",
        "scram_client_key=hunter2",
    ],
)
@pytest.mark.parametrize(
    ("open_it", "url"),
    [
        (_catalog, "postgresql://antiphon@db.internal/desk"),
        (_catalog, "postgresql:///desk"),
        (_source, "postgresql://reader@db.internal/desk"),
        (require_redis, "redis://cache:6379/0"),
        (require_nats, "nats://log:4222"),
    ],
)
def test_a_secret_in_the_query_of_a_url_is_refused(open_it: object, url: str, query: str) -> None:
    with pytest.raises(InvalidInputError, match="holds a password") as refused:
        open_it(f"{url}?{query}")  # type: ignore[operator]
    assert SECRET not in _told(refused.value)


@pytest.mark.parametrize(
    ("open_it", "url"),
    [
        (_catalog, "postgresql://antiphon:hunter2@db.internal/desk"),
        (_catalog, "postgresql://antiphon:hun/ter2?@db.internal/desk"),
        (_source, "postgresql://reader:hunter2@db.internal/desk"),
        (require_redis, "redis://:hunter2@cache/0"),
        (require_redis, "//me:hunter2@cache/0"),
        (require_nats, "nats://me:hunter2@log"),
        (require_nats, "http://me:hunter2@log"),
    ],
)
def test_a_password_beside_the_user_is_refused(open_it: object, url: str) -> None:
    with pytest.raises(InvalidInputError, match="holds a password") as refused:
        open_it(url)  # type: ignore[operator]
    assert "ter2" not in _told(refused.value)


def test_what_else_a_url_says_that_is_not_understood_is_named_without_its_value() -> None:
    with pytest.raises(InvalidInputError, match="passwd in the URL is not understood") as refused:
        require_nats("nats://log?passwd=hunter2")
    assert SECRET not in _told(refused.value)
    for place in ("s3://lake/features?password=hunter2", "s3://lake/p?endpoint=http://me:hunter2@10.0.0.1"):
        with pytest.raises(InvalidInputError) as refused_bucket:
            S3Place.of(place)
        assert SECRET not in _told(refused_bucket.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://antiphon@db:5432/desk?passfile=/run/secrets/pgpass&sslkey=/run/secrets/client.key",
        "postgresql://antiphon@/desk?host=10.0.0.5:5432&host=10.0.0.6:5432&target_session_attrs=read-write",
        "postgresql://antiphon@[::1]:5432/desk?application_name=password",
        "redis://features@10.0.0.7:6379/0",
        "unix:///run/redis.sock",
        "nats://me@10.0.0.1:4222,10.0.0.2:4222?replicas=3",
    ],
)
def test_paths_of_files_and_whole_clusters_are_no_secrets(url: str) -> None:
    assert not holds_secret(url)


def _told(error: AntiphonError) -> str:
    return f"{error} {error.where} {error.next_step}"
