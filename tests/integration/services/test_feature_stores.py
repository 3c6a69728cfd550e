"""A whole project whose features are kept on servers: wired by its settings, encrypted, looked after."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from tests.chaos.harness.chaos_project import write_project
from tests.integration.services.test_encryption import (  # noqa: F401  # the same tests, on this module's project
    PASSPHRASE,
    WORD,
    encrypted,
    test_every_key_can_be_replaced_and_old_ones_are_needed_no_more,
    test_into_encryption_and_out_of_it_everything_reads_the_same,
)
from tests.servers import RedisProcess, S3Process
from typer.testing import CliRunner

from antiphon.cli.main import assemble
from antiphon.core.errors import SetupError
from antiphon.definitions.objects import ObjectStore
from antiphon.features.offline.point_in_time.join import point_in_time
from antiphon.governance.encryption import keyring
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisProcess]:
    with RedisProcess() as process:
        yield process


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Process]:
    with S3Process() as process:
        process.make_bucket()
        yield process


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis: RedisProcess, bucket: S3Process) -> Iterator[Path]:
    import redis as client

    with client.Redis(port=redis.port) as opened:
        opened.flushall()
        monkeypatch.setattr(keyring, "N", 2**10)
        monkeypatch.setenv("ANTIPHON_PASSPHRASE", PASSPHRASE["ANTIPHON_PASSPHRASE"])
        monkeypatch.setenv("ANTIPHON_FEATURES__ONLINE", redis.url)
        monkeypatch.setenv("ANTIPHON_FEATURES__LAKE", bucket.url.replace("/features?", f"/{tmp_path.name}?"))
        monkeypatch.setenv("LAKE_ACCESS", bucket.access_key)
        monkeypatch.setenv("LAKE_SECRET", bucket.secret_key)
        monkeypatch.setenv("ANTIPHON_FEATURES__LAKE_ACCESS_KEY_VARIABLE", "LAKE_ACCESS")
        monkeypatch.setenv("ANTIPHON_FEATURES__LAKE_SECRET_KEY_VARIABLE", "LAKE_SECRET")
        project = write_project(tmp_path / "project", "simulated").root
        yield project
        kept_here = [*(project / ".antiphon").glob("online/**/*.mdb"), *(project / ".antiphon").glob("lake/*/*/*/*")]
        assert not kept_here, "it was to be kept elsewhere"
        if 'mode = "encrypted"' in (project / "antiphon.toml").read_text():
            stored = [
                value
                for key in opened.scan_iter(match="*:snap_*", count=1_000)
                for value in (opened.hvals(key) if opened.type(key) == b"hash" else [opened.get(key)])
            ]
            assert len(stored) > 2
            assert not any(WORD in value for value in stored)
            assert bucket.contents(tmp_path.name)
            assert not any(WORD in content for content in bucket.contents(tmp_path.name))


def doctor(root: Path) -> dict[str, object]:
    found = CliRunner().invoke(assemble(), ["doctor", "--project", str(root), "--json"])
    lines = {line["check"]: line for line in json.loads(found.stdout)}
    return lines["stores"]


def test_doctor_asks_whether_the_stores_answer(
    root: Path, redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"at {redis.url}, lake s3://lake/" in str(doctor(root)["found"])
    monkeypatch.setenv("ANTIPHON_FEATURES__ONLINE", "redis://127.0.0.1:1/0")
    wrong = doctor(root)
    assert "does not answer" in str(wrong["problem"])
    assert "[features] online" in str(wrong["next_step"])
    monkeypatch.setenv("ANTIPHON_FEATURES__ONLINE", redis.url)
    monkeypatch.setenv("ANTIPHON_FEATURES__ONLINE_PASSWORD_VARIABLE", "NOT_SET")
    assert "NOT_SET is not set" in str(doctor(root)["problem"])
    monkeypatch.delenv("ANTIPHON_FEATURES__ONLINE_PASSWORD_VARIABLE")
    monkeypatch.delenv("ANTIPHON_FEATURES__ONLINE")
    assert "online LMDB, lake s3://lake/" in str(doctor(root)["found"])
    monkeypatch.setenv("LAKE_SECRET", "wrong")
    assert "refuses access" in str(doctor(root)["problem"])
    monkeypatch.setenv("ANTIPHON_FEATURES__LAKE", "s3://absent/p?endpoint=http://127.0.0.1:1")
    assert "does not answer" in str(doctor(root)["problem"])
    monkeypatch.delenv("ANTIPHON_FEATURES__LAKE")
    assert "lake in the project's folder" in str(doctor(root)["found"])


def test_a_url_with_a_password_in_the_settings_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_FEATURES__ONLINE", "redis://:hunter2@127.0.0.1/0")
    problem = doctor(root)["problem"]
    assert "holds a password" in str(problem)
    assert "hunter2" not in str(problem)


def test_without_the_named_password_nothing_starts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_FEATURES__ONLINE_PASSWORD_VARIABLE", "NOT_SET")
    store = Store.open(root)
    platform = FeaturePlatform(store)
    try:
        with pytest.raises(SetupError, match="NOT_SET"):
            platform.reader(store.scope)
    finally:
        platform.close()
        store.close()


def test_sources_of_objects_are_read_from_the_store_of_the_lake(root: Path, bucket: S3Process) -> None:
    client = bucket.client()
    client.put_object(
        Bucket=bucket.bucket, Key=f"{root.name}/rides.csv", Body=b"rider,at\na,2024-01-01\nb,2024-01-02\n"
    )
    client.close()
    (root / "definitions.py").write_text(
        "from antiphon import Entity, Source, count, feature_view\n"
        f"rides = Source.table('rides', path='s3://{bucket.bucket}/{root.name}/*.csv', event_time='at')\n"
        "@feature_view(entity=Entity('rider', ['rider']), source=rides)\nclass Rides:\n    week = count(window='7d')\n"
    )
    applied = CliRunner().invoke(assemble(), ["apply", "--project", str(root), "--json"])
    assert applied.exit_code == 0, applied.output
    store = Store.open(root)
    platform = FeaturePlatform(store)
    try:
        (view,) = platform.views().values()
        assert view.source.store == ObjectStore(bucket.endpoint, None, "LAKE_ACCESS", "LAKE_SECRET")
        frame = pa.table({"rider": ["b"], "as_of": ["2024-01-03T00:00:00Z"]})
        joined = point_in_time(frame, [view], scope=store.scope, limits=platform.limits)
        assert joined.column("rides.week").to_pylist() == [1]
        assert list((root / ".antiphon" / "lake" / ".scratch").iterdir()) == []
    finally:
        platform.close()
        store.close()
